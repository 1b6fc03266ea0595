"""The parts of a server, made and joined: the only place that knows all of them."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from functools import partial

from tfsrv._budget import set_max_in_flight_bytes
from tfsrv._call_loop import CallLoop
from tfsrv._memory import trim
from tfsrv._method import Method
from tfsrv._opening import Opening
from tfsrv._serving_map import ServingMap
from tfsrv._session import batched_sessions
from tfsrv._workers import WorkerPool
from tfsrv.batching_log import BatchingLog
from tfsrv.config import ServerOptions, session_config
from tfsrv.core.platform import Platform
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.transport import GrpcServer
from tfsrv.handlers._inference import ClassifyMethod, MultiInferenceMethod, RegressMethod
from tfsrv.handlers._predict import PredictMethod
from tfsrv.handlers._session_method import SessionMethod
from tfsrv.handlers._warmup import WarmupRunner
from tfsrv.handlers.health import Health
from tfsrv.handlers.metadata import GetModelMetadata
from tfsrv.handlers.methods import (
    Handler,
    MethodTable,
    health_methods,
    method_table,
    with_reflection,
)
from tfsrv.handlers.model_management import ModelManagement
from tfsrv.handlers.python_threads import PythonThreads
from tfsrv.handlers.reload import HandleReloadConfigRequest
from tfsrv.handlers.servables import Servables
from tfsrv.handlers.session_run import SessionRun
from tfsrv.handlers.status import GetModelStatus
from tfsrv.housekeeping import Housekeeping
from tfsrv.plugins import BUILT_IN_PLATFORMS, load_platforms, load_source
from tfsrv.servables import warmup
from tfsrv.servables.saved_model import saved_model_platform
from tfsrv.server import Parts
from tfsrv.server_core import ServerCore

logger = logging.getLogger("tfsrv")


def make_parts(options: ServerOptions, loop: asyncio.AbstractEventLoop) -> Parts:
    """Everything that `options` ask for, nothing of it started. Raises ServingError."""
    set_max_in_flight_bytes(options.max_in_flight_bytes)
    serving_map = ServingMap()
    workers = worker_pool(options)
    python_threads = PythonThreads()
    runs = run_methods(options, serving_map, workers, python_threads)
    sources = [load_source(options.source)] if options.source else []
    core = ServerCore(options, serving_map, platforms(options, runs), sources=sources)
    housekeeping = Housekeeping([sweep_batches, trim, BatchingLog(batched_sessions).look])
    call_loop = CallLoop(loop)
    call_loop.watch(serving_map)
    servables = Servables(serving_map, core.subscribe_decided, loop)
    status = GetModelStatus(core.monitor, core.version_labels)
    management = None
    if options.enable_model_management:
        management = ModelManagement(core, timeout_seconds=options.reload_timeout_seconds)
    methods = method_table(
        runs.values(),
        GetModelMetadata(servables),
        status,
        HandleReloadConfigRequest(
            core,
            timeout_seconds=options.reload_timeout_seconds,
            enabled=options.enable_reload_rpc,
        ),
        model_management(management) if management else {},
        session_run(servables, runs[warmup.PREDICT], call_loop, options)
        if options.enable_session_service
        else None,
    )
    health = Health(core, loop)
    if options.enable_grpc_healthcheck_service:
        methods = {**methods, **health_methods(health)}
    if options.enable_reflection:
        methods = with_reflection(methods)  # the last: it tells of all others
    grpc_server = make_grpc_server(methods, call_loop, options)
    rest_server = None
    if options.rest_api_port is not None:
        from tfsrv.rest_parts import make_rest_server  # with all its pages

        rest_server = make_rest_server(
            options,
            core,
            serving_map,
            call_loop,
            runs=runs,
            servables=servables,
            status=status,
            management=management,
            health=health,
            grpc_server=grpc_server,
        )
    return Parts(
        core=core,
        workers=_AllWorkers(workers, python_threads, housekeeping),
        call_loop=call_loop,
        grpc_server=grpc_server,
        rest_server=rest_server,
        health=health,
    )


def run_methods(
    options: ServerOptions,
    serving_map: ServingMap,
    workers: WorkerPool,
    python_threads: PythonThreads,
) -> dict[int, SessionMethod]:
    """The methods that run models, by the kind of PredictionLog that holds their requests."""
    kinds: dict[int, type[SessionMethod]] = {
        warmup.PREDICT: PredictMethod,
        warmup.CLASSIFY: ClassifyMethod,
        warmup.REGRESS: RegressMethod,
        warmup.MULTI_INFERENCE: MultiInferenceMethod,
    }
    return {
        kind: method(
            serving_map,
            workers,
            serialization_as_tensor_content=options.enable_serialization_as_tensor_content,
            signature_method_name_check=options.enable_signature_method_name_check,
            max_message_bytes=options.grpc_channel_arguments.max_receive_message_length,
            python_threads=python_threads,
            rest_readers=options.rest_api_num_threads,
        )
        for kind, method in kinds.items()
    }


def platforms(options: ServerOptions, runs: Mapping[int, SessionMethod]) -> Mapping[str, Platform]:
    """All platforms; SavedModels are warmed up by the methods that will serve them."""
    saved_model = partial(saved_model_platform, run_request=WarmupRunner(runs).run)
    return load_platforms(options, making={**BUILT_IN_PLATFORMS, "tensorflow": saved_model})


def sweep_batches() -> None:
    """Free what cancelled and expired requests hold while they wait behind a model that hangs."""
    for session in batched_sessions():
        session.sweep()


def worker_pool(options: ServerOptions) -> WorkerPool:
    """The threads that run requests: `num_batch_threads` of them if there is batching."""
    if options.batching is None:
        return WorkerPool()
    logger.info("Batching is on: %s", options.batching.sentence())
    return WorkerPool(options.batching.num_batch_threads, name=options.batching.thread_pool_name)


def model_management(handlers: ModelManagement) -> dict[str, Handler]:
    """The handlers of that service, by name."""
    return {
        "ListModels": handlers.list_models,
        "SetModel": handlers.set_model,
        "RemoveModel": handlers.remove_model,
    }


def session_run(
    servables: Servables, predict: Method, call_loop: CallLoop, options: ServerOptions
) -> SessionRun:
    """The handler of SessionService."""
    return SessionRun(
        servables,
        predict,
        call_loop,
        as_content=options.enable_serialization_as_tensor_content,
        max_message_bytes=options.grpc_channel_arguments.max_receive_message_length,
    )


class _AllWorkers:
    """Whatever runs requests, or looks after those who do, to be started and stopped as one."""

    def __init__(
        self, workers: WorkerPool, python_threads: PythonThreads, housekeeping: Housekeeping
    ) -> None:
        self._workers = workers
        self._python_threads = python_threads  # they start when there is work
        self._housekeeping = housekeeping

    def start(self) -> None:
        self._workers.start()
        self._housekeeping.start()

    def hurry(self) -> None:
        for session in batched_sessions():
            session.hurry()

    def stop(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        self._housekeeping.stop(0.0)  # a daemon: nobody waits for its last job
        self._python_threads.stop(0.0)
        ended = self._workers.stop(timeout_seconds)
        return self._python_threads.stop(max(0.0, deadline - time.monotonic())) and ended


def open_library(options: ServerOptions) -> Opening:
    """Begin to open TensorFlow, as `options` want it."""
    return Opening(
        xla_enabled=options.xla_cpu_compilation_enabled or options.xla_gpu_compilation_enabled,
        op_libraries=options.op_libraries,
        session_config=session_config(options),
    )


def make_grpc_server(
    methods: MethodTable, call_loop: CallLoop, options: ServerOptions
) -> GrpcServer:
    """The transport that `--grpc_transport` names; `auto` takes the native one if it can run."""
    if options.grpc_transport != "grpcio":
        from tfsrv.frontends import _http2

        if _http2.available():
            from tfsrv.frontends.grpc_native import NativeGrpcServer

            return NativeGrpcServer(methods, call_loop, options)
        missing = "libnghttp2 is not installed (apt-get install libnghttp2-14)"
        if options.grpc_transport == "native":
            raise ServingError(Code.FAILED_PRECONDITION, f"{missing}: no native gRPC transport.")
        logger.warning("%s: serving through grpcio, at 20 times the CPU per request.", missing)
    # grpc's C core reports a port that is taken, and more, in its own form on stderr.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from tfsrv.frontends.grpc_portable import PortableGrpcServer  # grpc takes a while to import

    return PortableGrpcServer(methods, call_loop, options)
