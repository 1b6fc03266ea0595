"""Every flag of the server, in one table.

Names, types and defaults are those of TensorFlow Serving's model_servers/main.cc, so that a
command line written for `tensorflow_model_server` works unchanged, or says in one sentence
what does not. Flags that are ours alone stand in the same table, marked `(Ours.)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tfsrv.processors import cpus

Value = bool | int | float | str
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


class Status(Enum):
    """What a flag does in this server."""

    WORKS = "works"
    WITHOUT_MEANING = "without meaning here"
    NOT_YET = "not built yet"
    NEVER = "not part of this server"


@dataclass(frozen=True)
class Flag:
    """One row of the table; the default's type is the flag's.

    `note` says why a flag does nothing or is not there. `also_fine` are values besides the
    default that a flag which is not built may have: they ask for what the server does anyway.
    """

    name: str
    default: Value
    help: str
    status: Status = Status.WORKS
    note: str = ""
    placeholder: str = ""  # what stands for the value in --help and in errors
    choices: tuple[str, ...] = ()
    bits: int = 32  # of an integer
    minimum: float | None = None
    maximum: float | None = None
    also_fine: tuple[Value, ...] = ()


_NO_MEANING, _NOT_YET, _NEVER = Status.WITHOUT_MEANING, Status.NOT_YET, Status.NEVER
_TFLITE = "TensorFlow Lite models are not served"

# By group, in the order of --help.
FLAG_GROUPS: dict[str, tuple[Flag, ...]] = {
    "Models": (
        Flag(
            "model_name",
            "default",
            "Name that requests use for the model under --model_base_path.",
            placeholder="NAME",
        ),
        Flag(
            "model_base_path",
            "",
            "Directory whose subdirectories, named by numbers, are the versions of the model.",
            placeholder="DIR",
        ),
        Flag(
            "model_config_file",
            "",
            "Text file with a ModelServerConfig: several models, their paths, versions and labels. "
            "It goes before --model_base_path. `tfsrv check FILE` looks for mistakes in it.",
            placeholder="FILE",
        ),
        Flag(
            "model_config_file_poll_wait_seconds",
            0,
            "Seconds between two readings of --model_config_file; 0 reads it once.",
            placeholder="SECONDS",
            minimum=0,
        ),
        Flag(
            "source",
            "",
            "Plug-in that tells of servables and their versions, beside the configured models; the "
            "argument is its own. (Ours.)",
            placeholder="NAME[:ARGUMENT]",
        ),
        Flag(
            "file_system_poll_wait_seconds",
            1,
            "Seconds between two looks for new versions; 0 looks once, less than 0 never.",
            placeholder="SECONDS",
        ),
        Flag(
            "servable_versions_always_present",
            True,
            "Keep what is loaded of a model whose base path has lost all of its versions. (Ours.)",
        ),
        Flag(
            "saved_model_tags",
            "serve",
            "Tags of the MetaGraph to load from a SavedModel, with commas between them.",
            placeholder="TAG,...",
        ),
        Flag(
            "allow_version_labels_for_unavailable_models",
            False,
            "Let a label point to a version that is not available yet.",
        ),
        Flag(
            "enable_reload_rpc",
            True,
            "Answer HandleReloadConfigRequest, which replaces the list of models. (Ours.)",
        ),
        Flag(
            "enable_model_management",
            False,
            "Answer RPCs that add, change, remove and list models, and PUT and DELETE of models by "
            "REST, on loopback addresses and unix sockets only. (Ours.)",
        ),
        Flag(
            "enable_session_service",
            False,
            "Answer SessionService.SessionRun, which runs any part of a model's graph. (Ours.)",
        ),
        Flag(
            "enable_model_warmup",
            True,
            "Replay assets.extra/tf_serving_warmup_requests before a version becomes available.",
        ),
        Flag(
            "num_request_iterations_for_warmup",
            0,
            "How often each warm-up request is replayed; 0 is once.",
        ),
        Flag(
            "synthetic_warmup",
            False,
            "Run made-up inputs of all sizes that batching uses on versions that have no warm-up "
            "requests. (Ours.)",
        ),
        Flag(
            "platform_config_file",
            "",
            "Text file with a PlatformConfigMap.",
            _NEVER,
            note="--tensorflow_session_config_file, --saved_model_tags and the flags for batching"
            " and warm-up say the same",
            placeholder="FILE",
        ),
        Flag(
            "flush_filesystem_caches",
            True,
            "Drop the models' files from the page cache after loading.",
            _NO_MEANING,
            note="the system drops those pages when it needs the memory",
        ),
        Flag(
            "remove_unused_fields_from_bundle_metagraph",
            True,
            "Keep only the signatures of a MetaGraphDef in memory.",
            _NO_MEANING,
            note="only the signatures are ever kept",
        ),
        Flag(
            "prefer_tflite_model",
            False,
            "Load model.tflite of a version in place of its SavedModel.",
            _NEVER,
            note=_TFLITE,
        ),
        Flag(
            "num_tflite_pools",
            cpus(),
            "Pools of TensorFlow Lite interpreters.",
            _NEVER,
            note=_TFLITE,
        ),
        Flag(
            "num_tflite_interpreters_per_pool",
            1,
            "TensorFlow Lite interpreters in a pool.",
            _NEVER,
            note=_TFLITE,
        ),
    ),
    "Loading": (
        Flag(
            "num_load_threads",
            0,
            "Threads that load versions; 0 is half of the processors, two at least.",
            minimum=0,
        ),
        Flag(
            "num_unload_threads",
            0,
            "Threads that unload versions; 0 is half of the processors, two at least.",
            minimum=0,
        ),
        Flag("max_num_load_retries", 5, "How often a failed load is tried again.", minimum=0),
        Flag(
            "load_retry_interval_micros",
            60_000_000,
            "Microseconds until a failed load is tried again; each next wait is twice as long, up "
            "to ten minutes. Less than 0 is none.",
            placeholder="MICROS",
            bits=64,
        ),
        Flag(
            "aspired_version_policy",
            "availability_preserving",
            "availability_preserving loads a new version before the old one goes; "
            "resource_preserving unloads the old one first, which needs less memory, and serves "
            "no version in between. (Ours.)",
            placeholder="POLICY",
            choices=("availability_preserving", "resource_preserving"),
        ),
        Flag(
            "total_model_memory_limit_bytes",
            0,
            "Memory that all loaded models may take together; 0 is no limit. (Ours.)",
            placeholder="BYTES",
            bits=64,
            minimum=0,
        ),
        Flag(
            "reload_timeout_seconds",
            300.0,
            "How long a call that changes the configuration waits for its models before it "
            "answers; they go on loading. (Ours.)",
            placeholder="SECONDS",
            minimum=0.0,
        ),
        Flag(
            "wait_for_models",
            0.0,
            "Exit with an error if a configured model is not available after so many seconds; "
            "0 goes on without it. (Ours.)",
            placeholder="SECONDS",
            minimum=0.0,
        ),
    ),
    "Listening": (
        Flag(
            "port",
            8500,
            "TCP port of gRPC. 0 picks a free one and prints it, or opens none if there is a "
            "--grpc_socket_path.",
            placeholder="PORT",
            minimum=0,
            maximum=65535,
        ),
        Flag("grpc_socket_path", "", "Unix socket on which gRPC listens too.", placeholder="PATH"),
        Flag(
            "bind_address",
            "0.0.0.0",
            "Address that the ports are opened on; :: is every address of IPv6 and IPv4. (Ours.)",
            placeholder="ADDRESS",
        ),
        Flag(
            "open_ports",
            "at_once",
            "When the ports are opened: at once, or when every configured model is available "
            "or has failed, for probes that take an open port as ready. (Ours.)",
            choices=("at_once", "when_ready"),
        ),
        Flag(
            "grpc_transport",
            "auto",
            "native is ours on libnghttp2, grpcio the portable one; auto takes native if "
            "libnghttp2 is there. (Ours.)",
            choices=("auto", "native", "grpcio"),
        ),
        Flag(
            "grpc_channel_arguments",
            "",
            "gRPC's settings as name=value with commas between them: grpc.so_reuseaddr, "
            "grpc.so_reuseport, grpc.max_connection_age_ms, "
            "grpc.max_connection_age_grace_ms, grpc.keepalive_time_ms, "
            "grpc.keepalive_timeout_ms, grpc.keepalive_permit_without_calls, "
            "grpc.max_concurrent_streams and grpc.max_receive_message_length work, others "
            "are named in the log and ignored.",
            placeholder="NAME=VALUE,...",
        ),
        Flag(
            "max_in_flight_bytes",
            0,
            "Bytes of requests that all connections together may hold; 0 is half of the "
            "memory. (Ours.)",
            placeholder="BYTES",
            bits=64,
            minimum=0,
        ),
        Flag(
            "ssl_config_file",
            "",
            "Text file with an SSLConfig: TLS for gRPC.",
            _NOT_YET,
            placeholder="FILE",
        ),
        Flag(
            "rest_api_port",
            0,
            "TCP port of REST; 0 opens none, -1 picks a free one and prints it.",
            placeholder="PORT",
            minimum=-1,
            maximum=65535,
        ),
        Flag(
            "rest_api_timeout_in_ms",
            30000,
            "Milliseconds that a REST request may take, once it is there; 0 is for ever.",
            placeholder="MS",
        ),
        Flag("rest_api_enable_cors_support", False, "Send CORS headers with REST answers."),
        Flag(
            "rest_api_num_threads",
            4 * cpus(),
            "Of the threads that run models, how many may read large REST bodies at a time. One "
            "event loop reads all connections, and small bodies.",
            placeholder="N",
            minimum=1,
        ),
        Flag(
            "grpc_max_threads",
            4 * cpus(),
            "Threads for gRPC requests.",
            _NO_MEANING,
            note="one event loop reads all connections, and none is refused for want of a thread",
        ),
        Flag(
            "use_alts_credentials",
            False,
            "Use Google's ALTS in place of TLS.",
            _NEVER,
            note="ALTS exists only inside Google Cloud",
        ),
    ),
    "Running models": (
        Flag(
            "tensorflow_session_parallelism",
            0,
            "Threads inside an operation and between operations, both; 0 leaves it to TensorFlow.",
            bits=64,
            minimum=INT32_MIN,
            maximum=INT32_MAX,
        ),
        Flag(
            "tensorflow_intra_op_parallelism",
            0,
            "Threads inside an operation; 0 leaves it to TensorFlow.",
            bits=64,
            minimum=INT32_MIN,
            maximum=INT32_MAX,
        ),
        Flag(
            "tensorflow_inter_op_parallelism",
            0,
            "Threads between operations; 0 leaves it to TensorFlow, -1 runs them one by one.",
            bits=64,
            minimum=INT32_MIN,
            maximum=INT32_MAX,
        ),
        Flag(
            "tensorflow_session_config_file",
            "",
            "Text file with a ConfigProto for the sessions; flags that are not 0 go before it.",
            placeholder="FILE",
        ),
        Flag(
            "per_process_gpu_memory_fraction",
            0.0,
            "Part of a GPU's memory to take at the start; 0 takes what is needed as it is needed.",
            minimum=0.0,
        ),
        Flag(
            "enable_signature_method_name_check",
            False,
            "Check method_name of the signature that a request uses.",
        ),
        Flag(
            "enable_serialization_as_tensor_content",
            False,
            "Answer Predict with tensor_content in place of float_val and its like.",
        ),
        Flag(
            "xla_cpu_compilation_enabled",
            False,
            "Let models compile themselves with XLA for the CPU; without this or the next "
            "flag such a run is an error.",
        ),
        Flag(
            "xla_gpu_compilation_enabled",
            False,
            "Let models compile themselves with XLA for the GPU.",
        ),
        Flag(
            "op_libraries",
            "",
            "Libraries of custom ops that models need: names of installed packages such as "
            "tensorflow_text, or paths of .so files, with commas between them. (Ours.)",
            placeholder="PACKAGE|FILE,...",
        ),
        Flag(
            "mixed_precision",
            "",
            "bfloat16 runs float operations in bfloat16 where oneDNN can.",
            _NOT_YET,
        ),
        Flag(
            "thread_pool_factory_config_file",
            "",
            "Text file with a ThreadPoolConfig.",
            _NEVER,
            note="such pools are linked into a binary",
            placeholder="FILE",
        ),
        Flag(
            "skip_initialize_tpu",
            False,
            "Do not initialise the TPU at the start.",
            _NO_MEANING,
            note="there is no TPU to initialise",
        ),
    ),
    "Batching": (
        Flag("enable_batching", False, "Run requests of the same shape together."),
        Flag(
            "batching_parameters_file",
            "",
            "Text file with BatchingParameters: sizes, waits and threads, for all models.",
            placeholder="FILE",
        ),
        Flag(
            "enable_per_model_batching_parameters",
            False,
            "Read batching_params.pbtxt in the directory of each version, and batch no version "
            "that has none; --batching_parameters_file then only says how many threads there "
            "are, and their name.",
        ),
        Flag(
            "batching_target_latency_ms",
            0.0,
            "Milliseconds within which 99 of 100 requests are to be answered, for models whose "
            "parameters have no target_latency_ms; 0 sets no such target. (Ours.)",
            placeholder="MS",
            minimum=0.0,
            maximum=3_600_000,
        ),
    ),
    "Stopping": (
        Flag(
            "shutdown_grace_seconds",
            25.0,
            "After SIGTERM or SIGINT, how long requests in flight may take to finish; "
            "Kubernetes kills after 30 seconds. (Ours.)",
            placeholder="SECONDS",
            minimum=0.0,
        ),
    ),
    "Watching": (
        Flag(
            "monitoring_config_file",
            "",
            "Text file with a MonitoringConfig: whether metrics are shown to Prometheus, and under "
            "which path of the REST port.",
            placeholder="FILE",
        ),
        Flag(
            "enable_grpc_healthcheck_service",
            True,
            "Serve grpc.health.v1.Health: whether the server takes requests, and each model as "
            "model/NAME. On by default, as it is not in TensorFlow Serving.",
        ),
        Flag(
            "enable_reflection",
            True,
            "Serve gRPC's reflection, with which tools such as grpcurl list and call everything. "
            "(Ours.)",
        ),
        Flag(
            "enable_profiler",
            True,
            "Serve TensorFlow's ProfilerService.",
            _NOT_YET,
            also_fine=(False,),
        ),
    ),
    "Other": (
        Flag("version", False, "Print the versions of server and TensorFlow, and exit."),
        Flag("help", False, "Print this text, and exit."),
    ),
}

FLAGS: dict[str, Flag] = {flag.name: flag for group in FLAG_GROUPS.values() for flag in group}
