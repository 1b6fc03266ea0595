"""What can be set on a gRPC transport, native or portable."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GrpcSettings:
    """Limits of a gRPC server. Times of 0 are off; names are those of gRPC's channel arguments."""

    max_receive_message_bytes: int = 2**31 - 1
    max_concurrent_streams: int = 1000
    max_connection_age_ms: int = 0
    max_connection_age_grace_ms: int = 0
    keepalive_time_ms: int = 0
    keepalive_timeout_ms: int = 20_000
    max_in_flight_bytes: int = 2**62
