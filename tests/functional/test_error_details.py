"""What programs are told of an error: google.rpc's details, read by gRPC's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy
import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.conftest import tensorflow_version
from tests.functional.batched import FLAGS, batched_model, patient, rows, send
from tests.functional.conftest import serving
from tests.functional.launching import SECONDS, Client, Launched, client
from tests.functional.managing import call_future, model, reload_future
from tests.functional.messages import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    floats,
    predict_request,
    strings,
    tensor,
)
from tests.functional.test_metadata import METHOD as METADATA
from tests.functional.test_metadata import Response, metadata
from tests.functional.test_session_service import parts_graph, session_run
from tests.inference import (
    CLASSIFY,
    REGRESS,
    classification_request,
    multi_inference_request,
    regression_request,
)
from tfsrv._proto import message_class
from tfsrv.errors import Reason

TABLE = "key:string\tvalue:float\ncat\t4\n"


def told(future: Any) -> tuple[str, dict[str, str]]:
    """Reason and metadata of the error that a call is answered with; it says the rest twice."""
    error = future.exception(SECONDS)
    assert error is not None, "there is no error"
    values = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    if not values:
        return "", {}
    (value,) = values
    status = status_pb2.Status.FromString(value)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    (packed,) = status.details
    info = error_details_pb2.ErrorInfo()
    assert packed.Unpack(info)
    assert info.domain == "tfsrv"
    return info.reason, dict(info.metadata)


@pytest.fixture(scope="module")
def server(
    models: Path, inference_models: Path, transport: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launched]:
    if tensorflow_version() is None:
        pytest.skip("needs TensorFlow")
    folder = tmp_path_factory.mktemp("details")
    parts_graph().save(folder / "parts" / "3")
    (folder / "table" / "1").mkdir(parents=True)
    (folder / "table" / "1" / "table.tsv").write_text(TABLE)
    paths = {
        "half": models / "half_plus_two",
        "inference": inference_models / "inference",
        "fails": models / "fails_for_negative",
        "parts": folder / "parts",
        "table@lookup_table": folder / "table",
    }
    flags = (f"--grpc_transport={transport}", "--enable_session_service")
    labels = "version_labels { key: 'gone' value: 7 }"
    with serving(
        paths,
        *flags,
        "--allow_version_labels_for_unavailable_models",
        texts={"half": labels},
    ) as server:
        yield server


@pytest.fixture
def ask(server: Launched) -> Iterator[Client]:
    with client(server.address()) as ask:
        yield ask


X = {"x": floats(1)}


@pytest.mark.parametrize(
    ("request_message", "reason", "about"),
    [
        (predict_request("nosuch", X), Reason.MODEL_NOT_FOUND, {"model": "nosuch"}),
        (
            predict_request("nosuch", X, version=2),
            Reason.MODEL_NOT_FOUND,
            {"model": "nosuch", "version": "2"},
        ),
        (
            predict_request("half", X, version=-2),
            Reason.VERSION_NOT_FOUND,
            {"model": "half", "version": "-2"},
        ),
        (
            predict_request("half", X, version=0),
            Reason.VERSION_NOT_FOUND,
            {"model": "half", "version": "0"},
        ),
        (
            predict_request("half", X, label="nosuch"),
            Reason.LABEL_NOT_FOUND,
            {"model": "half", "label": "nosuch"},
        ),
        (
            predict_request("half", X, label="gone"),
            Reason.VERSION_NOT_FOUND,
            {"model": "half", "label": "gone"},
        ),
        (
            predict_request("half", X, signature="nosuch"),
            Reason.SIGNATURE_NOT_FOUND,
            {"model": "half", "version": "3", "signature": "nosuch"},
        ),
        (
            predict_request("half", {"z": floats(1)}),
            Reason.INVALID_INPUT,
            {"model": "half", "version": "3", "signature": "serving_default"},
        ),
        (
            predict_request("half", X, output_filter=["z"], version=3),
            Reason.INVALID_INPUT,
            {"model": "half", "version": "3", "signature": "serving_default"},
        ),
        (
            predict_request("half", {"x": strings("a")}),
            Reason.RUN_FAILED,
            {"model": "half", "version": "3", "signature": "serving_default"},
        ),
        (
            predict_request("fails", {"x": floats(-1)}),
            Reason.RUN_FAILED,
            {"model": "fails", "version": "1", "signature": "serving_default"},
        ),
        (
            predict_request("table", {"keys": floats(1)}),
            Reason.RUN_FAILED,
            {"model": "table", "version": "1", "signature": "serving_default"},
        ),
        (
            predict_request("table", {}, signature="nosuch"),
            Reason.SIGNATURE_NOT_FOUND,
            {"model": "table", "version": "1", "signature": "nosuch"},
        ),
        (
            predict_request("table", {"keys": strings("cat")}, output_filter=["z"]),
            Reason.INVALID_INPUT,
            {"model": "table", "version": "1", "signature": "serving_default"},
        ),
        (
            predict_request("größe ☃", X, label="é"),
            Reason.LABEL_NOT_FOUND,
            {"model": "größe ☃", "label": "é"},
        ),
    ],
)
def test_predict_tells_why_and_what_about(
    ask: Client, request_message: Any, reason: Reason, about: dict[str, str]
) -> None:
    assert told(ask.predict_future(request_message)) == (reason.name, about)


ROWS = [{"x": 1.0}]


@pytest.mark.parametrize(
    ("method", "request_message", "reason", "about"),
    [
        (
            "Classify",
            classification_request("nosuch", ROWS),
            Reason.MODEL_NOT_FOUND,
            {"model": "nosuch"},
        ),
        (
            "Classify",
            classification_request("inference", ROWS, signature="nosuch"),
            Reason.SIGNATURE_NOT_FOUND,
            {"model": "inference", "version": "2", "signature": "nosuch"},
        ),
        (
            "Regress",
            regression_request("inference", ROWS, version=2),
            Reason.INVALID_INPUT,
            {"model": "inference", "version": "2", "signature": "serving_default"},
        ),
        (
            "Regress",
            regression_request("inference", [], signature="regress"),
            Reason.INVALID_INPUT,
            {"model": "inference", "version": "2", "signature": "regress"},
        ),
        (
            "Regress",
            regression_request("inference", ROWS, signature="regress_wide"),
            Reason.RUN_FAILED,
            {"model": "inference", "version": "2", "signature": "regress_wide"},
        ),
        (
            "MultiInference",
            multi_inference_request("inference", [("", CLASSIFY), ("nosuch", REGRESS)], ROWS),
            Reason.SIGNATURE_NOT_FOUND,
            {"model": "inference", "version": "2", "signature": "nosuch"},
        ),
        (
            "MultiInference",
            multi_inference_request("inference", [("", CLASSIFY), ("regress_wide", REGRESS)], ROWS),
            Reason.RUN_FAILED,
            {"model": "inference", "version": "2", "signature": "regress_wide"},
        ),
        (
            "MultiInference",
            multi_inference_request(
                "inference", [("", CLASSIFY), ("fails_for_negative", REGRESS)], [{"x": -1.0}]
            ),
            Reason.RUN_FAILED,
            {"model": "inference", "version": "2"},
        ),
    ],
)
def test_methods_for_examples_tell_why_and_what_about(
    ask: Client, method: str, request_message: Any, reason: Reason, about: dict[str, str]
) -> None:
    call = ask.channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
    assert told(call.future(request_message.SerializeToString())) == (reason.name, about)


def test_errors_without_a_reason_have_no_details(ask: Client) -> None:
    assert told(ask.predict_future(b"")) == ("", {})
    assert told(ask.predict_future(b"\xff")) == ("", {})
    assert told(ask.channel.unary_unary("/t/Nosuch").future(b"")) == ("", {})


def test_other_calls_tell_the_same(ask: Client) -> None:
    assert told(metadata(ask, "nosuch")) == ("MODEL_NOT_FOUND", {"model": "nosuch"})
    assert told(metadata(ask, "half", version=9)) == (
        "VERSION_NOT_FOUND",
        {"model": "half", "version": "9"},
    )
    assert told(metadata(ask, "half", label="x")) == (
        "LABEL_NOT_FOUND",
        {"model": "half", "label": "x"},
    )
    assert told(metadata(ask, "half", label="gone")) == (
        "VERSION_NOT_FOUND",
        {"model": "half", "version": "7", "label": "gone"},
    )
    request = GetModelStatusRequest()
    request.model_spec.name = "nosuch"
    status = "/tensorflow.serving.ModelService/GetModelStatus"
    future = call_future(ask, status, request.SerializeToString(), GetModelStatusResponse)
    assert told(future) == ("MODEL_NOT_FOUND", {"model": "nosuch"})


def test_session_run_tells_which_version_failed(ask: Client) -> None:
    about = {"model": "parts", "version": "3"}
    assert told(session_run(ask, "parts", {"x": floats(1)}, ["nosuch"])) == ("INVALID_INPUT", about)
    bad = tensor(floats(1, 2))
    bad.tensor_shape.dim[0].size = -1
    assert told(session_run(ask, "parts", {"a": bad}, ["y"])) == ("INVALID_INPUT", about)
    assert told(session_run(ask, "parts", {"unfed": floats(1)}, ["y"])) == ("RUN_FAILED", about)
    # As Predict runs it:
    about["signature"] = "serving_default"
    assert told(session_run(ask, "parts", {"x": strings("a")}, ["y"])) == ("RUN_FAILED", about)


def test_a_message_that_is_cut_is_cut_in_both_places(ask: Client) -> None:
    name = "€" * 341 + "x"  # 1,024 bytes, with the rest of the message more
    reason, about = told(ask.predict_future(predict_request(name, X)))
    assert (reason, about) == ("MODEL_NOT_FOUND", {"model": name})
    error = ask.predict_future(predict_request(name, X)).exception()
    assert error.details().endswith("€...TRUNCATED")
    assert len(error.details().encode()) <= 1024 + len("...TRUNCATED")


@pytest.mark.parametrize("size", [1025, 2000, 70_000])
def test_details_that_would_be_long_are_left_out(ask: Client, size: int) -> None:
    future = ask.predict_future(predict_request("n" * size, X))
    assert told(future) == ("", {})
    assert future.exception().code() is grpc.StatusCode.NOT_FOUND


def test_a_full_queue_says_so(models: Path, tmp_path: Path, transport: str) -> None:
    parameters = patient(2, "max_enqueued_batches { value: 1 }")
    batched = batched_model(tmp_path / "full", models / "probe", parameters)
    with (
        serving({"full": batched}, f"--grpc_transport={transport}", *FLAGS) as server,
        client(server.address()) as ask,
    ):
        about = {"model": "full", "version": "1", "signature": "serving_default"}
        waiting = send(ask, rows("full", 1))
        assert told(ask.predict_future(rows("full", 2, 3))) == ("QUEUE_FULL", about)
        too_large = numpy.arange(100, dtype="float32")
        request = predict_request("full", {"x": too_large})
        assert told(ask.predict_future(request)) == ("INVALID_INPUT", about)
        waiting += send(ask, rows("full", 4))
        for future in waiting:
            future.result(SECONDS)


LONG = "€" * 2000


def long_errors(ask: Client) -> dict[str, Any]:
    """Calls of each method whose errors tell a long name."""
    status = GetModelStatusRequest()
    status.model_spec.name = LONG
    field: Any = message_class("tensorflow.serving.GetModelMetadataRequest")(metadata_field=[LONG])
    field.model_spec.name = "half"
    service = "/tensorflow.serving.ModelService"
    return {
        "Predict": ask.predict_future(predict_request(LONG, X)),
        "Predict in Python": ask.predict_future(predict_request("table", signature=LONG)),
        "GetModelMetadata": call_future(ask, METADATA, field.SerializeToString(), Response),
        "GetModelStatus": call_future(
            ask, f"{service}/GetModelStatus", status.SerializeToString(), GetModelStatusResponse
        ),
        "HandleReloadConfigRequest": reload_future(ask, model(LONG, "not/absolute")),
        "SessionRun": session_run(ask, "parts", {}, [LONG]),
    }


def test_every_method_cuts_long_messages_between_characters(ask: Client) -> None:
    for method, future in long_errors(ask).items():
        error = future.exception(SECONDS)
        assert error is not None, method
        text = error.details()
        assert text.endswith("€...TRUNCATED"), method
        assert 1022 <= len(text.removesuffix("...TRUNCATED").encode()) <= 1024, method
        told(future)  # what details there are say the same
