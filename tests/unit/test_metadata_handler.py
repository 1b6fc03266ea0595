"""GetModelMetadata, of servables that stand in a serving map, and of those that do not yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tfsrv._proto import message_class, parse_text
from tfsrv._servable import NativeServable
from tfsrv._serving_map import ServingMap
from tfsrv.errors import Code, ErrorDetails, Reason, ServingError
from tfsrv.handlers.call_threads import MAX_THREADS
from tfsrv.handlers.metadata import GetModelMetadata
from tfsrv.handlers.servables import Servables

SIGNATURE = "inputs { key: 'x' value { name: 'x:0' dtype: DT_FLOAT } } method_name: 'p'"
FIELD = "metadata_field: 'signature_def'"


def signature_def(text: str = SIGNATURE) -> Any:
    return parse_text("tensorflow.SignatureDef", text, "signature")


class Declares:
    """A servable that says which signatures it has."""

    def __init__(self, **signature_defs: Any) -> None:
        self.signature_defs = signature_defs


class House:
    """A serving map, and whoever decides that a model is not to be waited for."""

    def __init__(self) -> None:
        self.map = ServingMap()
        self.decide: Callable[[str], object] = lambda name: None

    def subscribe(self, callback: Callable[[str], object]) -> None:
        self.decide = callback

    def handler(self, *, wait_seconds: float = 30.0) -> GetModelMetadata:
        loop = asyncio.get_running_loop()
        return GetModelMetadata(
            Servables(self.map, self.subscribe, loop, wait_seconds=wait_seconds)
        )


def serialized(text: str) -> bytes:
    return parse_text(
        "tensorflow.serving.GetModelMetadataRequest", text, "request"
    ).SerializeToString()


def ask(text: str, servables: dict[str, dict[int, object]], **more: Any) -> Any:
    """The answer of a server with these servables."""
    house = House()
    house.map.publish(servables, **more)

    async def answer() -> bytes:
        return await house.handler(wait_seconds=0.01)(serialized(text))

    return response_of(asyncio.run(answer()))


def response_of(answer: bytes) -> Any:
    return message_class("tensorflow.serving.GetModelMetadataResponse").FromString(answer)


def signatures_of(response: Any) -> dict[str, Any]:
    assert set(response.metadata) == {"signature_def"}
    found: Any = message_class("tensorflow.serving.SignatureDefMap")()
    assert response.metadata["signature_def"].Unpack(found)
    return dict(found.signature_def)


def refused(text: str, servables: dict[str, dict[int, object]], **more: Any) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught:
        ask(text, servables, **more)
    return caught.value.code, caught.value.message


def test_tells_the_signatures_and_the_version_that_has_them() -> None:
    both = Declares(a=signature_def(), b=signature_def("method_name: 'q'"))
    response = ask(f"model_spec {{ name: 'm' }} {FIELD}", {"m": {3: both, 1: Declares()}})
    assert signatures_of(response) == both.signature_defs
    assert response.metadata["signature_def"].type_url == (
        "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    )
    assert response.model_spec == parse_text(
        "tensorflow.serving.ModelSpec", "name: 'm' version { value: 3 }", ""
    )


@pytest.mark.parametrize(
    "size", [0, 1, 100, 127, 128, 16383, 16384, 300_000], ids=lambda size: f"{size}_bytes"
)
def test_sizes_are_written_as_protobuf_reads_them(size: int) -> None:
    servable = Declares(s=signature_def(f"method_name: '{'m' * size}'"))
    response = ask(f"model_spec {{ name: 'm' }} {FIELD}", {"m": {1: servable}})
    assert signatures_of(response) == servable.signature_defs


def test_a_servable_without_any_signature_has_an_empty_map() -> None:
    response = ask(f"model_spec {{ name: 'm' }} {FIELD}", {"m": {1: Declares()}})
    assert signatures_of(response) == {}


def test_tells_of_the_version_or_the_label_that_is_asked_for() -> None:
    servables: dict[str, dict[int, object]] = {
        "m": {
            version: Declares(s=signature_def(f"method_name: '{version}'")) for version in (0, 1, 2)
        }
    }
    labels = {"m": {"stable": 1}}
    for wanted, version in (
        ("version { value: 0 }", 0),
        ("version_label: 'stable'", 1),
        ("version { value: 2 }", 2),
    ):
        response = ask(f"model_spec {{ name: 'm' {wanted} }} {FIELD}", servables, labels=labels)
        assert response.model_spec.version.value == version
        assert response.model_spec.version_label == ""
        assert signatures_of(response)["s"].method_name == str(version)


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("", Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (FIELD, Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (
            "model_spec { }",
            Code.INVALID_ARGUMENT,
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (
            "model_spec { name: 'nosuch' } metadata_field: 'nosuch'",
            Code.INVALID_ARGUMENT,
            "Metadata field nosuch is not supported",
        ),
        (
            f"model_spec {{ name: 'm' }} {FIELD} metadata_field: ''",
            Code.INVALID_ARGUMENT,
            "Metadata field  is not supported",
        ),
        (
            f"model_spec {{ }} {FIELD}",
            Code.INVALID_ARGUMENT,
            "ModelSpec has no name specified.",
        ),
        (
            f"model_spec {{ name: 'nosuch' }} {FIELD}",
            Code.NOT_FOUND,
            "Servable not found for request: Latest(nosuch)",
        ),
        (
            f"model_spec {{ name: 'm' version {{ value: 9 }} }} {FIELD}",
            Code.NOT_FOUND,
            "Servable not found for request: Specific(m, 9)",
        ),
        (
            f"model_spec {{ name: 'm' version_label: 'x' }} {FIELD}",
            Code.INVALID_ARGUMENT,
            "Unrecognized servable version label: x",
        ),
        (
            f"model_spec {{ name: 'nosuch' version_label: 'x' }} {FIELD}",
            Code.INVALID_ARGUMENT,
            "Unrecognized servable version label: x",
        ),
        (
            f"model_spec {{ name: 'm' version_label: 'gone' }} {FIELD}",
            Code.NOT_FOUND,
            "Servable not found for request: Specific(m, 7)",
        ),
    ],
)
def test_refuses_with_tensorflow_servings_codes_and_texts(
    text: str, code: Code, message: str
) -> None:
    labels = {"m": {"gone": 7}}
    assert refused(text, {"m": {1: Declares()}}, labels=labels) == (code, message)


def test_refuses_bytes_that_are_no_request_and_megabytes() -> None:
    async def answer(request: bytes) -> Code:
        with pytest.raises(ServingError) as caught:
            await House().handler()(request)
        return caught.value.code

    assert asyncio.run(answer(b"\xff")) is Code.INTERNAL
    assert asyncio.run(answer(b"\x98\x06\x01" * 30_000)) is Code.RESOURCE_EXHAUSTED


def test_a_servable_that_declares_no_signatures_is_told_so() -> None:
    assert refused(f"model_spec {{ name: 'm' }} {FIELD}", {"m": {1: object()}}) == (
        Code.FAILED_PRECONDITION,
        "The servable does not say which signatures it has.",
    )


def test_what_a_session_declares_is_read_once_and_what_python_declares_each_time() -> None:
    class Counts:
        reads = 0

        @property
        def signature_defs(self) -> Any:
            self.reads += 1
            return {"s": signature_def()}

    class CountingSession(Counts, NativeServable):
        pass

    servables = {"session": CountingSession(), "python": Counts()}
    house = House()
    house.map.publish({name: {1: servable} for name, servable in servables.items()})

    async def answer() -> None:
        handler = house.handler()
        for name in servables:
            answers = [
                await handler(serialized(f"model_spec {{ name: '{name}' }} {FIELD}"))
                for _ in range(3)
            ]
            assert signatures_of(response_of(answers[2])) == {"s": signature_def()}
            assert len(set(answers)) == 1

    asyncio.run(answer())
    assert {name: servable.reads for name, servable in servables.items()} == {
        "session": 1,
        "python": 3,
    }


def test_a_servable_whose_signatures_cannot_be_read_is_an_error_of_its_own() -> None:
    class Broken:
        @property
        def signature_defs(self) -> Any:
            raise ValueError("as was asked for")

    assert refused(f"model_spec {{ name: 'm' }} {FIELD}", {"m": {1: Broken()}}) == (
        Code.INTERNAL,
        "ValueError: as was asked for",
    )


def test_waits_for_the_first_version_of_a_model() -> None:
    async def answer() -> bytes:
        house = House()
        house.map.publish({}, pending=["m", "other"])
        asking = asyncio.ensure_future(
            house.handler()(serialized(f"model_spec {{ name: 'm' }} {FIELD}"))
        )
        await asyncio.sleep(0)
        house.decide("other")
        house.decide("m")  # of an old life of the model: it is still pending
        for _ in range(5):
            await asyncio.sleep(0)
        assert not asking.done()
        house.map.publish({"m": {1: Declares(s=signature_def())}}, pending=["other"])
        house.decide("m")
        return await asking

    assert signatures_of(response_of(asyncio.run(answer()))) == {"s": signature_def()}


def test_a_model_that_does_not_come_after_all_is_not_found() -> None:
    async def answer() -> tuple[Code, str]:
        house = House()
        house.map.publish({}, pending=["m"])
        asking = asyncio.ensure_future(
            house.handler()(serialized(f"model_spec {{ name: 'm' }} {FIELD}"))
        )
        await asyncio.sleep(0)
        house.map.publish({})
        house.decide("m")
        with pytest.raises(ServingError) as caught:
            await asking
        return caught.value.code, caught.value.message

    assert asyncio.run(answer()) == (
        Code.NOT_FOUND,
        "Servable not found for request: Latest(m)",
    )


def test_waits_for_a_bounded_time() -> None:
    with pytest.raises(ServingError) as caught:
        ask(f"model_spec {{ name: 'm' }} {FIELD}", {}, pending=["m"])
    assert (caught.value.code, caught.value.message) == (
        Code.UNAVAILABLE,
        "Model m is still loading",
    )
    assert caught.value.details == ErrorDetails(Reason.MODEL_LOADING, "m")


def test_lets_go_of_the_servable() -> None:
    house = House()
    house.map.publish({"m": {1: Declares(s=signature_def())}})

    async def answer() -> None:
        await house.handler()(serialized(f"model_spec {{ name: 'm' }} {FIELD}"))

    asyncio.run(answer())
    assert house.map.in_use("m", 1) == 0


def test_many_who_ask_at_once_are_all_answered() -> None:
    class Session(NativeServable):
        reads = 0

        @property
        def signature_defs(self) -> dict[str, Any]:
            Session.reads += 1
            return {"s": signature_def()}

    house = House()
    house.map.publish({"m": {1: Session()}})
    request = serialized(f"model_spec {{ name: 'm' }} {FIELD}")

    async def answer() -> list[bytes]:
        handler = house.handler()
        return await asyncio.gather(*(handler(request) for _ in range(3 * MAX_THREADS)))

    assert len(set(asyncio.run(answer()))) == 1
    assert Session.reads == 1
