"""Versions are warmed up before they are available: by requests in their folder, or made up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.functional.batched import FLAGS
from tests.functional.conftest import Serve, config_file
from tests.functional.launching import Client, Launched, client, launched, until
from tests.functional.managing import model, reload, reload_future
from tests.functional.messages import array, floats, predict_request, tensor
from tests.functional.sites import (
    AVAILABLE,
    END,
    LOADING,
    Site,
    ask_for,
    errors,
    settle,
    states,
    under_load,
)
from tests.inference import (
    CLASSIFY,
    REGRESS,
    classification_request,
    input_of,
    regression_request,
)
from tfsrv._proto import message_class
from tfsrv._tfrecord import write_records

CANCELLED, INVALID_ARGUMENT, FAILED_PRECONDITION, UNIMPLEMENTED, DATA_LOSS = 1, 3, 9, 12, 15
HOUR = 3600.0

PredictionLog: Any = message_class("tensorflow.serving.PredictionLog")
MultiInferenceRequest: Any = message_class("tensorflow.serving.MultiInferenceRequest")

WITH_TENSORFLOW = """
import sys
import tensorflow as tf
with tf.io.TFRecordWriter(sys.argv[1]) as writer:
    for record in sys.stdin.read().split():
        writer.write(bytes.fromhex(record))
"""


def log(field: str, request: Any) -> bytes:
    made = PredictionLog()
    getattr(made, field).request.CopyFrom(request)
    serialized: bytes = made.SerializeToString()
    return serialized


def predict_log(*inputs: Any, **asked: Any) -> bytes:
    """A log of a PredictRequest, recorded from another model."""
    return log("predict_log", predict_request("recorded", *inputs, **asked))


def warmup_file(version: Path) -> Path:
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    return path


def add(
    site: Site, version: int, *records: bytes, name: str = "m", kind: str = "half_plus_two"
) -> Path:
    """A version with these warm-up requests; its file of them."""
    site.add(version, name, model=kind)
    file = warmup_file(site.base(name) / str(version))
    if records:
        write_records(file, records)
        settle(site.base(name))
    return file


def add_inference(site: Site, inference_models: Path) -> Path:
    """The model for Classify and Regress; where its warm-up requests are to be."""
    shutil.copytree(inference_models / "inference" / "1", site.base() / "1")
    return warmup_file(site.base() / "1")


def all_kinds() -> list[bytes]:
    rows = [{"x": 1.0}, {"x": 2.0, "c": 3.0}]
    multi = MultiInferenceRequest()
    for method, signature in ((CLASSIFY, "classify"), (REGRESS, "regress")):
        task = multi.tasks.add(method_name=method)
        task.model_spec.name = "recorded"
        task.model_spec.signature_name = signature
    multi.input.CopyFrom(input_of(rows))
    return [
        predict_log({"inputs": numpy.array([1.0], "float32")}, signature="float_inputs"),
        log("classify_log", classification_request("recorded", rows, signature="classify")),
        log("regress_log", regression_request("recorded", rows, signature="regress", context={})),
        log("multi_inference_log", multi),
    ]


def write_with_tensorflow(path: Path, records: Sequence[bytes]) -> None:
    subprocess.run(
        [sys.executable, "-c", WITH_TENSORFLOW, path],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        input=" ".join(record.hex() for record in records),
        text=True,
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize("write", [write_records, write_with_tensorflow])
def test_requests_of_all_kinds_are_run_before_a_version_is_available(
    site: Site, inference_models: Path, serve: Serve, write: Callable[[Path, list[bytes]], None]
) -> None:
    write(add_inference(site, inference_models), all_kinds())
    server = serve({"m": site.base()})
    warmed = server.line_with("m version 1 was warmed up with 4 requests in ")
    available = server.line_with("m version 1 is available")
    assert server.log.index(warmed) < server.log.index(available)


# --- what is wrong with a file


def make_text(file: Path) -> None:
    file.write_text("these are no records, but some text")


def make_cut(file: Path) -> None:
    write_records(file, [predict_log({"x": floats(1)})])
    file.write_bytes(file.read_bytes()[:-1])


def make_directory(file: Path) -> None:
    file.mkdir()


def make_fifo(file: Path) -> None:
    os.mkfifo(file)


def records(*written: bytes) -> Callable[[Path], None]:
    return lambda file: write_records(file, written)


def streamed() -> bytes:
    made = PredictionLog()
    made.predict_streamed_log.SetInParent()
    serialized: bytes = made.SerializeToString()
    return serialized


GOOD = predict_log({"x": floats(1)})
# How to make the file, and what is told of it.
BAD: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "text": (
        make_text,
        DATA_LOSS,
        "corrupted record at 0 (Is this even a TFRecord file?). "
        "Please verify your warmup data is in TFRecord format.",
    ),
    "cut": (
        make_cut,
        DATA_LOSS,
        "truncated record at 0' failed with Read less bytes than requested. "
        "Please verify your warmup data is in TFRecord format.",
    ),
    "no_log": (
        records(GOOD, b"no log\n"),
        INVALID_ARGUMENT,
        r"Failed to parse warmup record: no log\n from {file}",
    ),
    "no_request": (
        records(b"\x32\x04\x0a\x02zz"),
        INVALID_ARGUMENT,
        r"Failed to parse warmup record: 2\x04\n\x02zz from {file}",
    ),
    "streamed": (
        records(GOOD, streamed()),
        UNIMPLEMENTED,
        "Unsupported log_type for warmup: 7 (warm-up record 2 of {file})",
    ),
    "too_many": (
        records(*[GOOD] * 1001),
        INVALID_ARGUMENT,
        "Number of warmup records exceeds the maximum (1000) at {file}",
    ),
    "wrong_input": (
        records(GOOD, GOOD, predict_log({"z": floats(1)})),
        INVALID_ARGUMENT,
        "Signature input alias: x(feed name: serving_default_x:0) not found in request",
    ),
    "wrong_signature": (
        records(predict_log({"x": floats(1)}, signature="none")),
        FAILED_PRECONDITION,
        'Serving signature key "none" not found.',
    ),
    "directory": (make_directory, FAILED_PRECONDITION, "{file} is no regular file"),
    "fifo": (make_fifo, FAILED_PRECONDITION, "{file} is no regular file"),
}


@pytest.fixture(scope="module")
def started_badly(
    models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Launched, Client, Site]]:
    """A server with a model for each bad file, and a good model."""
    site = Site(tmp_path_factory.mktemp("bad"), models)
    for how, (make, _, _) in BAD.items():
        make(add(site, 1, name=how))
    site.link(1, "good")
    settle(site.folder)
    paths = {name: site.base(name) for name in (*BAD, "good")}
    with (
        config_file(paths) as config,
        launched(config, "--port=0", "--bind_address=127.0.0.1") as server,
        client(server.address()) as ask,
    ):
        yield server, ask, site
        assert server.stop() == 0
        assert not [line for line in server.log if "Traceback" in line or "retry" in line]


@pytest.mark.parametrize("how", BAD)
def test_a_bad_file_is_an_error_of_the_load_that_is_not_tried_again(
    started_badly: tuple[Launched, Client, Site], how: str
) -> None:
    server, ask, site = started_badly
    _, code, text = BAD[how]
    until(lambda: ask.states(how) == [END])
    (status,) = ask.model_status(how)
    assert status.status.error_code == code
    told = text.format(file=warmup_file(site.base(how) / "1"))
    assert told in status.status.error_message
    failed = f"{how} version 1 failed to load"
    server.line_with(failed)
    assert len([line for line in errors(server) if failed in line]) == 1
    assert array(ask.predict(ask_for(2, "good")).outputs["y"]) == [3.0]


def test_a_request_that_the_model_refuses_is_an_error_of_the_load(
    site: Site, inference_models: Path, serve: Serve
) -> None:
    file = add_inference(site, inference_models)
    rows = [{"x": -1.0}]
    request = regression_request("recorded", rows, signature="fails_for_negative")
    write_records(file, [log("regress_log", request)])
    server = serve({"m": site.base()}, ready=False, errors_are_meant=True)
    with client(server.address()) as ask:
        until(lambda: ask.states("m") == [END])
        (status,) = ask.model_status("m")
        assert status.status.error_code == INVALID_ARGUMENT
        assert "x must not be negative" in status.status.error_message
        assert status.status.error_message.endswith(f"(warm-up record 1 of {file})")


def test_a_new_version_with_a_bad_file_leaves_the_old_one_until_it_is_put_right(
    site: Site, serve: Serve
) -> None:
    add(site, 1, GOOD)
    server = serve({"m": site.base()}, errors_are_meant=True)
    with client(server.address()) as ask:
        with under_load(server) as load:
            file = add(site, 2, GOOD, b"no log")
            until(lambda: states(ask) == {2: END, 1: AVAILABLE})
            assert ask.model_status("m")[0].status.error_code == INVALID_ARGUMENT
        assert set(load.versions) == {1}
        write_records(file, [GOOD])
        until(lambda: states(ask) == {2: AVAILABLE, 1: END})
        assert ask.model_status("m")[0].status.error_code == 0


# --- flags


def test_a_file_is_left_alone_when_warm_up_is_off(site: Site, serve: Serve) -> None:
    make_text(add(site, 1))
    settle(site.base())
    server = serve({"m": site.base()}, "--enable_model_warmup=false")
    assert not [line for line in server.log if "warmed up" in line]


@pytest.mark.parametrize(("flags", "times"), [((), 1), (("5",), 5), (("0",), 1)])
def test_each_request_is_run_as_often_as_told(
    site: Site, serve: Serve, flags: tuple[str, ...], times: int
) -> None:
    increment = predict_log({}, signature="incr_counter")
    add(site, 1, increment, increment, kind="counter")
    server = serve(
        {"m": site.base()}, *(f"--num_request_iterations_for_warmup={flag}" for flag in flags)
    )
    server.line_with("m version 1 was warmed up with 2 requests in ")
    with client(server.address()) as ask:
        answer = ask.predict(predict_request("m", {}, signature="get_counter"))
        assert array(answer.outputs["output"]) == 2 * times


def runs(server: Launched) -> int:
    """How often `probe` has run before."""
    with client(server.address()) as ask:
        (number,) = array(ask.predict(ask_for(1)).outputs["run"]).tolist()
        return int(number)


def batching_of(site: Site, text: str) -> None:
    (site.base() / "1" / "batching_params.pbtxt").write_text(text)
    settle(site.base())


def test_made_up_requests_are_run_where_there_is_no_file(site: Site, serve: Serve) -> None:
    site.add(1, model="several_signatures")
    server = serve({"m": site.base()}, "--synthetic_warmup")
    server.line_with("m version 1 was warmed up with 4 requests in ")


def test_made_up_requests_are_of_all_sizes_that_batches_have(site: Site, serve: Serve) -> None:
    site.add(1, model="keras_dense")
    batching_of(site, "max_batch_size { value: 10 }")
    server = serve({"m": site.base()}, *FLAGS, "--synthetic_warmup")
    server.line_with("m version 1 was warmed up with 10 requests in ")  # 5 of 2 signatures


def test_made_up_requests_that_fail_are_told_and_the_version_serves(
    site: Site, inference_models: Path, serve: Serve
) -> None:
    add_inference(site, inference_models)  # its examples must have an x
    server = serve({"m": site.base()}, "--synthetic_warmup")
    line = server.line_with("m version 1 does not take made-up inputs: regress with 1 rows: ")
    assert " WARNING " in line
    with client(server.address()) as ask:
        inputs = {"inputs": floats(1)}
        ask.predict(predict_request("m", inputs, signature="float_inputs"))


def test_a_file_is_preferred_to_made_up_requests(site: Site, serve: Serve) -> None:
    add(site, 1, GOOD, GOOD)
    server = serve({"m": site.base()}, "--synthetic_warmup")
    server.line_with("m version 1 was warmed up with 2 requests in ")


def test_requests_are_run_as_batches_are_padded_too(site: Site, serve: Serve) -> None:
    add(site, 1, GOOD, kind="probe")
    batching_of(site, "max_batch_size { value: 4 } allowed_batch_sizes: 4")
    batched = runs(serve({"m": site.base()}, *FLAGS))
    unbatched = runs(serve({"m": site.base()}))
    assert batched == unbatched + 1


# --- what takes long


def is_warming_up(server: Launched) -> bool:
    """Whether the server reads a file of requests."""
    folder = Path(f"/proc/{server.process.pid}/fd")
    for number in os.listdir(folder):
        try:
            if os.readlink(folder / number).endswith("tf_serving_warmup_requests"):
                return True
        except FileNotFoundError:  # closed meanwhile
            continue
    return False


LONG: dict[str, tuple[str, bytes, str]] = {
    "one request": ("spinner", predict_log({"seconds": floats(HOUR)}), "1"),
    "many requests": ("slow", GOOD, "1000000"),
    "large requests": ("half_plus_two", predict_log({"x": floats(*range(1 << 20))}), "1000000"),
}


@pytest.fixture(params=LONG)
def long_warm_up(request: pytest.FixtureRequest, site: Site, serve: Serve) -> Launched:
    """A server with a model that serves, and one whose warm-up takes hours."""
    kind, record, iterations = LONG[request.param]
    site.link(1, "good")
    add(site, 1, record, name="long", kind=kind)
    server = serve(
        {"good": site.base("good"), "long": site.base("long")},
        f"--num_request_iterations_for_warmup={iterations}",
        "--enable_model_management",
        ready=False,
    )
    until(lambda: is_warming_up(server))
    return server


def test_a_long_warm_up_holds_up_nobody_and_ends_with_its_model(
    long_warm_up: Launched, site: Site
) -> None:
    with client(long_warm_up.address()) as ask:
        until(lambda: ask.states("good") == [AVAILABLE])
        for _ in range(200):
            assert array(ask.predict(ask_for(2, "good")).outputs["y"]) == [3.0]
        assert ask.states("long") == [LOADING]
        assert is_warming_up(long_warm_up)
        reload(ask, model("good", site.base("good")))
        until(lambda: ask.states("long") == [END])
        (status,) = ask.model_status("long")
        assert status.status.error_code == CANCELLED
        until(lambda: not is_warming_up(long_warm_up))


def test_a_stop_does_not_wait_for_a_long_warm_up(long_warm_up: Launched) -> None:
    """The server must end by itself, and leave nothing: see the fixture."""


def test_requests_are_answered_while_a_record_of_fifty_megabytes_is_read_and_run(
    site: Site, serve: Serve
) -> None:
    site.link(1, "good")
    server = serve({"good": site.base("good")}, "--enable_model_management")
    x = tensor(numpy.zeros(50 << 18, "float32"), as_content=True)
    add(site, 1, *[predict_log({"x": x})] * 8, name="large")
    with client(server.address()) as ask:
        future = reload_future(
            ask, model("good", site.base("good")), model("large", site.base("large"))
        )
        until(lambda: is_warming_up(server))
        answered = 0
        while not future.done():
            assert array(ask.predict(ask_for(2, "good")).outputs["y"]) == [3.0]
            answered += 1
        future.result()
    server.line_with("large version 1 was warmed up with 8 requests in ")
    assert answered > 8
