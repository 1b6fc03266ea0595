"""What the server was asked to do: options, and the text files they name.

Values are checked here once, so that everybody below may take them as they are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfsrv.batching_parameters import BatchingParameters
from tfsrv.errors import Code, ServingError
from tfsrv.processors import cpus

MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC's and TensorFlow Serving's limit


@dataclass(frozen=True)
class GrpcChannelArguments:
    """gRPC's settings that this server knows, on either transport.

    Names and meanings are gRPC's (include/grpc/impl/channel_arg_names.h), without the prefix
    `grpc.`; None is gRPC's own default, which is no limit. `ignored` are those that we do not
    know, as they were given.
    """

    so_reuseaddr: bool = True
    # gRPC's default lets a second server take half of the connections of the first in silence.
    so_reuseport: bool = False
    max_connection_age_ms: int | None = None
    max_connection_age_grace_ms: int | None = None
    keepalive_time_ms: int | None = None
    keepalive_timeout_ms: int | None = None
    keepalive_permit_without_calls: bool = False
    max_concurrent_streams: int | None = None
    max_receive_message_length: int = MAX_MESSAGE_BYTES
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class LatestVersions:
    """The highest versions that can be loaded, and the broken ones above them."""

    num_versions: int = 1


@dataclass(frozen=True)
class AllVersions:
    """Every version."""


@dataclass(frozen=True)
class SpecificVersions:
    """These versions, as far as they are there."""

    versions: frozenset[int]


VersionPolicy = LatestVersions | AllVersions | SpecificVersions


@dataclass(frozen=True)
class ModelConfig:
    """One model to be served.

    `base_path` holds the versions as subdirectories named by numbers; with `only_version` it
    is itself one version, of that number. `version_labels` are (label, version), sorted. `place`
    is where the model was configured, such as FILE:LINE, for messages.
    """

    name: str
    base_path: str
    only_version: int | None = None
    platform: str = "tensorflow"
    version_policy: VersionPolicy = LatestVersions()
    version_labels: tuple[tuple[str, int], ...] = ()
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class MonitoringConfig:
    """What --monitoring_config_file says."""

    prometheus_enabled: bool = False
    prometheus_path: str = "/monitoring/prometheus/metrics"  # on the REST port


@dataclass(frozen=True)
class ServerOptions:
    """Everything that flags decide. Names are those of the flags, which explain them."""

    models: tuple[ModelConfig, ...] = ()
    model_config_file: str = ""
    # What was in the file when `models` were read from it, to tell later whether it has changed.
    model_config_content: bytes = field(default=b"", repr=False)
    model_config_file_poll_wait_seconds: int = 0
    source: str = ""  # NAME or NAME:ARGUMENT
    file_system_poll_wait_seconds: int = 1
    servable_versions_always_present: bool = True
    allow_version_labels_for_unavailable_models: bool = False
    saved_model_tags: tuple[str, ...] = ("serve",)

    num_load_threads: int = 0  # 0: half of the processors, two at least
    num_unload_threads: int = 0
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    aspired_version_policy: str = "availability_preserving"
    total_model_memory_limit_bytes: int = 0  # 0: no limit
    wait_for_models: float = 0.0  # seconds; 0: no waiting
    reload_timeout_seconds: float = 300.0
    enable_model_management: bool = False
    enable_reload_rpc: bool = True
    enable_session_service: bool = False

    port: int | None = 8500  # 0: any free port; None: no TCP
    grpc_socket_path: str = ""
    rest_api_port: int | None = None  # 0: any free port; None: no REST
    rest_api_timeout_in_ms: int = 30_000  # 0 and less: none
    rest_api_enable_cors_support: bool = False
    rest_api_num_threads: int = 4 * cpus()  # workers that read large bodies at a time
    bind_address: str = "0.0.0.0"
    open_ports: str = "at_once"
    grpc_transport: str = "auto"
    grpc_channel_arguments: GrpcChannelArguments = field(default_factory=GrpcChannelArguments)
    max_in_flight_bytes: int = 0  # 0 becomes half of the memory

    tensorflow_session_parallelism: int = 0
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    tensorflow_session_config_file: str = ""
    per_process_gpu_memory_fraction: float = 0.0
    xla_cpu_compilation_enabled: bool = False
    xla_gpu_compilation_enabled: bool = False
    op_libraries: tuple[str, ...] = ()
    enable_signature_method_name_check: bool = False
    enable_serialization_as_tensor_content: bool = False
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 0  # 0: once
    synthetic_warmup: bool = False

    batching: BatchingParameters | None = None  # --batching_parameters_file's; None: no batching
    enable_per_model_batching_parameters: bool = False
    batching_target_latency_ms: float = 0.0  # 0: none

    shutdown_grace_seconds: float = 25.0

    monitoring: MonitoringConfig = MonitoringConfig()
    enable_grpc_healthcheck_service: bool = True
    enable_reflection: bool = True

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, with TensorFlow Serving's texts where it has them."""
        if not (self.models or self.model_config_file or self.source):
            raise ServingError(
                Code.INVALID_ARGUMENT,
                "Both server_options.model_base_path and server_options.model_config_file"
                " are empty!",
            )
        parallelism = (
            self.tensorflow_session_parallelism,
            self.tensorflow_intra_op_parallelism,
            self.tensorflow_inter_op_parallelism,
        )
        if all(threads > 0 for threads in parallelism):
            raise ServingError(
                Code.INVALID_ARGUMENT,
                "Either configure server_options.tensorflow_session_parallelism or "
                "(server_options.tensorflow_intra_op_parallelism, "
                "server_options.tensorflow_inter_op_parallelism) separately. "
                "You cannot configure all.",
            )
        if self.max_in_flight_bytes <= 0:
            object.__setattr__(self, "max_in_flight_bytes", memory_bytes() // 2)


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or its control group's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit_file in (
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ):
        try:
            total = min(total, int(Path(limit_file).read_text()))
        except (OSError, ValueError):  # no such controller, or "max"
            continue
    return total


_TRUTHS = {"so_reuseaddr", "so_reuseport", "keepalive_permit_without_calls"}
_NUMBERS = {
    "max_connection_age_ms",
    "max_connection_age_grace_ms",
    "keepalive_time_ms",
    "keepalive_timeout_ms",
    "max_concurrent_streams",
    "max_receive_message_length",
}


def grpc_channel_arguments(text: str) -> GrpcChannelArguments:
    """Read `name=value,name=value`. Raises ServingError (INVALID_ARGUMENT).

    grpc_channel_arguments("grpc.max_concurrent_streams=100,grpc.so_reuseport=1")
    """
    known: dict[str, Any] = {}
    ignored: list[str] = []
    for argument in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = argument.partition("=")
        name = key.strip().removeprefix("grpc.")
        if not equals or not name:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"'{argument}' in grpc_channel_arguments is not name=value"
            )
        if name not in _TRUTHS | _NUMBERS:
            ignored.append(argument)
            continue
        known[name] = _channel_number(name, value.strip())
    return GrpcChannelArguments(**known, ignored=tuple(ignored))


def _channel_number(name: str, value: str) -> int | bool | None:
    if not value.removeprefix("-").isascii() or not value.removeprefix("-").isdigit():
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"'{value}' for grpc.{name} in grpc_channel_arguments is not a whole number",
        )
    number = int(value[:12])
    if name in _TRUTHS:
        return number != 0
    if name == "max_receive_message_length":
        # gRPC takes -1 as unlimited; protobuf goes no further than this.
        return MAX_MESSAGE_BYTES if number < 0 else min(number, MAX_MESSAGE_BYTES)
    if number < 0 or number >= MAX_MESSAGE_BYTES:
        return None  # gRPC's spelling of "never"
    if number == 0 and name != "max_connection_age_grace_ms":
        raise ServingError(
            Code.INVALID_ARGUMENT, f"grpc.{name} in grpc_channel_arguments must be over 0"
        )
    return number


def session_config(options: ServerOptions) -> bytes:
    """The serialized ConfigProto for every session.

    It is `tensorflow_session_config_file`'s, with what the flags say put over it. TensorFlow
    Serving puts flags over it that nobody gave, so that its file cannot set threads at all.
    Unless a part of the GPU's memory was asked for, it is taken as it is needed.
    """
    config = _read_config_proto(options.tensorflow_session_config_file)
    both = options.tensorflow_session_parallelism
    intra = options.tensorflow_intra_op_parallelism or both
    inter = options.tensorflow_inter_op_parallelism or both
    if intra:
        config.intra_op_parallelism_threads = intra
    if inter:
        config.inter_op_parallelism_threads = inter
    gpu = config.gpu_options
    if options.per_process_gpu_memory_fraction:
        gpu.per_process_gpu_memory_fraction = options.per_process_gpu_memory_fraction
    elif not gpu.per_process_gpu_memory_fraction:
        gpu.allow_growth = True
    serialized: bytes = config.SerializeToString()
    return serialized


def unreadable(path: str, error: OSError) -> ServingError:
    """What to say of a file that a flag names and that can't be read."""
    code = Code.INVALID_ARGUMENT
    if isinstance(error, FileNotFoundError):
        code = Code.NOT_FOUND
    elif isinstance(error, PermissionError):
        code = Code.PERMISSION_DENIED
    return ServingError(code, f"{path}; {error.strerror}")


def _read_config_proto(path: str) -> Any:
    from tfsrv import _proto  # protobuf takes a while to import, and flags are read before

    if not path:
        return _proto.message_class("tensorflow.ConfigProto")()
    try:
        return _proto.parse_text("tensorflow.ConfigProto", Path(path).read_bytes(), path)
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        raise ServingError(
            Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{path}' ({error})"
        ) from None
