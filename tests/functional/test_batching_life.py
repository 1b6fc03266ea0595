"""Batches while things change: deadlines, busy and hung workers, versions that go, the end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.functional import http2_client
from tests.functional.batched import (
    FLAGS,
    answers,
    batched_model,
    error,
    patient,
    rows,
    send,
    together,
    values,
)
from tests.functional.conftest import config_file, serving
from tests.functional.gated_model import Gate
from tests.functional.launching import SECONDS, Launched, client, launched, until
from tests.functional.managing import model, reload
from tests.functional.messages import floats, predict_request, strings
from tests.functional.mixed_requests import Mixer, model_paths
from tests.functional.sites import AVAILABLE, END, Site, states, under_load

PREDICT = "/tensorflow.serving.PredictionService/Predict"
DEADLINE_EXCEEDED = 4  # gRPC's code
# A round has 10 MB of long strings, and as many in the answers.
GROWTH = 8 << 20  # bytes, in the second half of the rounds
A_SECOND = "max_batch_size { value: 100 } batch_timeout_micros { value: 1000000 }"


@contextmanager
def batching(folder: Path, models: Path, *flags: str, **parameters: str) -> Iterator[Launched]:
    """A server of copies of `probe` with such BatchingParameters, and of half_plus_two."""
    paths = {
        name: batched_model(folder / name, models / "probe", text)
        for name, text in parameters.items()
    }
    paths["half_plus_two"] = models / "half_plus_two"
    with serving(paths, *FLAGS, *flags) as server:
        yield server


@contextmanager
def raw_client(server: Launched) -> Iterator[http2_client.Client]:
    """A client that says a deadline and then waits for the server to keep it."""
    host, port = server.address().rsplit(":", 1)
    raw = http2_client.Client((host, int(port)))
    try:
        yield raw
    finally:
        raw.close()


# --- workers that are busy


def test_requests_gather_while_the_workers_are_busy(tmp_path: Path, models: Path) -> None:
    """Without any wait. A run of over a second is stuck and gets company, so it is tried again."""
    one_at_a_time = "max_concurrent_runs { value: 1 }"
    with batching(tmp_path, models, m=one_at_a_time) as server, client(server.address()) as ask:
        for i in range(10):
            gate = Gate(tmp_path / f"gate-{i}")
            futures = send(ask, gated(str(gate.path), -1))
            futures += send(ask, *(gated("", j) for j in range(9)))
            gate.open()
            responses = answers(futures)
            assert [values(response) for response in responses] == [[j] for j in range(-1, 9)]
            if together(responses[-1]) == list(range(9)):
                return
        pytest.fail("they never ran together")


def gated(gate: str, x: float) -> Any:
    return predict_request("m", {"gate": strings(gate), "x": floats(x)}, signature="gated")


def test_nobody_computes_while_requests_wait_for_company(tmp_path: Path, models: Path) -> None:
    with batching(tmp_path, models, m=patient(4)) as server, client(server.address()) as ask:
        shapes = [floats(*range(3 * size)).reshape(3, size) for size in (1, 2, 3)]

        def inner(x: Any) -> Any:
            return predict_request("m", {"x": x}, signature="inner")

        futures = send(ask, *map(inner, shapes))

        def is_idle() -> bool:
            before = server.cpu_seconds()
            time.sleep(0.5)
            return server.cpu_seconds() - before < 0.1

        until(is_idle)
        assert not any(future.done() for future in futures)
        answers([*futures, *send(ask, *(inner(shape[:1]) for shape in shapes))])


# --- deadlines


def test_an_expired_request_is_answered_and_never_runs(tmp_path: Path, models: Path) -> None:
    with (
        batching(tmp_path, models, m=patient(4)) as server,
        raw_client(server) as raw,
        client(server.address()) as ask,
    ):
        kept = send(ask, rows("m", 1))
        request = rows("m", 2).SerializeToString()
        assert raw.call(PREDICT, request, grpc_timeout="200m").code == DEADLINE_EXCEEDED
        assert raw.call(PREDICT, request, grpc_timeout="0n").code == DEADLINE_EXCEEDED
        while not all(future.done() for future in kept):
            kept += send(ask, rows("m", 3))
        for response in answers(kept):
            assert 2 not in together(response)


def test_the_deadline_of_one_is_not_that_of_its_batch(tmp_path: Path, models: Path) -> None:
    """Both run together; whoever is in a hurry is answered in time, the other one when it ends."""
    with (
        batching(tmp_path, models, m=patient(2)) as server,
        raw_client(server) as raw,
        client(server.address()) as ask,
    ):
        gate = Gate(tmp_path / "gate")
        (patient_one,) = send(ask, gated(str(gate.path), 1))
        hurried = gated("", 2).SerializeToString()
        assert raw.call(PREDICT, hurried, grpc_timeout="500m").code == DEADLINE_EXCEEDED
        assert not patient_one.done()
        gate.open()
        assert values(*answers([patient_one])) == [1]


def test_a_model_that_hangs_hurts_nobody_else(tmp_path: Path, models: Path) -> None:
    paths = {name: models / name for name in ("blocker", "half_plus_two")}
    flags = ("--enable_batching", "--shutdown_grace_seconds=0.1")
    with (
        serving(paths, *flags) as server,
        raw_client(server) as raw,
        client(server.address()) as ask,
    ):
        hung = send(ask, *(predict_request("blocker", {"x": floats(i)}) for i in range(5)))
        late = predict_request("blocker", {"x": floats(9)}).SerializeToString()
        assert raw.call(PREDICT, late, grpc_timeout="300m").code == DEADLINE_EXCEEDED
        for i in range(20):
            assert values(ask.predict(rows("half_plus_two", i))) == [i / 2 + 4]
        assert not any(future.done() for future in hung)
        hung[0].cancel()
        assert values(ask.predict(rows("half_plus_two", 2))) == [5]


# --- versions that go


def test_versions_are_replaced_under_load_without_a_failed_request(
    site: Site, transport: str, tmp_path: Path
) -> None:
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 6 } batch_timeout_micros { value: 2000 }")
    flags = (
        f"--grpc_transport={transport}",
        "--enable_batching",
        f"--batching_parameters_file={file}",
    )
    site.add(1)
    with serving({"m": site.base()}, *flags) as server:
        with client(server.address()) as ask, under_load(server) as load:
            for version in (2, 3):
                site.add(version)
                served = {version: AVAILABLE, version - 1: END}
                until(lambda served=served: served.items() <= states(ask).items())  # type: ignore[misc]
        assert set(load.versions) == {1, 2, 3}


def test_requests_that_wait_are_answered_before_their_model_goes(
    tmp_path: Path, models: Path
) -> None:
    with (
        batching(tmp_path, models, "--enable_model_management", m=A_SECOND) as server,
        client(server.address()) as ask,
    ):
        futures = send(ask, *(rows("m", i) for i in range(5)))
        reload(ask, model("half_plus_two", models / "half_plus_two"))
        assert [together(response) for response in answers(futures)] == [list(range(5))] * 5
        until(lambda: ask.states("m") == [END])
        (late,) = send(ask, rows("m", 9))
        assert error(late)[0] == "NOT_FOUND"


def test_requests_that_wait_are_answered_before_the_server_ends(
    tmp_path: Path, models: Path
) -> None:
    path = batched_model(tmp_path / "m", models / "probe", A_SECOND)
    with (
        config_file({"m": path}) as config,
        launched(config, "--port=0", "--bind_address=127.0.0.1", *FLAGS) as server,
        client(server.address()) as ask,
    ):
        until(lambda: ask.states("m") == [AVAILABLE])
        futures = send(ask, *(rows("m", i) for i in range(5)))
        server.process.send_signal(signal.SIGTERM)
        assert [together(response) for response in answers(futures)] == [list(range(5))] * 5
        assert server.wait() == 0
        assert server.log[-1].endswith("Stopped.")


def test_a_batch_waits_for_no_more_company_when_its_model_goes(
    tmp_path: Path, models: Path
) -> None:
    """shared_batch_scheduler.h: the open batch of a closed queue is schedulable at once."""
    path = batched_model(tmp_path / "m", models / "probe", patient(4))
    where = ("--port=0", "--bind_address=127.0.0.1", "--enable_model_management")
    with (
        config_file({"m": path}) as config,
        launched(config, *where, *FLAGS) as server,
        client(server.address()) as ask,
    ):
        until(lambda: ask.states("m") == [AVAILABLE])
        futures = send(ask, rows("m", 1), rows("m", 2))
        reload(ask, model("half_plus_two", models / "half_plus_two"))
        assert [together(response) for response in answers(futures)] == [[1, 2]] * 2
        until(lambda: ask.states("m") == [END])


def test_a_batch_waits_for_no_more_company_when_the_server_drains(
    tmp_path: Path, models: Path
) -> None:
    """Requests wait through the whole grace (25 s) if batch_timeout_micros is longer, and fail."""
    path = batched_model(tmp_path / "m", models / "probe", patient(4))
    with (
        config_file({"m": path}) as config,
        launched(config, "--port=0", "--bind_address=127.0.0.1", *FLAGS) as server,
        client(server.address()) as ask,
    ):
        until(lambda: ask.states("m") == [AVAILABLE])
        futures = send(ask, rows("m", 1), rows("m", 2))
        server.process.send_signal(signal.SIGTERM)
        assert [together(response) for response in answers(futures)] == [[1, 2]] * 2
        assert server.wait() == 0


# --- memory


@pytest.mark.skipif(not http2_client.MEMORY_TELLS, reason="a sanitizer keeps freed memory")
def test_memory_does_not_grow_with_the_number_of_requests(models: Path, tmp_path: Path) -> None:
    """Rounds of the same requests, many of which fail, some of which nobody waits for."""
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 12 } max_execution_batch_size { value: 5 }"
        " enable_large_batch_splitting { value: true } batch_timeout_micros { value: 1000 }"
        " max_enqueued_batches { value: 1000 } pad_variable_length_inputs: true"
    )
    flags = ("--enable_batching", f"--batching_parameters_file={file}")
    requests = Mixer(7).requests(500)
    texts = strings(*(b"x" * 5000 for _ in range(4)))
    large = predict_request("identity", {"x": texts}, signature="string").SerializeToString()
    requests += [large] * 500
    with serving(model_paths(models), *flags) as server, client(server.address()) as ask:

        def ask_all() -> int:
            futures = [
                ask.predict_future(request, 0.01 if i % 11 == 0 else SECONDS)
                for i, request in enumerate(requests)
            ]
            for future in futures[::7]:
                future.cancel()
            for future in futures:
                if not future.cancelled():
                    future.exception(SECONDS)
            return server.memory_bytes()

        sizes = [ask_all() for _ in range(8)]
        assert min(sizes[-2:]) - max(sizes[2:4]) < GROWTH, sizes
