"""The trailer with an error's details, written natively, read by protobuf."""

from __future__ import annotations

import asyncio

import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from tfsrv import _status
from tfsrv._call_loop import CallLoop
from tfsrv._python_method import PythonMethod
from tfsrv.errors import Code, ErrorDetails, Reason, ServingError
from tfsrv.frontends._error_details import encode_base64, error_details
from tfsrv.frontends.transport import details as shown


def told(error: ServingError) -> tuple[int, str, str, dict[str, str]]:
    """Code, message, reason and metadata."""
    status = status_pb2.Status.FromString(error_details(error))
    (packed,) = status.details
    info = error_details_pb2.ErrorInfo()
    assert packed.Unpack(info)
    assert (info.domain, packed.type_url) == (
        "tfsrv",
        "type.googleapis.com/google.rpc.ErrorInfo",
    )
    return status.code, status.message, info.reason, dict(info.metadata)


@pytest.mark.parametrize("reason", list(Reason))
def test_says_the_reason_by_name(reason: Reason) -> None:
    error = ServingError(Code.INTERNAL, "text", ErrorDetails(reason))
    assert told(error) == (13, "text", reason.name, {})


@pytest.mark.parametrize("version", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_says_what_it_is_about_as_far_as_it_is_known(version: int) -> None:
    about = ErrorDetails(Reason.RUN_FAILED, "m", version, "stable", "s")
    assert told(ServingError(Code.NOT_FOUND, "", about))[3] == {
        "model": "m",
        "version": str(version),
        "label": "stable",
        "signature": "s",
    }


def test_an_error_without_a_reason_has_no_details() -> None:
    assert error_details(ServingError(Code.NOT_FOUND, "text")) == b""


@given(st.text(max_size=1500), st.text(max_size=20))
def test_the_message_is_the_one_that_is_shown(message: str, model: str) -> None:
    about = ErrorDetails(Reason.MODEL_NOT_FOUND, model)
    code, text, _, metadata = told(ServingError(Code.NOT_FOUND, message, about))
    assert (code, text) == (5, shown(message))
    assert metadata == ({"model": model} if model else {})


def test_long_details_are_left_out() -> None:
    def of(size: int) -> bytes:
        about = ErrorDetails(Reason.MODEL_NOT_FOUND, "m" * size, None, "l" * size, "s" * size)
        return error_details(ServingError(Code.NOT_FOUND, "t" * 2000, about))

    assert 0 < len(of(500)) <= 3072
    assert of(1000) == b""  # too much together
    assert of(1025) == b""  # each alone


def test_names_that_are_no_unicode_can_be_told() -> None:
    about = ErrorDetails(Reason.MODEL_NOT_FOUND, "m\udcff")
    assert told(ServingError(Code.NOT_FOUND, "\udcff", about))[1:] == (
        "?",
        "MODEL_NOT_FOUND",
        {"model": "m?"},
    )


@given(st.binary(max_size=50))
def test_base64_is_that_of_everybody_without_padding(data: bytes) -> None:
    import base64

    assert encode_base64(data) == base64.b64encode(data).rstrip(b"=")


def test_native_code_has_the_same_numbers() -> None:
    assert {reason.name: int(reason) for reason in Reason} == _status.reasons()


def test_details_of_a_python_method_come_through() -> None:
    about = ErrorDetails(Reason.VERSION_NOT_FOUND, "größe", 0, "é", "")

    async def fail(request: bytes) -> bytes:
        raise ServingError(Code.NOT_FOUND, "text", about if request else None)

    async def ask(request: bytes) -> ErrorDetails | None:
        calls = CallLoop(asyncio.get_running_loop())
        with pytest.raises(ServingError) as caught:
            await calls.invoke(PythonMethod("Fail", fail), request)
        calls.close()
        assert (caught.value.code, caught.value.message) == (Code.NOT_FOUND, "text")
        return caught.value.details

    assert asyncio.run(ask(b"x")) == about
    assert asyncio.run(ask(b"")) is None


def test_a_timed_method_is_told_how_much_time_is_left() -> None:
    heard: list[float | None] = []

    async def listen(request: bytes, seconds: float | None) -> bytes:
        heard.append(seconds)
        return request

    async def ask() -> None:
        calls = CallLoop(asyncio.get_running_loop())
        method = PythonMethod("Listen", listen, timed=True)
        assert await calls.invoke(method, b"x") == b"x"
        await calls.invoke(method, b"x", 1000.0)
        calls.close()

    asyncio.run(ask())
    none, some = heard
    assert none is None
    assert some is not None
    assert 0 < some <= 1000
