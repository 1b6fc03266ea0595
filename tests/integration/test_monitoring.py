"""Metrics of a whole server, in this process, after real requests through gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import tensorflow_version
from tests.functional.launching import Client, client
from tests.functional.messages import floats, predict_request
from tests.inference import (
    CLASSIFY,
    REGRESS,
    classification_request,
    multi_inference_request,
    regression_request,
)
from tests.unit.serving_metrics import LABELS, TYPES
from tfsrv.batching_parameters import BatchingParameters
from tfsrv.config import ModelConfig, ServerOptions, SpecificVersions
from tfsrv.frontends.grpc_native import NativeGrpcServer
from tfsrv.frontends.http_messages import HttpRequest
from tfsrv.frontends.prometheus import PrometheusMetrics
from tfsrv.monitoring.uncounted import UNCOUNTED
from tfsrv.parts import make_parts, open_library
from tfsrv.rest_parts import prometheus_metrics
from tfsrv.server import Parts, Server

pytestmark = pytest.mark.skipif(tensorflow_version() is None, reason="needs TensorFlow")

SERVING = ":tensorflow:serving:"
CORE = ":tensorflow:core:"
BATCHING = SERVING + "batching_session:"
ROWS = [{"x": float(i)} for i in range(3)]

Labels = frozenset[tuple[str, str]]
Sample = tuple[str, Labels]


@dataclass(frozen=True)
class Page:
    """A page of metrics, as Prometheus reads it."""

    families: dict[str, Metric]
    text: str

    @classmethod
    def of(cls, body: bytes) -> Page:
        text = body.decode()
        return cls({f.name: f for f in text_string_to_metric_families(text)}, text)

    def values(self) -> dict[Sample, float]:
        """Every line."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def since(self, before: Page, name: str, **labels: str) -> float:
        """By how much the lines of that name have grown that have these labels, among others."""
        old = before.values()
        return sum(
            value - old.get((found, of), 0)
            for (found, of), value in self.values().items()
            if found == name and labels.items() <= set(of)
        )

    def labels(self, name: str, **labels: str) -> list[dict[str, str]]:
        """The labels of the lines of that name that have these, among others."""
        return [
            dict(of) for found, of in self.values() if found == name and labels.items() <= set(of)
        ]


class Site:
    """A server, its page of metrics, and a client in another thread."""

    def __init__(self, ask: Client, metrics: PrometheusMetrics, parts: Parts) -> None:
        self.parts = parts
        self._ask = ask
        self._metrics = metrics

    async def page(self) -> Page:
        response = await self._metrics(HttpRequest("GET", "/monitoring/prometheus/metrics"))
        assert response.content_type.startswith("text/plain")
        return Page.of(response.body)

    async def asked(self, ask: Callable[[Client], Any]) -> Any:
        return await asyncio.to_thread(ask, self._ask)


Test = Callable[[Site], Awaitable[None]]


@pytest.fixture
def serve(models: Path, inference_models: Path) -> Iterator[Callable[..., None]]:
    """Run a test with a server of two models, which ends with it."""
    loop = uvloop.new_event_loop()

    def run(test: Test, **options: Any) -> None:
        config = ServerOptions(
            models=(
                ModelConfig(
                    "half",
                    str(models / "half_plus_two"),
                    version_policy=SpecificVersions(frozenset({2, 3})),
                    version_labels=(("stable", 2),),
                ),
                ModelConfig("inference", str(inference_models / "inference")),
            ),
            port=0,
            bind_address="127.0.0.1",
            wait_for_models=60,
            **options,
        )
        loop.run_until_complete(asyncio.wait_for(_with_server(config, test), 100))

    yield run
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


async def _with_server(options: ServerOptions, test: Test) -> None:
    made: list[Parts] = []
    ready = asyncio.Event()

    def make(options: ServerOptions, loop: asyncio.AbstractEventLoop) -> Parts:
        made.append(make_parts(options, loop))
        return made[0]

    class Awaited(Server):
        async def _start(self) -> None:
            await super()._start()
            ready.set()

    server = Awaited(options, make, lambda: open_library(options))
    serving = asyncio.create_task(server.serve())
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not serving.done():
            parts: Any = made[0]
            transport = parts.grpc_server
            assert isinstance(transport, NativeGrpcServer)
            metrics = prometheus_metrics(parts.core, parts.call_loop, {"grpc": transport})
            with client(transport.addresses[0]) as ask:
                await test(Site(ask, metrics, parts))
    finally:
        waiting.cancel()
        server.stop()
        await serving


def predict(ask: Client, times: int, model: str = "half", **options: Any) -> None:
    for _ in range(times):
        ask.predict(predict_request(model, {"x": floats(1.0, 2.0)}, **options))


def refused(ask: Callable[[], object]) -> None:
    with pytest.raises(grpc.RpcError):
        ask()


def test_values_grow_by_the_number_of_requests(serve: Callable[..., None]) -> None:
    async def test(site: Site) -> None:
        before = await site.page()
        await site.asked(lambda ask: predict(ask, 5))
        await site.asked(lambda ask: predict(ask, 2, version=2))
        await site.asked(lambda ask: refused(lambda: ask.predict(predict_request("half", {}))))
        after = await site.page()

        def since(name: str, **labels: str) -> float:
            return after.since(before, name, **labels)

        count = f"{SERVING}request_count_total"
        assert since(count, model_name="half", status="OK") == 7
        assert since(count, model_name="half", status="INVALID_ARGUMENT") == 1
        latency = {"model_name": "half", "API": "Predict"}
        assert since(f"{SERVING}request_latency_count", **latency, entrypoint="GRPC") == 7
        assert since(f"{SERVING}request_latency_sum", **latency) > 0
        assert since(f"{SERVING}runtime_latency_count", **latency, runtime="TF1") == 7
        ours = {"model": "half", "signature": "serving_default", "method": "Predict"}
        for version, times in (("3", 5), ("2", 2)):
            labels = {**ours, "version": version, "entrypoint": "GRPC"}
            assert since("tfsrv_requests_total", **labels, code="OK") == times
            assert since("tfsrv_request_duration_seconds_count", **labels, code="OK") == times
            assert since("tfsrv_queue_duration_seconds_count", **labels) == times
            assert since("tfsrv_run_duration_seconds_count", **labels) == times
        assert since("tfsrv_request_duration_seconds_count", **ours, code="INVALID_ARGUMENT") == 1
        assert since(f"{CORE}graph_runs_total") == 7
        assert since(f"{CORE}graph_run_time_usecs_histogram_count") == 7
        assert since(f"{CORE}graph_run_input_tensor_bytes_sum") == 7 * 8
        assert since(f"{CORE}graph_run_output_tensor_bytes_sum") == 7 * 8
        assert since(f"{BATCHING}wrapped_run_count_total") == 0

    serve(test)


def test_examples_are_counted_whatever_the_method(serve: Callable[..., None]) -> None:
    async def test(site: Site) -> None:
        before = await site.page()

        def infer(ask: Client) -> None:
            ask.infer(classification_request("inference", ROWS, signature="classify"))
            ask.infer(regression_request("inference", ROWS[:2], signature="regress"))
            tasks = [("classify", CLASSIFY), ("regress", REGRESS)]
            ask.infer(multi_inference_request("inference", tasks, ROWS[:1]))
            refused(lambda: ask.infer(regression_request("inference", [], signature="regress")))

        await site.asked(infer)
        after = await site.page()
        assert after.since(before, f"{SERVING}request_example_counts_count", model="inference") == 3
        assert after.since(before, f"{SERVING}request_example_count_total", model="inference") == 6
        for method, times in (("Classify", 1), ("Regress", 1), ("MultiInference", 0)):
            of = {"model_name": "inference", "API": method}
            assert after.since(before, f"{SERVING}request_latency_count", **of) == times
        name = "tfsrv_requests_total"
        assert after.since(before, name, model="inference", method="MultiInference") == 1

    serve(test)


def test_no_name_that_a_client_made_up_is_shown(serve: Callable[..., None]) -> None:
    async def test(site: Site) -> None:
        before = await site.page()
        made_up = ("made_up_model", "made_up_signature", "made_up_label")

        def ask_for_them(ask: Client) -> None:
            refused(lambda: predict(ask, 1, made_up[0]))
            refused(lambda: predict(ask, 1, signature=made_up[1]))
            refused(lambda: predict(ask, 1, label=made_up[2]))
            refused(lambda: ask.model_status(made_up[0]))

        await site.asked(ask_for_them)
        after = await site.page()
        assert not [name for name in made_up if name in after.text]
        count = f"{SERVING}request_count_total"
        assert after.since(before, count, model_name="", status="NOT_FOUND") == 1
        assert after.since(before, "tfsrv_requests_total", model="", method="Predict") >= 1

    serve(test)


def test_models_and_the_server_are_shown(serve: Callable[..., None]) -> None:
    async def test(site: Site) -> None:
        await site.asked(lambda ask: predict(ask, 1))
        page = await site.page()
        state = "tfsrv_model_version_state"
        shown = page.labels(state, model="half")
        assert sorted((each["version"], each["state"]) for each in shown) == [
            ("2", "AVAILABLE"),
            ("3", "AVAILABLE"),
        ]
        assert page.labels("tfsrv_model_version_label") == [
            {"model": "half", "label": "stable", "version": "2"}
        ]
        values = page.values()
        assert values["tfsrv_connections", frozenset({("protocol", "grpc")})] == 1
        assert values["tfsrv_in_flight_requests", frozenset()] == 0
        (build,) = page.labels("tfsrv_build_info")
        assert build["tensorflow"] == tensorflow_version()
        path = page.labels(":tensorflow:cc:saved_model:load_latency_total")
        assert any(each["model_path"].endswith("/half_plus_two/3") for each in path)

    serve(test)


def test_all_of_tensorflow_servings_metrics_are_shown(serve: Callable[..., None]) -> None:
    async def test(site: Site) -> None:
        await site.asked(lambda ask: predict(ask, 1))
        page = await site.page()
        shown = {
            name: family
            for name, family in page.families.items()
            if not name.startswith(("tfsrv_", "process_"))
        }
        types = {name.removesuffix("_total"): kind for name, kind in TYPES.items()}
        assert {name: family.type for name, family in shown.items()} == types
        for name, family in shown.items():
            assert not (family.samples and name in UNCOUNTED)
            for sample in family.samples:
                expected = LABELS.get(name)
                assert expected is None or {*sample.labels} - {"le"} == {*expected}

    serve(test)


def test_batches_are_counted(serve: Callable[..., None]) -> None:
    async def test(site: Site) -> None:
        before = await site.page()
        await site.asked(lambda ask: predict(ask, 6))
        after = await site.page()

        def since(name: str, **labels: str) -> float:
            return after.since(before, name, **labels)

        # One after the other, two rows each: so many batches, each padded to four rows.
        assert since(f"{BATCHING}wrapped_run_count_total") == 6
        assert since(f"{BATCHING}queuing_latency_count", thread_pool_name="") == 6
        assert since(f"{BATCHING}input_batch_size_sum") == 12
        assert since(f"{BATCHING}input_batch_size_count") == 6
        padded = since(f"{BATCHING}padding_size_sum", execution_batch_size="4")
        assert padded == 12
        assert since(f"{BATCHING}processed_batch_size_sum") == 24
        queue = {"model": "half", "version": "3", "signature": "serving_default"}
        assert since("tfsrv_batches_total", **queue) == 6
        assert since("tfsrv_batched_requests_total", **queue) == 6
        assert since("tfsrv_batched_rows_total", **queue) == 12
        assert since("tfsrv_batch_padding_rows_total", **queue) == 12
        assert since("tfsrv_batch_refusals_total", **queue) == 0
        assert after.values()["tfsrv_queue_depth", frozenset(queue.items())] == 0

    serve(test, batching=BatchingParameters(max_batch_size=4, allowed_batch_sizes=(4,)))
