"""REST while time passes: time-outs, clients that leave, models that come and go, the end."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.functional.batched import batched_model, patient
from tests.functional.conftest import Serve, config_file
from tests.functional.gated_model import Gate, GatedModel, GatedRuns
from tests.functional.http1_client import Answer, Peer
from tests.functional.launching import SECONDS, Launched, client, launched, until
from tests.functional.managing import model, reload
from tests.functional.messages import floats, predict_request, scalar
from tests.functional.rest_client import NPY, Rest, npy, post_bytes
from tests.functional.sites import AVAILABLE, LOADING, UNLOADING

ONE = b'{"instances": [1]}'
FAST = b'{"signature_name": "fast", "inputs": [1]}'
NPY_ONE = npy(floats(1))


@pytest.fixture
def metrics(tmp_path: Path) -> str:
    file = tmp_path / "monitoring.config"
    file.write_text("prometheus_config { enable: true }")
    return f"--monitoring_config_file={file}"


def counted(rest: Rest, **labels: str) -> float:
    """Requests with such labels that were answered, or left by their clients."""
    text = rest.ask("GET", "/metrics").body.decode()
    families = {each.name: each for each in text_string_to_metric_families(text)}
    return sum(
        sample.value
        for sample in families["tfsrv_request_duration_seconds"].samples
        if sample.name.endswith("_count") and labels.items() <= sample.labels.items()
    )


@pytest.fixture
def readers() -> Iterator[list[int]]:
    """Descriptors that stay open until the servers of a test have ended."""
    descriptors: list[int] = []
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def arrived(rest: Rest) -> None:
    """What was sent before has arrived at the model `m` when this returns."""
    assert rest.predictions("m:predict", FAST) == [1]


@contextmanager
def asking(rest: Rest, *bodies: tuple[str, Any]) -> Iterator[list[Answer]]:
    """Ask at the same time; all are answered by the end."""
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda path=path, body=body: answers.append(rest.post(path, body)))
        for path, body in bodies
    ]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        for thread in threads:
            thread.join(SECONDS)
    assert len(answers) == len(bodies)


def gated(gate: Gate | Path) -> dict[str, str]:
    """A body for GatedRuns."""
    return {"inputs": str(gate.path if isinstance(gate, Gate) else gate)}


# --- time-outs


def test_a_run_is_answered_with_504_at_the_time_out(serve: Serve, tmp_path: Path) -> None:
    runs = GatedRuns(tmp_path / "m")
    server = serve({"m": runs.path}, "--rest_api_port=-1", "--rest_api_timeout_in_ms=400")
    rest = Rest(server)
    gates = [runs.gate() for _ in range(2)]
    for gate in gates:
        status, text = rest.refusal("m:predict", gated(gate))
        assert (status, text.lower()) == (504, "deadline exceeded")
    body = {"signature_name": "fast", "inputs": [2]}
    assert rest.predictions("m:predict", body) == [2]
    for gate in gates:
        gate.open()  # it ran all the time


def test_what_expires_in_a_batch_is_answered_with_504(
    serve: Serve, tmp_path: Path, models: Path
) -> None:
    path = batched_model(tmp_path / "m", models / "probe", patient(2))
    flags = ("--enable_batching", "--enable_per_model_batching_parameters")
    server = serve({"m": path}, *flags, "--rest_api_port=-1", "--rest_api_timeout_in_ms=300")
    rest = Rest(server)
    large = ONE + b" " * 100_000
    for body, kind in ((ONE, "application/json"), (large, "application/json"), (NPY_ONE, NPY)):
        assert rest.refusal("m:predict", body, Content_Type=kind)[0] == 504


# --- clients that leave


def test_who_hangs_up_does_not_run(
    serve: Serve, tmp_path: Path, models: Path, metrics: str
) -> None:
    path = batched_model(tmp_path / "m", models / "probe", patient(2))
    flags = ("--enable_batching", "--enable_per_model_batching_parameters")
    rest = Rest(serve({"m": path}, *flags, metrics, "--rest_api_port=-1"))
    for number, leave in enumerate((Peer.close, Peer.reset)):
        with rest.dial() as peer:
            peer.send(post_bytes("m:predict", b'{"instances": [66]}'))
            until(lambda: waits_in_batch(rest))
            leave(peer)
        until(lambda number=number: counted(rest, code="CANCELLED") == number + 1)  # type: ignore[misc]
        value = rest.predictions("m:predict", {"instances": [7, 8]})
        assert {row["together"] for row in value} == {"7,8"}


def waits_in_batch(rest: Rest) -> bool:
    """Whether a row waits for others."""
    text = rest.ask("GET", "/metrics").body.decode()
    families = {each.name: each for each in text_string_to_metric_families(text)}
    return any(
        sample.value
        for name, family in families.items()
        if name.startswith("tfsrv_") and "queue" in name and family.type == "gauge"
        for sample in family.samples
    )


def test_who_hangs_up_while_it_runs_is_counted_and_leaves_nothing(
    readers: list[int], serve: Serve, tmp_path: Path, metrics: str
) -> None:
    runs = GatedRuns(tmp_path / "m")
    rest = Rest(serve({"m": runs.path}, metrics, "--rest_api_port=-1"))
    gates = [runs.gate() for _ in range(3)]
    for gate in gates:
        with rest.dial() as peer:
            peer.send(post_bytes("m:predict", json.dumps(gated(gate)).encode()))
            arrived(rest)
    until(lambda: counted(rest, code="CANCELLED") == 3)
    arrived(rest)
    readers += [os.open(gate.path, os.O_RDWR) for gate in gates]  # the way is free
    arrived(rest)


# --- models that come


def loading(serve: Serve, path: Path, *flags: str) -> tuple[Launched, Rest]:
    server = serve({"m": path}, "--rest_api_port=-1", *flags, ready=False)
    with client(server.address()) as ask:
        until(lambda: ask.states("m") == [LOADING])
    return server, Rest(server)


def test_requests_wait_for_a_model_that_is_loading(serve: Serve, tmp_path: Path) -> None:
    model = GatedModel(tmp_path / "m")
    _, rest = loading(serve, model.path)
    bodies = [
        ("m:predict", ONE),
        ("m/versions/1:predict", b'{"other": 1, "inputs": [1]}'),
        ("m:predict", ONE + b" " * 200_000),
        ("m:predict?pretty", {"instances": [{"x": 1.0}]}),
    ]
    with asking(rest, *bodies) as answers:
        assert rest.refusal("other:predict", ONE)[0] == 404
        assert not answers
        model.open()
    assert {answer.status for answer in answers} == {200}
    values = [answer.json() for answer in answers]
    assert all([1] in value.values() for value in values)


def test_requests_for_a_model_that_fails_to_load_are_answered(serve: Serve, tmp_path: Path) -> None:
    model = GatedModel(tmp_path / "m", fails=True)
    server = serve({"m": model.path}, "--rest_api_port=-1", "--max_num_load_retries=0",
                   ready=False, errors_are_meant=True)  # fmt: skip
    with client(server.address()) as ask:
        until(lambda: ask.states("m") == [LOADING])
        rest = Rest(server)
        with asking(rest, ("m:predict", ONE), ("m:predict", ONE)) as answers:
            model.open()
    assert {answer.status for answer in answers} <= {404, 500, 503, 400}
    assert all(answer.error for answer in answers)


def test_who_waits_for_a_model_may_leave_or_run_out_of_time(serve: Serve, tmp_path: Path) -> None:
    model = GatedModel(tmp_path / "m")
    _, rest = loading(serve, model.path, "--rest_api_timeout_in_ms=500")
    with rest.dial() as peer:
        peer.send(post_bytes("m:predict", ONE))
        assert rest.refusal("m:predict", ONE)[0] in (503, 504)
    model.open()
    until(lambda: rest.post("m:predict", ONE).status == 200)


# --- models that go


def test_what_runs_is_answered_though_its_model_is_unloaded(serve: Serve, tmp_path: Path) -> None:
    runs = GatedRuns(tmp_path / "m")
    server = serve({}, "--rest_api_port=-1")
    rest = Rest(server)
    with client(server.address()) as ask:
        reload(ask, model("m", runs.path))
        until(lambda: ask.states("m") == [AVAILABLE])
        gate = runs.gate()
        with rest.dial() as peer:
            peer.send(post_bytes("m:predict?model_spec", json.dumps(gated(gate)).encode()))
            arrived(rest)
            reload(ask)
            until(lambda: rest.post("m:predict", ONE).status == 404)
            gate.open()
            answer = peer.answer()
        assert answer.status == 200
        assert answer.json()["outputs"] == str(gate.path)
        assert answer.json()["model_spec"]["version"] == "1"
        until(lambda: UNLOADING not in ask.states("m"))


def test_sigterm_lets_what_runs_end(tmp_path: Path) -> None:
    runs = GatedRuns(tmp_path / "m")
    flags = ("--port=0", "--bind_address=127.0.0.1", "--rest_api_port=-1")
    with config_file({"m": runs.path}) as config, launched(config, *flags) as server:
        rest = Rest(server)
        until(lambda: rest.get("m").status == 200)
        until(lambda: rest.post("m:predict", FAST).status == 200)
        gate = runs.gate()
        with rest.dial() as peer:
            peer.send(post_bytes("m:predict", json.dumps(gated(gate)).encode()))
            arrived(rest)
            server.process.send_signal(signal.SIGTERM)
            server.line_with("SIGTERM")
            gate.open()
            assert peer.answer().json() == {"outputs": str(gate.path)}
        assert server.wait() == 0
        assert not [line for line in server.log if "did not end" in line]


def test_both_protocols_ask_one_model(serve: Serve, tmp_path: Path) -> None:
    runs = GatedRuns(tmp_path / "m")
    server = serve({"m": runs.path}, "--rest_api_port=-1")
    rest = Rest(server)
    gate = runs.gate()
    with client(server.address()) as ask:
        with asking(rest, ("m:predict", gated(gate))) as answers:
            witness = runs.witness()
            ask.predict(predict_request("m", {"path": scalar(str(witness).encode())}))
            assert witness.exists()
            assert not answers
            gate.open()
        assert answers[0].json() == {"outputs": str(gate.path)}
