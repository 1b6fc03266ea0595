"""The launcher: from the command line to a running server, or to a check of a file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tfsrv import __version__
from tfsrv.batching_parameters import SERVER_THREAD_POOL_NAME, BatchingParameters
from tfsrv.config import ModelConfig, MonitoringConfig, ServerOptions, grpc_channel_arguments
from tfsrv.errors import ServingError
from tfsrv.flags import (
    CommandLine,
    UsageError,
    help_text,
    parse,
    refuse_what_is_not_built,
    without_meaning,
)

_TRUTHS = ("true", "false", "1", "0", "yes", "no", "on", "off")
_KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
_CHECK = "check"  # the first word; a directory of that name is ./check
_COMMANDS = ("predict", "show")  # likewise; they have options of their own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server, check a file, or carry out a command.

    Returns the exit status: 2 for a wrong command line, 1 for a failed start or a file with
    problems.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    if arguments and arguments[0] in _COMMANDS:
        return _command(arguments[0], arguments[1:])
    try:
        line = parse(arguments)
        if line.boolean("help"):
            print(help_text(), end="")
            return 0
        if line.boolean("version"):
            print(version_text(), end="")
            return 0
        refuse_what_is_not_built(line)
        if line.words[:1] == (_CHECK,):
            return _check(line)
        options = options_from(line)
    except UsageError as error:
        print(f"tfsrv: {error}", file=sys.stderr)
        return 2
    except ServingError as error:
        print(f"Failed to start server. Error: {error}", file=sys.stderr)
        return 1
    return _serve(options, _notes(line, options))


def _command(name: str, arguments: Sequence[str]) -> int:
    """The exit status of a command that is no server's."""
    from tfsrv.commands.command_line import run  # and with it numpy and gRPC

    if name == "show":
        from tfsrv.commands.show import show

        return run(show, arguments)
    from tfsrv.commands.predict import predict

    return run(predict, arguments)


def _check(line: CommandLine) -> int:
    """Look for mistakes in the file that the command line names; the exit status."""
    if len(line.words) != 2:
        raise UsageError(
            "write 'tfsrv check FILE' to check one file with a ModelServerConfig,"
            " or 'tfsrv ./check' to serve a directory of that name"
        )
    from tfsrv.checking.config_file import check
    from tfsrv.plugins import platform_names

    return check(
        line.words[1],
        tags=_tags(line),
        platforms=platform_names(),
        batching_parameters_file=line.text("batching_parameters_file"),
        reads_version_batching=line.boolean("enable_per_model_batching_parameters"),
    )


def _serve(options: ServerOptions, notes: list[str]) -> NoReturn:
    """Run the server, and leave the process when it is through."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # Nothing is in flight yet. Without a handler, process 1 of a container hears nothing.
        signal.signal(number, lambda *_: os._exit(0))
    from tfsrv.parts import make_parts, open_library
    from tfsrv.server import leave, run

    leave(run(options, make_parts, lambda: open_library(options), notes))


def _notes(line: CommandLine, options: ServerOptions) -> list[str]:
    """What the log should say of flags that do nothing, or not what one may think."""
    notes = without_meaning(line)
    notes += (
        f"{argument} in --grpc_channel_arguments is ignored: this server does not know it"
        for argument in options.grpc_channel_arguments.ignored
    )
    if options.model_config_file:
        notes += (
            f"--{name} is ignored: --model_config_file names the models"
            for name in ("model_name", "model_base_path")
            if name in line.given
        )
        if not options.models:
            notes.append(f"{options.model_config_file} names no models: nothing is served")
    elif options.model_config_file_poll_wait_seconds:
        notes.append(
            "--model_config_file_poll_wait_seconds is ignored: there is no --model_config_file"
        )
    if options.enable_per_model_batching_parameters and options.batching is None:
        notes.append(
            "--enable_per_model_batching_parameters is ignored: there is no --enable_batching"
        )
    return notes


def version_text() -> str:
    """What `--version` prints: TensorFlow Serving's two lines."""
    from tfsrv import _tf  # opens nothing yet

    try:
        library = _tf.open_library()
    except ServingError as error:
        library = f"none ({error.message})"
    return f"TensorFlow ModelServer: tfsrv {__version__}\nTensorFlow Library: {library}\n"


def options_from(line: CommandLine) -> ServerOptions:
    """The options that a command line asks for. Raises UsageError or ServingError."""
    models, config_content = _models(line)
    socket_path = line.text("grpc_socket_path")
    port = line.integer("port")
    own_machine_only = bool(line.words) and "bind_address" not in line.given
    try:
        channel_arguments = grpc_channel_arguments(line.text("grpc_channel_arguments"))
    except ServingError as error:
        raise UsageError(error.message) from None
    return ServerOptions(
        models=models,
        model_config_file=line.text("model_config_file"),
        model_config_content=config_content,
        model_config_file_poll_wait_seconds=line.integer("model_config_file_poll_wait_seconds"),
        source=line.text("source"),
        file_system_poll_wait_seconds=line.integer("file_system_poll_wait_seconds"),
        servable_versions_always_present=line.boolean("servable_versions_always_present"),
        allow_version_labels_for_unavailable_models=line.boolean(
            "allow_version_labels_for_unavailable_models"
        ),
        saved_model_tags=_tags(line),
        num_load_threads=line.integer("num_load_threads"),
        num_unload_threads=line.integer("num_unload_threads"),
        max_num_load_retries=line.integer("max_num_load_retries"),
        load_retry_interval_micros=line.integer("load_retry_interval_micros"),
        aspired_version_policy=line.text("aspired_version_policy"),
        total_model_memory_limit_bytes=line.integer("total_model_memory_limit_bytes"),
        reload_timeout_seconds=line.number("reload_timeout_seconds"),
        wait_for_models=line.number("wait_for_models"),
        enable_model_management=line.boolean("enable_model_management"),
        enable_reload_rpc=line.boolean("enable_reload_rpc"),
        enable_session_service=line.boolean("enable_session_service"),
        port=None if port == 0 and socket_path else port,
        grpc_socket_path=socket_path,
        rest_api_port=_rest_port(line),
        rest_api_timeout_in_ms=line.integer("rest_api_timeout_in_ms"),
        rest_api_enable_cors_support=line.boolean("rest_api_enable_cors_support"),
        rest_api_num_threads=line.integer("rest_api_num_threads"),
        bind_address="127.0.0.1" if own_machine_only else line.text("bind_address"),
        open_ports=line.text("open_ports"),
        grpc_transport=line.text("grpc_transport"),
        grpc_channel_arguments=channel_arguments,
        max_in_flight_bytes=line.integer("max_in_flight_bytes"),
        tensorflow_session_parallelism=line.integer("tensorflow_session_parallelism"),
        tensorflow_intra_op_parallelism=line.integer("tensorflow_intra_op_parallelism"),
        tensorflow_inter_op_parallelism=line.integer("tensorflow_inter_op_parallelism"),
        tensorflow_session_config_file=line.text("tensorflow_session_config_file"),
        per_process_gpu_memory_fraction=line.number("per_process_gpu_memory_fraction"),
        xla_cpu_compilation_enabled=line.boolean("xla_cpu_compilation_enabled"),
        xla_gpu_compilation_enabled=line.boolean("xla_gpu_compilation_enabled"),
        op_libraries=_words(line.text("op_libraries")),
        enable_signature_method_name_check=line.boolean("enable_signature_method_name_check"),
        enable_serialization_as_tensor_content=line.boolean(
            "enable_serialization_as_tensor_content"
        ),
        enable_model_warmup=line.boolean("enable_model_warmup"),
        num_request_iterations_for_warmup=line.integer("num_request_iterations_for_warmup"),
        synthetic_warmup=line.boolean("synthetic_warmup"),
        batching=_batching(line),
        enable_per_model_batching_parameters=line.boolean("enable_per_model_batching_parameters"),
        batching_target_latency_ms=line.number("batching_target_latency_ms"),
        shutdown_grace_seconds=line.number("shutdown_grace_seconds"),
        monitoring=_monitoring(line),
        enable_grpc_healthcheck_service=line.boolean("enable_grpc_healthcheck_service"),
        enable_reflection=line.boolean("enable_reflection"),
    )


def _rest_port(line: CommandLine) -> int | None:
    """0 is none, as in TensorFlow Serving; what asks for any free port there is here is -1."""
    port = line.integer("rest_api_port")
    return None if port == 0 else max(port, 0)


def _batching(line: CommandLine) -> BatchingParameters | None:
    """The parameters of all models, None if there is no batching: as in server.cc."""
    path = line.text("batching_parameters_file")
    target_latency_ms = line.number("batching_target_latency_ms")
    if not line.boolean("enable_batching"):
        if path:
            raise UsageError(
                "server_options.batching_parameters_file is set without setting"
                " server_options.enable_batching to true."
            )
        if target_latency_ms:
            raise UsageError("--batching_target_latency_ms is only for --enable_batching")
        return None
    if not path:
        return BatchingParameters(
            thread_pool_name=SERVER_THREAD_POOL_NAME, target_latency_ms=target_latency_ms
        )
    from tfsrv.batching_parameters_file import read_batching_parameters  # protobuf takes a while

    return read_batching_parameters(path, target_latency_ms=target_latency_ms)


def _monitoring(line: CommandLine) -> MonitoringConfig:
    path = line.text("monitoring_config_file")
    if not path:
        return MonitoringConfig()
    from tfsrv.monitoring_config_file import read_monitoring_config  # protobuf takes a while

    return read_monitoring_config(path)


def _tags(line: CommandLine) -> tuple[str, ...]:
    return _words(line.text("saved_model_tags"))


def _models(line: CommandLine) -> tuple[tuple[ModelConfig, ...], bytes]:
    """The models to begin with, and the content of the file that they are from, if they are."""
    path = line.text("model_config_file")
    if not path:
        model = _model(line)
        return ((model,) if model else ()), b""
    if line.words:
        raise UsageError(f"give either '{line.words[0]}' or --model_config_file, not both")
    from tfsrv.model_config_file import read_model_config_file  # protobuf takes a while

    file = read_model_config_file(path)  # which platforms there are is ServerCore's to know
    return file.models or (), file.content


def _words(text: str) -> tuple[str, ...]:
    """What stands between commas, if anything does."""
    return tuple(word for word in map(str.strip, text.split(",")) if word)


def _model(line: CommandLine) -> ModelConfig | None:
    """The one model that the command line names, if it names any."""
    base_path = line.text("model_base_path")
    if not line.words:
        if not base_path:
            return None
        _refuse_keras(base_path)
        _refuse_remote(base_path)
        return ModelConfig(line.text("model_name"), os.path.abspath(base_path))
    word = line.words[0]
    if line.word_follows and word.lower() in _TRUTHS and not os.path.exists(word):
        raise UsageError(
            f"'{word}' after --{line.word_follows}: a boolean takes its value with '=',"
            f" as in --{line.word_follows}=false"
        )
    if len(line.words) > 1:
        raise UsageError(f"only one directory can be served, and there is '{line.words[1]}' too")
    if base_path:
        raise UsageError(f"give either '{word}' or --model_base_path, not both")
    return _model_at(word, line.text("model_name") if "model_name" in line.given else "")


def _model_at(word: str, name: str) -> ModelConfig:
    """The model in the directory `word`, under `name` or else the directory's own name."""
    _refuse_keras(word)
    path = Path(os.path.abspath(word))
    if not path.exists():
        raise UsageError(f"there is no directory {word}")
    if not path.is_dir():
        raise UsageError(
            f"{word} is a file: give the directory of the SavedModel, or the one above"
        )
    is_saved_model = any((path / file).exists() for file in ("saved_model.pb", "saved_model.pbtxt"))
    if not is_saved_model:
        return ModelConfig(name or _readable(path.name) or "default", str(path))
    if not name:
        name = _readable(path.parent.name if path.name.isdecimal() else path.name)
    return ModelConfig(name or "default", str(path), only_version=1)


def _readable(name: str) -> str:
    """A directory's name as a model's, which clients have to be able to write."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name!r} is no name for a model: give one with --model_name") from None
    return name


def _refuse_keras(path: str) -> None:
    if path.endswith(_KERAS_SUFFIXES) and not os.path.isdir(path):
        raise UsageError(
            f"{path} is a Keras file, which only Keras can read: export it with"
            " model.export(dir), and serve that directory"
        )


def _refuse_remote(path: str) -> None:
    scheme, separator, _ = path.partition("://")
    if separator:
        raise UsageError(
            f"--model_base_path={path}: {scheme}:// is not read here; mount it or copy it, and"
            " give the local directory"
        )
