"""Reflection as generic tools use it: they know nothing beforehand, and call everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.functional.conftest import serving
from tests.functional.launching import SECONDS, Client, Launched, client
from tfsrv._proto import message_class

PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
]
PREDICTION_SERVICE = "tensorflow_serving/apis/prediction_service.proto"
INVALID_ARGUMENT, NOT_FOUND = 3, 5


@pytest.fixture(scope="module")
def server(models: Path, transport: str) -> Iterator[Launched]:
    paths = {"half_plus_two": models / "half_plus_two"}
    with serving(paths, f"--grpc_transport={transport}") as server:
        yield server


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class Reflection:
    """Asks for single things, all on one call."""

    def __init__(self, ask: Client, package: str) -> None:
        self.package = package
        path = f"/{package}.ServerReflection/ServerReflectionInfo"
        response: Any = message_class(f"{package}.ServerReflectionResponse")
        self.method = ask.channel.stream_stream(path, response_deserializer=response.FromString)

    def ask(self, *requests: dict[str, Any]) -> list[Any]:
        """The answers to these requests, each a ServerReflectionRequest's fields."""
        request: Any = message_class(f"{self.package}.ServerReflectionRequest")
        messages = [request(**fields) for fields in requests]
        answers = list(
            self.method(iter([each.SerializeToString() for each in messages]), timeout=SECONDS)
        )
        for message, answer in zip(messages, answers, strict=True):
            assert answer.original_request == message
            assert answer.valid_host == message.host
        return answers

    def files(self, **asked: Any) -> list[Any]:
        """The FileDescriptorProtos that answer a request."""
        (answer,) = self.ask(asked)
        assert answer.WhichOneof("message_response") == "file_descriptor_response", answer
        return [
            descriptor_pb2.FileDescriptorProto.FromString(file)
            for file in answer.file_descriptor_response.file_descriptor_proto
        ]

    def error(self, **asked: Any) -> tuple[int, str]:
        (answer,) = self.ask(asked)
        assert answer.WhichOneof("message_response") == "error_response", answer
        return answer.error_response.error_code, answer.error_response.error_message


@pytest.fixture
def reflection(ask: Client, package: str) -> Reflection:
    return Reflection(ask, package)


def listed(reflection: Reflection) -> list[str]:
    (answer,) = reflection.ask({"list_services": "", "host": "h"})
    return [service.name for service in answer.list_services_response.service]


def test_lists_the_services_that_are_served(reflection: Reflection) -> None:
    assert listed(reflection) == SERVICES


@pytest.mark.parametrize(
    ("flags", "services"),
    [
        (["--enable_model_management"], {*SERVICES, "tfsrv.ModelManagement"}),
        (["--enable_grpc_healthcheck_service=false"], {*SERVICES} - {SERVICES[0]}),
    ],
)
def test_lists_no_service_that_is_turned_off(flags: list[str], services: set[str]) -> None:
    with serving({}, *flags) as server, client(server.address()) as ask:
        assert set(listed(Reflection(ask, PACKAGES[0]))) == services


def test_can_be_turned_off(transport: str) -> None:
    flags = (f"--grpc_transport={transport}", "--enable_reflection=false")
    with serving({}, *flags) as server, client(server.address()) as ask:
        for package in PACKAGES:
            with pytest.raises(grpc.RpcError) as caught:
                Reflection(ask, package).ask({"list_services": ""})
            error: Any = caught.value
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_client_without_any_protos_predicts(ask: Client) -> None:
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(ask.channel))
    predict = pool.FindMethodByName("tensorflow.serving.PredictionService.Predict")
    request: Any = message_factory.GetMessageClass(predict.input_type)()
    request.model_spec.name = "half_plus_two"
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add(size=2)
    request.inputs["x"].float_val.extend([1, 2])
    response: Any = message_factory.GetMessageClass(predict.output_type)
    method = ask.channel.unary_unary(
        f"/{predict.containing_service.full_name}/{predict.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response.FromString,
    )
    assert list(method(request, timeout=SECONDS).outputs["y"].float_val) == [4.5, 5.0]


def test_every_service_and_message_can_be_found(ask: Client) -> None:
    database: Any = ProtoReflectionDescriptorDatabase(ask.channel)
    pool = descriptor_pool.DescriptorPool(database)
    assert list(database.get_services()) == SERVICES
    for name in SERVICES:
        for method in pool.FindServiceByName(name).methods:
            for message in (method.input_type, method.output_type):
                assert message_factory.GetMessageClass(message)() is not None


def test_finds_a_file_by_its_name_with_all_that_it_needs(reflection: Reflection) -> None:
    files = reflection.files(file_by_filename=PREDICTION_SERVICE)
    assert files[0].name == PREDICTION_SERVICE
    names = [file.name for file in files]
    assert len(names) == len(set(names))
    assert {needed for file in files for needed in file.dependency} <= set(names)


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("tensorflow.serving.PredictionService", PREDICTION_SERVICE),
        ("tensorflow.serving.PredictionService.Predict", PREDICTION_SERVICE),
        ("tensorflow.serving.PredictRequest", "tensorflow_serving/apis/predict.proto"),
        ("tensorflow.serving.PredictRequest.model_spec", "tensorflow_serving/apis/predict.proto"),
        ("tensorflow.DataType", "tensorflow/core/framework/types.proto"),
        ("grpc.health.v1.Health.Watch", "grpc/health/v1/health.proto"),
    ],
)
def test_finds_the_file_of_a_symbol(reflection: Reflection, symbol: str, file: str) -> None:
    assert reflection.files(file_containing_symbol=symbol)[0].name == file


def test_knows_which_messages_have_no_extensions(reflection: Reflection) -> None:
    name = "tensorflow.serving.PredictRequest"
    (answer,) = reflection.ask({"all_extension_numbers_of_type": name})
    numbers = answer.all_extension_numbers_response
    assert (numbers.base_type_name, list(numbers.extension_number)) == (name, [])
    extension = {"containing_type": name, "extension_number": 7}
    assert reflection.error(file_containing_extension=extension) == (
        NOT_FOUND,
        f"There is no extension 7 of message {name}",
    )


@pytest.mark.parametrize(
    ("asked", "code", "text"),
    [
        ({"file_by_filename": "a.proto"}, NOT_FOUND, "There is no file a.proto"),
        ({"file_containing_symbol": "a.B"}, NOT_FOUND, "There is no symbol a.B"),
        ({"file_containing_symbol": ""}, NOT_FOUND, "There is no symbol "),
        (
            {"file_containing_symbol": "grpc.health.v1.Health.Nothing"},
            NOT_FOUND,
            "There is no symbol grpc.health.v1.Health.Nothing",
        ),
        ({"all_extension_numbers_of_type": "a.B"}, NOT_FOUND, "There is no message a.B"),
        (
            {"file_containing_extension": {"containing_type": "a.B", "extension_number": 1}},
            NOT_FOUND,
            "There is no message a.B",
        ),
        ({}, INVALID_ARGUMENT, "The request asks for nothing"),
    ],
)
def test_an_error_answers_one_request(
    reflection: Reflection, asked: dict[str, Any], code: int, text: str
) -> None:
    assert reflection.error(**asked) == (code, text)


def test_a_call_answers_many_requests_in_their_order(reflection: Reflection) -> None:
    requests: list[dict[str, Any]] = [
        {"list_services": ""},
        {"file_by_filename": "nosuch"},
        {"file_by_filename": PREDICTION_SERVICE},
    ]
    kinds = [answer.WhichOneof("message_response") for answer in reflection.ask(*requests * 100)]
    assert kinds == ["list_services_response", "error_response", "file_descriptor_response"] * 100
    assert reflection.ask() == []


@pytest.mark.parametrize(
    ("request_bytes", "code", "text"),
    [
        (b"\xff", grpc.StatusCode.INTERNAL, "Failed to parse the ServerReflectionRequest."),
        (
            b"\x1a\x88\x27" + b"x" * 5000,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "The ServerReflectionRequest is larger than 4096 bytes.",
        ),
    ],
)
def test_what_is_no_request_ends_the_call(
    reflection: Reflection, request_bytes: bytes, code: grpc.StatusCode, text: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(reflection.method(iter([request_bytes]), timeout=SECONDS))
    error: Any = caught.value
    assert (error.code(), error.details()) == (code, text)
