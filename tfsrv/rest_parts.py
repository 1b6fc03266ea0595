"""The parts of REST, made and joined: routes to methods, and what answers everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tfsrv import _counters
from tfsrv._session import batched_sessions, loaded_sessions
from tfsrv.frontends._rest_routes import RestRoutes
from tfsrv.frontends.http_server import RestServer
from tfsrv.frontends.openapi import OpenApi
from tfsrv.frontends.overview import Overview
from tfsrv.frontends.prometheus import PrometheusMetrics
from tfsrv.frontends.rest_api import Count, RestApi
from tfsrv.frontends.rest_management import RestManagement
from tfsrv.frontends.rest_models import RestModels
from tfsrv.frontends.rest_page import Page
from tfsrv.frontends.signatures import ServedSignatures
from tfsrv.metrics import NO_VERSION
from tfsrv.monitoring.families import joined
from tfsrv.monitoring.models import ModelFamilies, QueueFamilies
from tfsrv.monitoring.process import ProcessFamilies
from tfsrv.monitoring.requests import request_families, serving_request_families
from tfsrv.monitoring.server import ServerFamilies
from tfsrv.servables import warmup

if TYPE_CHECKING:
    from tfsrv._call_loop import CallLoop
    from tfsrv._serving_map import ServingMap
    from tfsrv.config import ServerOptions
    from tfsrv.frontends.http_messages import HttpHandler
    from tfsrv.frontends.transport import GrpcServer, NetworkServer
    from tfsrv.handlers._session_method import SessionMethod
    from tfsrv.handlers.health import Health
    from tfsrv.handlers.model_management import ModelManagement
    from tfsrv.handlers.servables import Servables
    from tfsrv.handlers.status import GetModelStatus
    from tfsrv.server_core import ServerCore

METRICS = "/metrics"  # where Prometheus looks if nobody tells it otherwise
OVERVIEW = "/tfsrv/overview"


def make_rest_server(
    options: ServerOptions,
    core: ServerCore,
    serving_map: ServingMap,
    call_loop: CallLoop,
    *,
    runs: Mapping[int, SessionMethod],
    servables: Servables,
    status: GetModelStatus,
    management: ModelManagement | None,
    health: Health,
    grpc_server: GrpcServer,
) -> RestServer:
    """REST's port, not open yet. `runs` are the methods that run models, by kind of PredictionLog.

    `management` is None if models cannot be changed by clients.
    """
    routes = RestRoutes(
        runs[warmup.PREDICT],
        runs[warmup.CLASSIFY],
        runs[warmup.REGRESS],
        has_management=management is not None,
    )
    servers: dict[str, NetworkServer] = {"grpc": grpc_server}
    metrics = metrics_pages(options, core, call_loop, servers)
    signatures = ServedSignatures(serving_map)
    api = RestApi(
        RestModels(core, status, servables),
        RestManagement(management),
        health,
        pages={
            "/": Page(has_metrics=bool(metrics)),
            OVERVIEW: Overview(
                core, signatures, batched_sessions, is_draining=lambda: health.is_draining
            ),
            "/openapi.json": OpenApi(
                core,
                signatures,
                has_management=management is not None,
                metrics_paths=tuple(metrics),
            ),
            **metrics,
        },
        count=counting(core),
    )
    server = servers["rest"] = RestServer(routes, api, call_loop, options)
    return server


def metrics_pages(
    options: ServerOptions,
    core: ServerCore,
    call_loop: CallLoop,
    servers: Mapping[str, NetworkServer],
) -> dict[str, HttpHandler]:
    """Prometheus' page by its paths; none unless --monitoring_config_file has switched it on."""
    if not options.monitoring.prometheus_enabled:
        return {}
    page = prometheus_metrics(core, call_loop, servers)
    return {options.monitoring.prometheus_path: page, METRICS: page}


def prometheus_metrics(
    core: ServerCore, call_loop: CallLoop, servers: Mapping[str, NetworkServer]
) -> PrometheusMetrics:
    """The page with all metrics. `servers` by protocol; more may come before it is asked for."""
    sources = (
        serving_request_families,
        request_families,
        ModelFamilies(core),
        QueueFamilies(loaded_sessions),
        ServerFamilies(call_loop, servers),
        ProcessFamilies(),
    )
    return PrometheusMetrics(lambda: joined(sources))


def counting(core: ServerCore) -> Count:
    """Counts requests that Python answers; those about models that there are not have no name."""

    def count(model: str, code: int, nanoseconds: int) -> None:
        known = model if core.has_model(model) else ""
        _counters.add_request(known, NO_VERSION, "", "", code, nanoseconds, rest=True)

    return count
