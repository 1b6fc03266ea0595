"""Deadlines, cancellations, runs that hang, and the end: nobody waits for what is not his."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from h2.events import PingAckReceived

from tests.functional import http2_client
from tests.functional.conftest import config_file, serving
from tests.functional.gated_model import Gate, GatedRuns
from tests.functional.launching import SECONDS, Client, Launched, client, launched, until
from tests.functional.messages import array, floats, predict_request, scalar, strings

PREDICT = "/tensorflow.serving.PredictionService/Predict"
DEADLINE_EXCEEDED = 4  # gRPC's code
SOON = 5.0  # seconds; on a busy machine, for what should take milliseconds
# One signature runs on as many threads as there are cores, and on one more for each second that a
# run takes: so many runs that wait keep what is behind them in the queue for longer than a test.
HOLDERS = len(os.sched_getaffinity(0)) + 8


def hanging(name: str, seconds: float = 60) -> Any:
    """A request for a run that takes so long, or for ever."""
    return predict_request(name, {"x" if name == "blocker" else "seconds": floats(seconds)})


@contextmanager
def raw_client(server: Launched) -> Iterator[http2_client.Client]:
    """A client that says a deadline and then waits for the server to keep it."""
    host, port = server.address().rsplit(":", 1)
    raw = http2_client.Client((host, int(port)))
    try:
        yield raw
    finally:
        raw.close()


@contextmanager
def serving_hung(models: Path, transport: str, *names: str, **more: Path) -> Iterator[Launched]:
    """A server whose hung runs are ended soon when the test is over."""
    flags = (f"--grpc_transport={transport}", "--shutdown_grace_seconds=0.1")
    with serving({name: models / name for name in names} | more, *flags) as server:
        yield server


# --- deadlines


def test_the_deadline_is_answered_while_the_run_hangs(models: Path, transport: str) -> None:
    names = ("sleeper", "spinner", "blocker")
    with (
        serving_hung(models, transport, *names, "half_plus_two") as server,
        raw_client(server) as raw,
    ):
        for name, (timeout, seconds) in itertools.product(names, [("300m", 0.3), ("700000u", 0.7)]):
            began = time.monotonic()
            response = raw.call(PREDICT, hanging(name).SerializeToString(), grpc_timeout=timeout)
            assert response.code == DEADLINE_EXCEEDED
            assert seconds <= time.monotonic() - began < seconds + SOON
        # What comes late is dropped; the connection, the server and its workers go on.
        good = predict_request("half_plus_two", {"x": floats(2)})
        response = raw.call(PREDICT, good.SerializeToString(), grpc_timeout="5S")
        assert response.code == 0


def test_a_run_stops_at_its_deadline(models: Path, transport: str) -> None:
    """A loop that computes: TensorFlow ends it, and the processor has nothing more to do."""
    with serving_hung(models, transport, "spinner") as server, client(server.address()) as ask:
        futures = [ask.predict_future(hanging("spinner"), 0.5) for _ in range(4)]
        for future in futures:
            assert future.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED

        def is_idle() -> bool:
            before = server.cpu_seconds()
            time.sleep(0.5)
            return server.cpu_seconds() - before < 0.1

        until(is_idle)


def test_a_request_that_has_expired_never_runs(tmp_path: Path, transport: str) -> None:
    runs = GatedRuns(tmp_path / "runs")
    with (
        serving({"runs": runs.path}, f"--grpc_transport={transport}") as server,
        raw_client(server) as raw,
    ):
        witnesses = [runs.witness() for _ in range(2)]
        for witness, timeout in zip(witnesses, ("0n", "0S"), strict=True):
            request = run_into(witness).SerializeToString()
            assert raw.call(PREDICT, request, grpc_timeout=timeout).code == DEADLINE_EXCEEDED
        assert raw.call(PREDICT, run_into(runs.witness()).SerializeToString()).code == 0
        assert not any(witness.exists() for witness in witnesses)


# --- the queue


def run_into(path: Path) -> Any:
    """A request for a run that writes there."""
    return predict_request("runs", {"path": scalar(str(path).encode())})


@contextmanager
def busy_queue(runs: GatedRuns, ask: Client) -> Iterator[list[Gate]]:
    """As many waiting runs as keep all that comes later in the queue."""
    ask.model_status("runs")  # what is sent before a connection is there keeps no order
    gates = [runs.gate() for _ in range(HOLDERS)]
    futures = [ask.predict_future(run_into(gate.path)) for gate in gates]
    ask.model_status("runs")  # so they have arrived
    yield gates
    for gate, future in zip(gates, futures, strict=True):
        gate.open()
        assert future.result().outputs["y"].string_val == [str(gate.path).encode()]


def test_requests_that_expire_or_are_cancelled_in_the_queue_never_run(
    models: Path, tmp_path: Path, transport: str
) -> None:
    runs = GatedRuns(tmp_path / "runs")
    paths = {"runs": runs.path, "half_plus_two": models / "half_plus_two"}
    with (
        serving(paths, f"--grpc_transport={transport}") as server,
        client(server.address()) as ask,
    ):
        with busy_queue(runs, ask):
            wanted, expiring, leaving = ([runs.witness() for _ in range(10)] for _ in range(3))
            wanted_futures, expiring_futures, leaving_futures = [], [], []
            for a, b, c in zip(wanted, expiring, leaving, strict=True):
                wanted_futures.append(ask.predict_future(run_into(a)))
                expiring_futures.append(ask.predict_future(run_into(b), 0.3))
                leaving_futures.append(ask.predict_future(run_into(c)))
            for future in leaving_futures:
                future.cancel()
            for future in expiring_futures:
                assert future.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
            for _ in range(20):  # by now the server has heard of all that, too
                ask.predict(predict_request("half_plus_two", {"x": floats(1)}))
        for path, future in zip(wanted, wanted_futures, strict=True):
            future.result()
            assert path.read_text() == "ran"
        ask.predict(run_into(runs.witness()))  # the queue is empty again
        assert not any(path.exists() for path in expiring + leaving)


def test_a_connection_that_is_lost_takes_its_requests_out_of_the_queue(
    tmp_path: Path, transport: str
) -> None:
    runs = GatedRuns(tmp_path / "runs")
    with (
        serving({"runs": runs.path}, f"--grpc_transport={transport}") as server,
        client(server.address()) as ask,
    ):
        with busy_queue(runs, ask):
            lost = [runs.witness() for _ in range(10)]
            with raw_client(server) as raw:
                for path in lost:
                    raw.begin(PREDICT, run_into(path).SerializeToString())
                raw.http2.ping(b"12345678")
                raw.flush()
                raw.got(PingAckReceived)
            for _ in range(20):
                ask.model_status("runs")
        ask.predict(run_into(runs.witness()))
        assert not any(path.exists() for path in lost)


# --- runs that hang beside others


@pytest.mark.parametrize("name", ["spinner", "sleeper", "blocker"])
def test_runs_that_hang_delay_no_other_model(models: Path, transport: str, name: str) -> None:
    """In the caller's thread or, with deadlines, on TensorFlow's."""
    others = ("half_plus_two", "several_signatures", "string_identity", "lookup_table", "wide")
    with (
        serving_hung(models, transport, name, *others) as server,
        raw_client(server) as raw,
        client(server.address()) as ask,
    ):
        hung = [
            raw.begin(PREDICT, hanging(name).SerializeToString(), grpc_timeout=timeout)
            for timeout in ("60S", "60S", None, None)
        ]
        time.sleep(0.2)  # they run by now, or else soon
        for round in range(20):  # the first run of each signature, and later ones
            for request in (
                predict_request("half_plus_two", {"x": floats(1)}),
                predict_request("several_signatures", {"x": floats(1)}, signature="double"),
                predict_request("string_identity", {"x": strings("a")}),
                predict_request("lookup_table", {"word": strings("one")}),
                predict_request("wide", {"x": floats(round)}),
            ):
                began = time.monotonic()
                ask.predict(request)
                assert time.monotonic() - began < SOON
        raw.poll()
        assert not any(raw.responses[stream].ended for stream in hung)


def test_runs_that_hang_delay_no_other_signature_and_no_other_loop(
    models: Path, tmp_path: Path, transport: str
) -> None:
    runs = GatedRuns(tmp_path / "runs")
    paths = {"spinner": models / "spinner", "runs": runs.path}
    with (
        serving(paths, f"--grpc_transport={transport}") as server,
        client(server.address()) as ask,
    ):
        gates = [runs.gate() for _ in range(HOLDERS)]
        futures = [ask.predict_future(run_into(gate.path), 60) for gate in gates]
        for i in range(10):
            began = time.monotonic()
            fast = predict_request("runs", {"x": floats(i)}, signature="fast")
            assert array(ask.predict(fast).outputs["y"]) == [i]
            assert array(ask.predict(hanging("spinner", 0.01)).outputs["y"]) > 0
            assert time.monotonic() - began < SOON
        for gate, future in zip(gates, futures, strict=True):
            gate.open()
            future.result()


# --- the end


def test_sigterm_answers_what_is_queued_as_well_as_what_runs(
    models: Path, tmp_path: Path, transport: str
) -> None:
    runs = GatedRuns(tmp_path / "runs")
    flags = ("--port=0", "--bind_address=127.0.0.1", f"--grpc_transport={transport}")
    with (
        config_file({"runs": runs.path}) as config,
        launched(config, *flags) as server,
        client(server.address()) as ask,
    ):
        ask.predict(run_into(runs.witness()))
        gates = [runs.gate() for _ in range(HOLDERS)]
        futures = [ask.predict_future(run_into(gate.path)) for gate in gates]
        witnesses = [runs.witness() for _ in range(50)]
        futures += [ask.predict_future(run_into(path)) for path in witnesses]
        for _ in range(5):
            ask.model_status("runs")  # so all of them have arrived
        server.process.send_signal(signal.SIGTERM)
        server.line_with("accepting nothing more")
        with client(server.address()) as late:
            until(lambda: is_unavailable(late))
        assert not any(future.done() for future in futures[:HOLDERS])
        for gate in gates:
            gate.open()
        for future in futures:
            assert future.result().model_spec.version.value == 1
        assert server.wait() == 0
        assert all(path.read_text() == "ran" for path in witnesses)


def is_unavailable(ask: Client) -> bool:
    try:
        ask.model_status("runs")
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def test_under_load_sigterm_loses_no_answer(models: Path, transport: str) -> None:
    """Each request gets its right answer, or UNAVAILABLE from a server that is going."""
    codes = {grpc.StatusCode.UNAVAILABLE}
    if transport == "grpcio":
        # What comes between gRPC's GOAWAY and the client's hearing of it is dropped by its core.
        codes.add(grpc.StatusCode.CANCELLED)
    flags = ("--port=0", f"--grpc_transport={transport}")
    with (
        launched(models / "half_plus_two", *flags) as server,
        ThreadPoolExecutor(4) as threads,
    ):
        address = server.address()

        def work() -> int:
            answers = 0
            with client(address) as ask:
                while True:
                    futures = [
                        ask.predict_future(predict_request("half_plus_two", {"x": floats(i)}))
                        for i in range(8)
                    ]
                    errors = [future.exception() for future in futures]
                    for i, (future, error) in enumerate(zip(futures, errors, strict=True)):
                        if error is None:
                            assert array(future.result().outputs["y"]) == [i / 2 + 4]
                            answers += 1
                        else:
                            assert error.code() in codes, error
                    if any(errors):
                        return answers

        working = [threads.submit(work) for _ in range(4)]
        with client(address) as ask:
            ask.predict(predict_request("half_plus_two", {"x": floats(1)}))
        time.sleep(0.5)  # for some load
        assert server.stop() == 0
        assert all(done.result(SECONDS) > 0 for done in working)


@pytest.mark.parametrize("name", ["spinner", "sleeper"])
def test_hung_runs_are_ended_when_the_grace_is_over(
    models: Path, transport: str, name: str
) -> None:
    flags = ("--port=0", f"--grpc_transport={transport}", "--shutdown_grace_seconds=0.5")
    with launched(models / name, *flags) as server, raw_client(server) as raw:
        for timeout in (None, "60S"):
            for _ in range(3):
                raw.begin(PREDICT, hanging(name).SerializeToString(), grpc_timeout=timeout)
        with client(server.address()) as ask:
            until(lambda: ask.states(name) == [30])
        time.sleep(0.3)  # most of them run by now
        began = time.monotonic()
        assert server.stop() == 0
        assert 0.5 <= time.monotonic() - began < 15
