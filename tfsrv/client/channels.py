"""gRPC channels as the client wants them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

Option = tuple[str, Any]
Pem = bytes | str | os.PathLike[str]
"""A certificate or key: its PEM as bytes, or the path of a file with it."""

_OPTIONS: tuple[Option, ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that was away for a moment is found again soon; the waits grow all the same.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
    # The client repeats calls itself, and says which.
    ("grpc.enable_retries", 0),
    # Two clients of one process do not share a connection.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True)
class Tls:
    """How the server is known, and what it may know the client by.

    Without root certificates those that gRPC brings along count. `server_name` is what the
    certificate is issued to, if that is not the name in the address.
    """

    root_certificates: Pem | None = None
    private_key: Pem | None = None
    certificate_chain: Pem | None = None
    server_name: str = ""

    def loaded(self) -> Tls:
        """The same with what stands in the files. OSError for one that cannot be read."""
        return Tls(
            _content(self.root_certificates),
            _content(self.private_key),
            _content(self.certificate_chain),
            self.server_name,
        )

    def credentials(self) -> grpc.ChannelCredentials:
        """OSError for a file that cannot be read."""
        return grpc.ssl_channel_credentials(
            _content(self.root_certificates),
            _content(self.private_key),
            _content(self.certificate_chain),
        )

    def options(self) -> tuple[Option, ...]:
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()


def _content(pem: Pem | None) -> bytes | None:
    return pem if pem is None or isinstance(pem, bytes) else Path(pem).read_bytes()


def channel_options(tls: Tls | None, options: Sequence[Option]) -> list[Option]:
    """All options of a channel; what the caller gives counts."""
    given = {name for name, _ in options}
    own = (*_OPTIONS, *(tls.options() if tls else ()))
    return [*(option for option in own if option[0] not in given), *options]
