"""What can be set on a gRPC transport, native or portable."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GrpcSettings:
    """Limits of a gRPC server, named as gRPC's channel arguments if it has them; 0 is off."""

    max_receive_message_bytes: int = 2**31 - 1
    max_concurrent_streams: int = 1000
    max_connection_age_ms: int = 0
    max_connection_age_grace_ms: int = 0
    keepalive_time_ms: int = 0
    keepalive_timeout_ms: int = 20_000
    max_in_flight_bytes: int = 2**62
    # The native transport's patience. Connections and requests are looked at every `tick_ms`.
    preface_timeout_ms: int = 20_000  # until a connection has said HTTP/2
    unread_timeout_ms: int = 60_000  # for a client that reads nothing of what it is sent
    upload_timeout_ms: int = 120_000  # for a request that does not go on
    stall_timeout_ms: int = 5_000  # for both of these while others need the memory
    goaway_timeout_ms: int = 1_000  # between the notice that a client should go and the last word
    stream_grace_ms: int = 1_000  # from that notice to the end of streaming calls, when it stops
    tick_ms: int = 1_000


@dataclass(frozen=True)
class HttpSettings:
    """Limits of the HTTP server; 0 is off for times of requests."""

    max_body_bytes: int = 2**31 - 1  # as received
    max_handled_bytes: int = 1 << 20  # of bodies that Python is given, unpacked
    max_in_flight_bytes: int = 2**62
    request_timeout_ms: int = 30_000  # from the whole request to its answer
    enable_cors: bool = False
    # Patience. Connections are looked at every `tick_ms`.
    head_timeout_ms: int = 20_000  # for a request's head, and for a connection's first byte
    # Load balancers keep idle connections for up to 600 s and must be the first to close them.
    idle_timeout_ms: int = 650_000
    upload_timeout_ms: int = 120_000  # for a body that does not go on
    unread_timeout_ms: int = 60_000  # for a client that reads nothing of what it is sent
    stall_timeout_ms: int = 5_000  # for both of these while others need the memory
    linger_timeout_ms: int = 2_000  # from the last answer to the end, for the client to read it
    hangup_look_ms: int = 50  # after a client has sent its last, until we look whether it is gone
    tick_ms: int = 1_000
