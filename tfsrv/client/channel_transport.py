"""Calls through a channel of gRPC's: with TLS, proxies, its names and its balancing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from tfsrv.client.channels import Option, Tls, channel_options
from tfsrv.client.errors import ClientError, error_of_call
from tfsrv.errors import Code

Metadata = Sequence[tuple[str, str | bytes]]


class ChannelTransport:
    """Sends calls over one channel, from any number of threads.

    The channel is made by the first call, and closed with the transport; one that is given is
    used, and stays open.
    """

    def __init__(self, make: Callable[[], grpc.Channel], given: grpc.Channel | None) -> None:
        self._make = make
        self._given = given
        self._channel: Any = given
        self._callables: dict[str, Any] = {}
        self._lock = threading.Lock()  # two first calls make one channel
        self._is_closed = False

    def close(self) -> None:
        """Close the channel; calls under way end with CANCELLED."""
        with self._lock:
            self._is_closed = True
            self._callables.clear()
        if self._given is None and self._channel is not None:
            self._channel.close()

    def call(
        self,
        path: str,
        request: bytes,
        timeout: float | None,
        metadata: Metadata,
        wait_for_ready: bool = False,
    ) -> bytes:
        """The response. ClientError."""
        send = self._callables.get(path) or self._callable(path)
        try:
            response: bytes = send(
                request,
                timeout=timeout,
                metadata=metadata or None,
                wait_for_ready=wait_for_ready or None,
            )
        except grpc.RpcError as error:
            raise error_of_call(error, path) from None
        return response

    def future(
        self,
        path: str,
        request: bytes,
        timeout: float | None,
        metadata: Metadata,
        wait_for_ready: bool,
    ) -> Any:
        """The same without waiting: gRPC's future of the response."""
        send = self._callables.get(path) or self._callable(path)
        return send.future(
            request,
            timeout=timeout,
            metadata=metadata or None,
            wait_for_ready=wait_for_ready or None,
        )

    def _callable(self, path: str) -> Any:
        """gRPC's callable of a method, for bytes; made once."""
        with self._lock:
            if self._is_closed:
                raise ClientError(Code.CANCELLED, "The client is closed")
            if self._channel is None:
                self._channel = self._make()
            return self._callables.setdefault(path, self._channel.unary_unary(path))


def make_channel(
    target: str, tls: Tls | grpc.ChannelCredentials | None, options: Sequence[Option]
) -> grpc.Channel:
    """A channel with the client's options."""
    if tls is None:
        return grpc.insecure_channel(target, channel_options(None, options))
    if isinstance(tls, Tls):
        return grpc.secure_channel(target, tls.credentials(), channel_options(tls, options))
    return grpc.secure_channel(target, tls, channel_options(None, options))
