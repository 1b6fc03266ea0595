"""The process behind ServingApi: holds tensorflow-serving-api's stubs, and does as it is told."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import IO, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import grpc
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
    session_service_pb2,
)

from tests.functional.serving_api import (
    Answer,
    Examples,
    Inferred,
    Question,
    receive,
    send,
)

OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
]


def request_of(question: Question) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = question.name
    request.model_spec.signature_name = question.signature
    if question.version is not None:
        request.model_spec.version.value = question.version
    for alias, values in question.inputs.items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(values))
    request.output_filter.extend(question.output_filter)
    return request


def answer_of(response: Any) -> Answer:
    spec = response.model_spec
    return Answer(
        {alias: tf.make_ndarray(proto) for alias, proto in response.outputs.items()},
        (spec.name, spec.version.value, spec.signature_name),
    )


def failure(error: Any) -> Answer:
    return Answer(code=error.code().name, details=error.details())


def predict(address: str, questions: list[Question]) -> list[Answer]:
    answers = []
    with grpc.insecure_channel(address, OPTIONS) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for question in questions:
            try:
                response = stub.Predict(request_of(question), question.timeout)
                answers.append(answer_of(response))
            except grpc.RpcError as error:
                answers.append(failure(error))
    return answers


def predict_at_once(address: str, questions: list[Question]) -> list[Answer]:
    answers: dict[int, Answer] = {}
    changed = threading.Condition()
    with grpc.insecure_channel(address, OPTIONS) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        requests = [request_of(question) for question in questions]

        def answered(index: int, future: Any) -> None:
            error = future.exception()
            answer = failure(error) if error else answer_of(future.result())
            with changed:
                answers[index] = answer
                changed.notify_all()

        for index, question in enumerate(questions):
            future = stub.Predict.future(requests[index], question.timeout)
            future.add_done_callback(lambda future, index=index: answered(index, future))
        with changed:
            changed.wait_for(lambda: len(answers) == len(questions), 60)
    return [answers[index] for index in range(len(questions))]


def example(row: Mapping[str, float]) -> Any:
    """A tf.train.Example."""
    features = {
        name: tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        for name, value in row.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


def fill(into: Any, asked: Examples) -> None:
    """Put the examples into a request's input."""
    if asked.context is None:
        into.example_list.examples.extend(map(example, asked.rows))
    else:
        into.example_list_with_context.examples.extend(map(example, asked.rows))
        into.example_list_with_context.context.CopyFrom(example(asked.context))


REQUESTS = {
    "Classify": classification_pb2.ClassificationRequest,
    "Regress": regression_pb2.RegressionRequest,
    "MultiInference": inference_pb2.MultiInferenceRequest,
}


def inference_request(method: str, asked: Examples) -> Any:
    request = REQUESTS[method]()
    fill(request.input, asked)
    if method != "MultiInference":
        request.model_spec.name = asked.name
        request.model_spec.signature_name = asked.tasks[0][0]
        return request
    for signature, method_name in asked.tasks:
        task = request.tasks.add(method_name=method_name)
        task.model_spec.name = asked.name
        task.model_spec.signature_name = signature
    return request


def result_of(spec: Any, result: Any) -> tuple[tuple[str, int, str], list[Any]]:
    told = (spec.name, spec.version.value, spec.signature_name)
    if isinstance(result, regression_pb2.RegressionResult):
        return told, [each.value for each in result.regressions]
    rows = result.classifications
    return told, [[(each.label, each.score) for each in row.classes] for row in rows]


def inferred(response: Any) -> Inferred:
    if not isinstance(response, inference_pb2.MultiInferenceResponse):
        return Inferred((result_of(response.model_spec, response.result),))
    return Inferred(
        tuple(
            result_of(each.model_spec, getattr(each, each.WhichOneof("result")))
            for each in response.results
        )
    )


def infer(address: str, method: str, asked: list[Examples]) -> list[Inferred]:
    answers = []
    with grpc.insecure_channel(address, OPTIONS) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for each in asked:
            try:
                answers.append(
                    inferred(getattr(stub, method)(inference_request(method, each), each.timeout))
                )
            except grpc.RpcError as error:
                answers.append(Inferred(code=error.code().name, details=error.details() or ""))
    return answers


def run_saved_model(path: str, asked: list[Examples]) -> list[list[dict[str, Any]]]:
    loaded = tf.saved_model.load(path)
    answers = []
    for each in asked:
        rows = [{**(each.context or {}), **row} for row in each.rows]
        examples = tf.constant([example(row).SerializeToString() for row in rows])
        outputs = [
            loaded.signatures[signature or "serving_default"](inputs=examples)
            for signature, _ in each.tasks
        ]
        answers.append([{key: y.numpy() for key, y in one.items()} for one in outputs])
    return answers


def model_status(address: str, name: str) -> list[tuple[int, str, int, str]]:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    with grpc.insecure_channel(address, OPTIONS) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        response = stub.GetModelStatus(request, 5.0)
    state_name = get_model_status_pb2.ModelVersionStatus.State.Name
    return [
        (each.version, state_name(each.state), each.status.error_code, each.status.error_message)
        for each in response.model_version_status
    ]


def model_metadata(address: str, name: str) -> tuple[int, dict[str, str]]:
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = name
    request.metadata_field.append("signature_def")
    with grpc.insecure_channel(address, OPTIONS) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.GetModelMetadata(request, 5.0)
    signature_def_map = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signature_def_map)
    signatures = {
        key: text_format.MessageToString(signature_def)
        for key, signature_def in signature_def_map.signature_def.items()
    }
    return response.model_spec.version.value, signatures


def session_run(
    address: str, name: str, feeds: dict[str, Any], fetches: list[str]
) -> list[tuple[str, Any]]:
    request = session_service_pb2.SessionRunRequest(fetch=fetches)
    request.model_spec.name = name
    for key, values in feeds.items():
        request.feed.add(name=key).tensor.CopyFrom(tf.make_tensor_proto(values))
    with grpc.insecure_channel(address, OPTIONS) as channel:
        call = channel.unary_unary(  # the package has no stub of it
            "/tensorflow.serving.SessionService/SessionRun",
            request_serializer=session_service_pb2.SessionRunRequest.SerializeToString,
            response_deserializer=session_service_pb2.SessionRunResponse.FromString,
        )
        response = call(request, timeout=5.0)
    return [(named.name, tf.make_ndarray(named.tensor)) for named in response.tensor]


def work(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until nobody asks. A failure is a text."""
    todo = {
        "predict": predict,
        "predict_at_once": predict_at_once,
        "infer": infer,
        "run_saved_model": run_saved_model,
        "model_status": model_status,
        "model_metadata": model_metadata,
        "session_run": session_run,
    }
    while True:
        try:
            what, *arguments = receive(questions)
        except EOFError:
            return
        try:
            result = todo[what](*arguments)  # type: ignore[operator]
        except Exception:
            result = traceback.format_exc()
        send(answers, result)


if __name__ == "__main__":
    own_stdout = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever TensorFlow prints must not come between the answers
    work(sys.stdin.buffer, own_stdout)
