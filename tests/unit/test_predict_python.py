"""Predict on servables that are Python objects, from bytes to bytes."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

import numpy
import pytest

from tests.functional.messages import (
    PredictResponse,
    TensorProto,
    array,
    floats,
    predict_request,
    strings,
    tensor,
)
from tests.unit.waiting import DEADLINE_SECONDS, eventually
from tests.wire_messages import WireMaker
from tfsrv._arrays import arrays_of_request
from tfsrv._budget import in_flight_bytes, set_max_in_flight_bytes
from tfsrv._call_loop import CallLoop
from tfsrv._proto import message_class
from tfsrv._serving_map import ServingMap
from tfsrv._workers import WorkerPool
from tfsrv.core.predict_servable import PredictServable
from tfsrv.errors import Code, ErrorDetails, Reason, ServingError
from tfsrv.handlers._predict import PredictMethod
from tfsrv.handlers.python_threads import PythonThreads
from tfsrv.metrics import RequestMetrics, snapshot

X = floats(1, 2)
Outputs = Mapping[str, Any]


class Servable:
    """Answers with what `answer` makes of the inputs; what it was asked is noted."""

    def __init__(self, answer: Callable[[Mapping[str, Any]], Any] = dict) -> None:
        self.answer = answer
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def predict(
        self, signature_name: str, inputs: Mapping[str, Any], output_filter: Sequence[str]
    ) -> Any:
        self.asked.append((signature_name, tuple(output_filter)))
        return self.answer(inputs)


class Signed(Servable):
    """Has signatures: two with outputs a and b."""

    def __init__(self, answer: Callable[[Mapping[str, Any]], Any]) -> None:
        super().__init__(answer)
        signature: Any = message_class("tensorflow.SignatureDef")()
        for alias in ("b", "a"):
            signature.outputs[alias].dtype = 1
        self.signature_defs = {"serving_default": signature, "other": signature}


class Gated(Servable):
    """Waits in predict() until it is let go."""

    def __init__(self) -> None:
        super().__init__(self.wait)
        self.began = threading.Semaphore(0)
        self.gate = threading.Event()

    def wait(self, inputs: Mapping[str, Any]) -> Any:
        self.began.release()
        assert self.gate.wait(DEADLINE_SECONDS)
        return inputs


class Site:
    """One servable "m" in version 3, and a method on it. Nothing may be left when it closes."""

    def __init__(
        self,
        servable: object,
        threads: PythonThreads | None = None,
        *,
        method: Callable[..., Any] = PredictMethod,
        response: Any = PredictResponse,
        **options: Any,
    ):
        self.threads = threads or PythonThreads()
        self.workers = WorkerPool()
        self.workers.start()
        self.serving_map = ServingMap()
        self.serving_map.publish({"m": {3: servable}})
        self.response = response
        self.method = method(self.serving_map, self.workers, python_threads=self.threads, **options)
        self.calls: CallLoop

    def run(self, test: Callable[[Site], Awaitable[None]]) -> None:
        async def main() -> None:
            self.calls = CallLoop(asyncio.get_running_loop())
            self.calls.watch(self.serving_map)
            try:
                await asyncio.wait_for(test(self), DEADLINE_SECONDS)
                await until(lambda: self.calls.held_by_workers == 0)
            finally:
                self.calls.close()

        asyncio.run(main())
        assert self.in_use() == 0
        assert self.threads.stop(DEADLINE_SECONDS)
        assert self.workers.stop(DEADLINE_SECONDS)
        assert in_flight_bytes() == 0

    def in_use(self) -> int:
        return self.serving_map.in_use("m", 3)

    async def ask(self, request: Any, timeout: float | None = None) -> Any:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return self.response.FromString(await self.calls.invoke(self.method, data, timeout))

    async def refusal(self, request: Any, timeout: float | None = None) -> tuple[Code, str]:
        with pytest.raises(ServingError) as caught:
            await self.ask(request, timeout)
        return caught.value.code, caught.value.message


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - no event tells of it; the test has a deadline
        await asyncio.sleep(0.001)


def answer(servable: object, request: Any, **options: Any) -> Any:
    """What one request gets."""
    got: list[Any] = []

    async def test(site: Site) -> None:
        got.append(await site.ask(request))

    Site(servable, **options).run(test)
    return got[0]


def refusal(servable: object, request: Any, **options: Any) -> tuple[Code, str]:
    got: list[tuple[Code, str]] = []

    async def test(site: Site) -> None:
        got.append(await site.refusal(request))

    Site(servable, **options).run(test)
    return got[0]


def repeated(size: int, proto: Any) -> Any:
    """One value that stands for many."""
    proto.tensor_shape.dim[0].size = size
    return proto


# --- what is right


def test_arrays_come_in_and_arrays_go_out() -> None:
    servable = Servable(lambda inputs: {"y": inputs["x"] * 2, "t": inputs["s"][::-1]})
    assert isinstance(servable, PredictServable)
    response = answer(servable, predict_request("m", {"x": X, "s": strings("a", "b")}))
    assert array(response.outputs["y"]).tolist() == [2, 4]
    assert list(response.outputs["t"].string_val) == [b"b", b"a"]
    assert response.outputs["y"].float_val
    assert servable.asked == [("serving_default", ())]


def test_model_spec_tells_name_version_and_the_signature_that_was_meant() -> None:
    for signature, told in (("", "serving_default"), ("other", "other")):
        servable = Servable()
        response = answer(servable, predict_request("m", {"x": X}, signature=signature))
        assert response.model_spec.name == "m"
        assert response.model_spec.version.value == 3
        assert response.model_spec.signature_name == told
        assert servable.asked == [(told, ())]


def test_content_is_written_if_the_server_is_asked_to() -> None:
    request = predict_request("m", {"x": X, "s": strings("a")})
    response = answer(Servable(), request, serialization_as_tensor_content=True)
    assert response.outputs["x"] == tensor(X, as_content=True)
    assert response.outputs["s"] == tensor(strings("a"), as_content=True)


def test_only_the_outputs_that_are_asked_for_are_written() -> None:
    outputs = dict.fromkeys("abc", X)
    request = predict_request("m", {"x": X}, output_filter=["c", "a"])
    servable = Servable(lambda inputs: outputs)
    assert set(answer(servable, request).outputs) == {"a", "c"}
    assert servable.asked == [("serving_default", ("c", "a"))]
    assert set(answer(Signed(lambda inputs: outputs), request_for("b")).outputs) == {"b"}


def request_for(*output_filter: str, **spec: Any) -> Any:
    return predict_request("m", {"x": X}, output_filter=output_filter, **spec)


def test_a_request_without_inputs_is_for_the_servable_to_judge() -> None:
    servable = Servable(lambda inputs: {"n": numpy.array(len(inputs))})
    response = answer(servable, predict_request("m"))
    assert array(response.outputs["n"]).tolist() == 0


@pytest.mark.parametrize("size", [10_000, 400_000, 2_000_000])
def test_a_request_of_any_size_comes_back_whole(size: int) -> None:
    values = numpy.arange(size, dtype="float32")
    texts = strings(*(b"%d" % i for i in range(size // 10)))
    response = answer(Servable(), predict_request("m", {"x": values, "s": texts}))
    assert numpy.array_equal(array(response.outputs["x"]), values)
    assert list(response.outputs["s"].string_val) == texts.tolist()


def test_what_native_code_leaves_to_protobuf_is_read_as_well() -> None:
    request = predict_request("m", {"x": X})
    request.predict_streamed_options.SetInParent()
    assert array(answer(Servable(), request).outputs["x"]).tolist() == [1, 2]


def test_a_request_waits_for_its_servable_to_be_loaded() -> None:
    async def test(site: Site) -> None:
        site.serving_map.publish({}, pending=["m"])
        waiting = asyncio.ensure_future(site.ask(predict_request("m", {"x": X})))
        await until(lambda: site.calls.in_flight == 1)
        site.serving_map.publish({"m": {3: Servable()}})
        assert array((await waiting).outputs["x"]).tolist() == [1, 2]

    Site(Servable()).run(test)


# --- what is wrong with the request


@pytest.mark.parametrize(
    "servable",
    [object(), None, type("Uncallable", (), {"predict": 7})()],
    ids=["object", "None", "uncallable"],
)
def test_what_has_no_predict_cannot_answer(servable: object) -> None:
    assert refusal(servable, predict_request("m", {"x": X})) == (
        Code.FAILED_PRECONDITION,
        "The servable cannot answer Predict.",
    )


@pytest.mark.parametrize(
    "proto",
    [
        TensorProto(dtype=1, tensor_content=b"abc"),
        TensorProto(dtype=10, tensor_content=b"\2"),
        TensorProto(dtype=7, tensor_content=b"\5abc"),
        TensorProto(dtype=0),
        repeated(-1, tensor(X)),
    ],
    ids=["size", "bool", "string", "type", "shape"],
)
def test_a_bad_tensor_is_told_by_its_alias(proto: Any) -> None:
    request = predict_request("m", {"good": X, "bad": proto}, output_filter=["nope"])
    assert refusal(Signed(dict), request) == (
        Code.INVALID_ARGUMENT,
        "tensor parsing error: bad",
    )


def test_an_unknown_signature_is_refused_if_the_servable_tells_its_own() -> None:
    servable = Signed(dict)
    assert refusal(servable, predict_request("m", {"x": X}, signature="nope")) == (
        Code.FAILED_PRECONDITION,
        'Serving signature key "nope" not found.',
    )
    assert servable.asked == []


@pytest.mark.parametrize("kind", [Servable, Signed])
@pytest.mark.parametrize(
    ("output_filter", "text"),
    [
        (
            ("a", "nope"),
            "output tensor alias not found in signature: nope"
            " Outputs expected to be in the set {a,b}.",
        ),
        (("a", "b", "a"), "duplicate output tensor alias: a"),
    ],
    ids=["unknown", "twice"],
)
def test_a_wrong_output_filter_is_refused_in_the_words_of_savedmodels(
    kind: type[Servable], output_filter: tuple[str, ...], text: str
) -> None:
    servable = kind(lambda inputs: {"b": X, "a": X})
    assert refusal(servable, request_for(*output_filter)) == (Code.INVALID_ARGUMENT, text)
    assert len(servable.asked) == (kind is Servable)  # else it is known before it runs


def test_a_few_bytes_that_ask_for_gigabytes_are_refused() -> None:
    servable = Servable()
    for proto in (tensor(floats(1)), tensor(strings("text"))):
        request = predict_request("m", {"x": repeated(2**40, proto)})
        assert refusal(servable, request) == (
            Code.RESOURCE_EXHAUSTED,
            "The request's tensors are larger than a message may be.",
        )
    limit = 4 * 1000
    request = predict_request("m", {name: repeated(501, tensor(floats(1))) for name in "ab"})
    assert refusal(servable, request, max_message_bytes=limit)[0] is Code.RESOURCE_EXHAUSTED
    assert servable.asked == []


@pytest.fixture
def budget() -> Any:
    yield set_max_in_flight_bytes
    set_max_in_flight_bytes(2**63 - 1)


def test_arrays_and_answers_count_against_the_budget(budget: Any) -> None:
    text = "Too many bytes are in flight (--max_in_flight_bytes)."
    budget(100_000)
    request = predict_request("m", {"x": repeated(50_000, tensor(floats(1)))})
    assert refusal(Servable(), request) == (Code.RESOURCE_EXHAUSTED, text)
    large = Servable(lambda inputs: {"y": numpy.zeros(50_000, "float32")})
    assert refusal(large, predict_request("m", {"x": X})) == (Code.RESOURCE_EXHAUSTED, text)
    # Its copy is refused before it is made, in whatever few bytes it could be told.
    small = Servable(lambda inputs: {"y": numpy.broadcast_to(numpy.int64(0), (20_000,))})
    assert refusal(small, predict_request("m", {"x": X})) == (Code.RESOURCE_EXHAUSTED, text)
    repeats = Servable(lambda inputs: {"y": numpy.broadcast_to(numpy.bytes_(b""), (10_000,))})
    assert refusal(repeats, predict_request("m", {"x": X})) == (Code.RESOURCE_EXHAUSTED, text)
    assert answer(Servable(), predict_request("m", {"x": X}))


# --- what is wrong with the servable


def test_an_error_of_the_servable_is_the_status() -> None:
    def fail(inputs: Outputs) -> Outputs:
        raise ServingError(Code.OUT_OF_RANGE, "no such key: ä")

    assert refusal(Servable(fail), predict_request("m")) == (Code.OUT_OF_RANGE, "no such key: ä")


def test_an_error_without_a_code_is_an_internal_one() -> None:
    def fail(inputs: Outputs) -> Outputs:
        raise ServingError(Code.OK, "all is well")

    assert refusal(Servable(fail), predict_request("m")) == (Code.INTERNAL, "all is well")


@pytest.mark.parametrize(
    ("message", "text"),
    [(ValueError("a mistake"), "a mistake"), (None, "None"), (b"bytes", "b'bytes'"), (7, "7")],
    ids=repr,
)
def test_a_message_that_is_no_text_is_made_one(message: object, text: str) -> None:
    def fail(inputs: Outputs) -> Outputs:
        raise ServingError(Code.ABORTED, message)

    assert refusal(Servable(fail), predict_request("m")) == (Code.ABORTED, text)


@pytest.mark.parametrize("message", [None, b"bytes", 7, "\ud800"], ids=repr)
def test_an_error_whose_message_is_spoilt_afterwards_is_an_error(message: Any) -> None:
    def fail(inputs: Outputs) -> Outputs:
        error = ServingError(Code.ABORTED, "")
        error.message = message
        raise error

    assert refusal(Servable(fail), predict_request("m"))[0] is Code.ABORTED


def test_an_error_whose_text_and_code_cannot_be_had_is_an_internal_one() -> None:
    def fail(inputs: Outputs) -> Outputs:
        error: Any = ServingError(Code.ABORTED, "")
        error.code, error.message = "no code", _Mute()
        raise error

    assert refusal(Servable(fail), predict_request("m")) == (Code.INTERNAL, "The request failed.")


class _Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("I do not tell")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (_Mute(), "_Mute"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_other_exception_is_internal_and_is_logged_with_its_traceback(
    error: BaseException, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(inputs: Outputs) -> Outputs:
        raise error

    assert refusal(Servable(fail), predict_request("m")) == (Code.INTERNAL, text)
    (record,) = caplog.records
    assert record.message == f"Predict on m version 3 raised {type(error).__name__}"
    assert record.exc_info is not None


def test_an_exception_that_comes_again_and_again_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(site: Site) -> None:
        for number in range(20):
            request = predict_request("m", {str(number): X})
            assert await site.refusal(request) == (Code.INTERNAL, f"KeyError: '{number}'")

    def fail(inputs: Outputs) -> Outputs:
        raise KeyError(*inputs)

    Site(Servable(fail)).run(test)
    assert len(caplog.records) == 5  # 1, 2, 4, 8, 16


def test_an_exception_is_let_go_of() -> None:
    seen: list[weakref.ref[Any]] = []

    def fail(inputs: Outputs) -> Outputs:
        seen.append(weakref.ref(inputs["x"]))
        raise ServingError(Code.ABORTED, "no")

    refusal(Servable(fail), predict_request("m", {"x": X}))
    gc.collect()
    assert seen[0]() is None


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (None, "The servable returned no mapping of arrays, but NoneType"),
        (X, "The servable returned no mapping of arrays, but ndarray"),
        ([("y", X)], "The servable returned no mapping of arrays, but list"),
        ({"y": [1.0]}, "The servable's output 'y' is no array, but list"),
        ({1: X}, "The servable's output 1 is no array, but ndarray"),
        ({"y": None}, "The servable's output 'y' is no array, but NoneType"),
    ],
    ids=str,
)
def test_a_result_that_is_no_mapping_of_arrays_is_internal(returned: Any, text: str) -> None:
    assert refusal(Servable(lambda inputs: returned), predict_request("m")) == (
        Code.INTERNAL,
        text,
    )


def test_an_output_that_no_tensor_can_carry_is_internal() -> None:
    servable = Servable(lambda inputs: {"good": X, "y": numpy.zeros(1, "datetime64[s]")})
    code, text = refusal(servable, predict_request("m"))
    assert code is Code.INTERNAL
    assert "output y has a type that a TensorProto cannot carry" in text


def test_a_lack_of_memory_is_told_as_such() -> None:
    def fail(inputs: Outputs) -> Outputs:
        raise MemoryError

    assert refusal(Servable(fail), predict_request("m")) == (
        Code.RESOURCE_EXHAUSTED,
        "out of memory",
    )


@pytest.mark.parametrize("attribute", ["predict", "signature_defs"])
def test_an_attribute_that_raises_is_internal(attribute: str) -> None:
    def fail(self: object) -> object:
        raise ZeroDivisionError("by zero")

    servable = type("Odd", (Servable,), {attribute: property(fail)})()
    assert refusal(servable, predict_request("m")) == (
        Code.INTERNAL,
        "ZeroDivisionError: by zero",
    )


# --- who waits for whom


def test_the_loop_goes_on_while_a_servable_takes_its_time() -> None:
    async def test(site: Site) -> None:
        gated = Gated()
        site.serving_map.publish({"m": {3: Servable()}, "slow": {1: gated}})
        slow = [
            asyncio.ensure_future(site.ask(predict_request("slow", {"x": X}))) for _ in range(50)
        ]
        for _ in range(20):
            await site.ask(predict_request("m", {"x": X}), 10.0)
        assert not any(task.done() for task in slow)
        gated.gate.set()
        await asyncio.gather(*slow)

    Site(Servable()).run(test)


def test_requests_for_one_servable_run_side_by_side() -> None:
    async def test(site: Site) -> None:
        gated = Gated()
        site.serving_map.publish({"m": {3: gated}})
        tasks = [asyncio.ensure_future(site.ask(predict_request("m", {"x": X}))) for _ in range(3)]
        for _ in tasks:
            assert await asyncio.to_thread(gated.began.acquire, timeout=DEADLINE_SECONDS)
        assert site.in_use() == 3
        gated.gate.set()
        await asyncio.gather(*tasks)
        assert site.in_use() == 0

    Site(Servable()).run(test)


def test_the_deadline_is_answered_while_it_runs_and_its_handle_held_until_it_ends() -> None:
    async def test(site: Site) -> None:
        gated = Gated()
        site.serving_map.publish({"m": {3: gated}})
        assert await site.refusal(predict_request("m", {"x": X}), 0.05) == (
            Code.DEADLINE_EXCEEDED,
            "Deadline Exceeded",
        )
        assert site.calls.in_flight == 0
        assert site.calls.held_by_workers == 1
        assert site.in_use() == 1
        gated.gate.set()
        await until(lambda: site.calls.held_by_workers == 0)
        assert site.in_use() == 0

    Site(Servable()).run(test)


def test_a_caller_that_leaves_takes_its_request_out_of_the_queue() -> None:
    async def test(site: Site) -> None:
        gated = Gated()
        site.serving_map.publish({"m": {3: gated}})
        first = asyncio.ensure_future(site.ask(predict_request("m", {"x": X})))
        assert await asyncio.to_thread(gated.began.acquire, timeout=DEADLINE_SECONDS)
        leaving = asyncio.ensure_future(site.ask(predict_request("m", {"x": X})))
        assert await site.refusal(predict_request("m"), 0.02) == (
            Code.DEADLINE_EXCEEDED,
            "Deadline Exceeded",
        )
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        gated.gate.set()
        await first
        await until(lambda: site.calls.held_by_workers == 0)
        assert len(gated.asked) == 1

    Site(Servable(), PythonThreads(threads_each=1)).run(test)


def test_what_nobody_waits_for_is_gone_at_once_though_the_servable_hangs() -> None:
    async def test(site: Site) -> None:
        gated = Gated()
        site.serving_map.publish({"m": {3: gated}})
        first = asyncio.ensure_future(site.ask(predict_request("m", {"x": X})))
        assert await asyncio.to_thread(gated.began.acquire, timeout=DEADLINE_SECONDS)
        held = in_flight_bytes()
        large = predict_request("m", {"x": numpy.zeros(100_000, "float32")})
        tasks = [asyncio.ensure_future(site.refusal(large, 0.05)) for _ in range(20)]
        leaving = [asyncio.ensure_future(site.ask(large)) for _ in range(20)]
        await until(lambda: site.calls.held_by_workers == 41)
        assert in_flight_bytes() > held + 40 * 400_000
        for task in leaving:
            task.cancel()
        await asyncio.gather(*tasks, *leaving, return_exceptions=True)
        await until(lambda: site.calls.held_by_workers == 1)
        assert in_flight_bytes() == held
        gated.gate.set()
        await first
        assert len(gated.asked) == 1

    Site(Servable(), PythonThreads(threads_each=1)).run(test)


def test_bytes_of_a_request_that_still_runs_count_after_its_caller_has_left() -> None:
    async def test(site: Site) -> None:
        gated = Gated()
        site.serving_map.publish({"m": {3: gated}})
        large = predict_request("m", {"x": numpy.zeros(100_000, "float32")})
        assert (await site.refusal(large, 0.3))[0] is Code.DEADLINE_EXCEEDED
        assert in_flight_bytes() > 2 * 400_000  # the message and the array
        gated.gate.set()
        await until(lambda: in_flight_bytes() == 0)

    Site(Servable()).run(test)


@pytest.mark.parametrize("attribute", ["predict", "signature_defs"])
def test_the_loop_goes_on_while_an_attribute_takes_its_time(attribute: str) -> None:
    threads: set[str] = set()
    began, gate = threading.Event(), threading.Event()

    def wait(self: object) -> object:
        threads.add(threading.current_thread().name)
        began.set()
        assert gate.wait(DEADLINE_SECONDS)
        return (lambda *_: {}) if attribute == "predict" else None

    async def test(site: Site) -> None:
        task = asyncio.ensure_future(site.ask(predict_request("m")))
        await until(began.is_set)
        gate.set()
        await task
        assert threads == {"tfsrv-python"}

    Site(type("Slow", (Servable,), {attribute: property(wait)})()).run(test)


def test_a_name_beyond_64_kib_is_refused() -> None:
    name = "ä" * 40_000
    servable = Servable(dict)
    code, text = refusal(servable, predict_request("m", {"x": X}, signature=name))
    assert code is Code.FAILED_PRECONDITION
    assert text.startswith('Serving signature key "ä')
    assert refusal(servable, predict_request("m", {name: X})) == (
        Code.INVALID_ARGUMENT,
        "The name of an input is longer than 64 KiB.",
    )
    assert refusal(servable, predict_request("m", {"x": X}, output_filter=[name])) == (
        Code.INVALID_ARGUMENT,
        "The name of an output is longer than 64 KiB.",
    )
    assert servable.asked == []


TEXTS = strings(*(b"text %d" % i for i in range(5000)))


def test_strings_that_the_servable_keeps_are_left_alone() -> None:
    kept: list[Any] = []

    def keep(what: str, inputs: Any) -> Outputs:
        made = {"made": numpy.array(TEXTS.tolist(), object)}
        kept.append(
            {
                "dict": inputs,
                "array": inputs["x"],
                "view": inputs["x"][:],
                "part": inputs["x"].reshape(50, 100)[::-1],
                "made": made["made"],
                "returned": made,
            }[what]
        )
        return made if what in {"made", "returned"} else {"x": inputs["x"]}

    for what in ("dict", "array", "view", "part", "made", "returned"):
        kept.clear()
        response = answer(Servable(partial(keep, what)), predict_request("m", {"x": TEXTS}))
        assert list(next(iter(response.outputs.values())).string_val) == TEXTS.tolist()
        (found,) = kept
        array = next(iter(found.values())) if isinstance(found, dict) else found
        assert sorted(array.ravel().tolist()) == sorted(TEXTS.tolist())


class _Text(bytes):
    """Notes whether its array is still there when it is freed."""

    array: weakref.ref[Any]
    freed: list[bool]

    def __del__(self) -> None:
        self.freed.append(self.array() is not None)


@pytest.mark.parametrize("fails", [False, True])
def test_strings_are_taken_out_of_their_array_before_it_is_freed(fails: bool) -> None:
    """Which lets the GIL go every now and then; freeing an array with its strings does not."""
    freed: list[bool] = []

    def change(inputs: Any) -> Outputs:
        made = numpy.array(TEXTS.tolist(), object)
        for texts in (inputs["x"], made):
            text = texts[0] = _Text(b"mine")
            text.array, text.freed = weakref.ref(texts), freed
        if fails:
            raise ServingError(Code.ABORTED, "no")
        return {"made": made, "again": inputs["x"], "number": X}

    request = predict_request("m", {"x": TEXTS})
    if fails:
        refusal(Servable(change), request)
        assert sorted(freed) == [False, True]  # what was made for naught is no matter of ours
    else:
        answer(Servable(change), request)
        assert freed == [True, True]


def test_no_string_is_lost() -> None:
    async def test(site: Site) -> None:
        blocks: list[int] = []
        for _ in range(5):
            await site.ask(predict_request("m", {"x": TEXTS}))
            gc.collect()
            blocks.append(sys.getallocatedblocks())
        assert max(blocks[1:]) - min(blocks[1:]) < 2500

    Site(Servable(lambda inputs: {"x": inputs["x"], "y": inputs["x"] + b"!"})).run(test)


def test_a_running_request_whose_caller_leaves_lets_its_servable_go_at_its_end() -> None:
    async def test(site: Site) -> None:
        gated = Gated()
        site.serving_map.publish({"m": {3: gated}})
        leaving = asyncio.ensure_future(site.ask(predict_request("m", {"x": X})))
        assert await asyncio.to_thread(gated.began.acquire, timeout=DEADLINE_SECONDS)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert site.in_use() == 1
        gated.gate.set()
        await until(lambda: site.in_use() == 0)

    Site(Servable()).run(test)


def test_a_version_is_unloaded_after_its_last_answer_is_written() -> None:
    async def test(site: Site) -> None:
        gated = Gated()
        site.serving_map.publish({"m": {3: gated}})
        task = asyncio.ensure_future(site.ask(predict_request("m", {"x": X})))
        assert await asyncio.to_thread(gated.began.acquire, timeout=DEADLINE_SECONDS)
        site.serving_map.publish({})
        assert not await asyncio.to_thread(site.serving_map.drain, "m", 3, 0.02)
        gated.gate.set()
        assert await asyncio.to_thread(site.serving_map.drain, "m", 3, DEADLINE_SECONDS)
        await task

    Site(Servable()).run(test)


def test_a_full_queue_is_unavailable() -> None:
    async def test(site: Site) -> None:
        gated = Gated()
        site.serving_map.publish({"m": {3: gated}})
        tasks = [asyncio.ensure_future(site.ask(predict_request("m", {"x": X})))]
        assert await asyncio.to_thread(gated.began.acquire, timeout=DEADLINE_SECONDS)
        tasks += [asyncio.ensure_future(site.ask(predict_request("m", {"x": X}))) for _ in "ab"]
        await until(lambda: site.calls.in_flight == 3)
        full = (Code.UNAVAILABLE, "The queue of the servable is full; try again.")
        assert await site.refusal(predict_request("m")) == full
        with pytest.raises(ServingError) as caught:
            await site.ask(predict_request("m"))
        about = ErrorDetails(Reason.QUEUE_FULL, "m", 3, "", "serving_default")
        assert caught.value.details == about
        tasks[-1].cancel()  # makes room
        await asyncio.gather(tasks.pop(), return_exceptions=True)
        tasks.append(asyncio.ensure_future(site.ask(predict_request("m", {"x": X}))))
        await until(lambda: site.calls.in_flight == 3)
        gated.gate.set()
        await asyncio.gather(*tasks)

    Site(Servable(), PythonThreads(threads_each=1, waiting_each=2)).run(test)


def test_what_waits_at_the_stop_is_cancelled() -> None:
    async def test(site: Site) -> None:
        gated = Gated()
        site.serving_map.publish({"m": {3: gated}})
        first = asyncio.ensure_future(site.ask(predict_request("m", {"x": X})))
        assert await asyncio.to_thread(gated.began.acquire, timeout=DEADLINE_SECONDS)
        second = asyncio.ensure_future(site.refusal(predict_request("m", {"x": X})))
        await until(lambda: site.calls.in_flight == 2)
        assert not site.threads.stop(0.0)
        assert await second == (Code.CANCELLED, "CANCELLED")
        gated.gate.set()
        await first
        assert await site.refusal(predict_request("m")) == (
            Code.UNAVAILABLE,
            "The server is stopping.",
        )

    Site(Servable(), PythonThreads(threads_each=1)).run(test)


# --- counters


def metrics(signature: str) -> RequestMetrics | None:
    key = ("m", 3, signature, "Predict")
    for entry in snapshot():
        if (entry.model_name, entry.version, entry.signature_name, entry.method) == key:
            return entry
    return None


def counted(signature: str) -> tuple[int, int, int, int, int]:
    """OK, INVALID_ARGUMENT, and the counts of the three histograms."""
    entry = metrics(signature)
    if entry is None:
        return (0, 0, 0, 0, 0)
    ok, wrong = (entry.codes.get(code, 0) for code in (Code.OK, Code.INVALID_ARGUMENT))
    return (ok, wrong, entry.total.count, entry.queue.count, entry.run.count)


def test_requests_are_counted_by_signature_if_the_servable_tells_its_own() -> None:
    for servable, signature, told in (
        (Signed(dict), "other", "other"),
        (Servable(), "made up by the client", ""),
    ):
        before = counted(told)
        answer(servable, predict_request("m", {"x": X}, signature=signature))
        bad = predict_request("m", {"x": TensorProto(dtype=0)}, signature=signature)
        refusal(servable, bad)
        after = counted(told)
        assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 1, 1]
    assert metrics("made up by the client") is None


# --- damage


def test_damaged_requests_get_an_error_or_the_answer_to_what_they_say() -> None:
    random = Random(7)
    counts: dict[str, int] = {}

    async def ask(site: Site, data: bytes) -> None:
        name = "OK"
        try:
            response = await site.ask(data, 20.0)
        except ServingError as error:
            name = error.code.name
        counts[name] = counts.get(name, 0) + 1
        assert name in {"OK", "INVALID_ARGUMENT", "INTERNAL", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
        if name == "OK":
            assert_echoed(site.method.rewrite(data), response)

    async def test(site: Site) -> None:
        maker = WireMaker(random)
        for _ in range(60):
            some = [damaged(maker, random) for _ in range(50)]
            await asyncio.gather(*(ask(site, data) for data in some))
        assert site.in_use() == 0

    Site(Servable(), max_message_bytes=1 << 20).run(test)
    assert counts["OK"] > 100  # or nothing was compared
    assert counts["INTERNAL"] > 100
    assert counts["INVALID_ARGUMENT"] > 100


def damaged(maker: WireMaker, random: Random) -> bytes:
    """A request for m of any inputs, half of them changed somewhere."""
    entries = b"".join(maker.block(2, maker.entry()) for _ in range(random.choice([1, 1, 2, 4])))
    data = maker.block(1, maker.block(1, b"m")) + entries
    if random.random() < 0.2:
        data += maker.block(3, maker.text())
    return data if random.random() < 0.5 else maker.mutated(data)


def assert_echoed(data: bytes, response: Any) -> None:
    """The outputs are the inputs."""
    inputs = arrays_of_request(data)
    for alias, output in response.outputs.items():
        if output.dtype == 19:  # half, whose bits are told
            assert array(output).tobytes() == inputs[alias].tobytes()
        elif output.dtype == 7:
            assert array(output).ravel().tolist() == inputs[alias].ravel().tolist()
        else:
            assert numpy.array_equal(
                array(output), inputs[alias], equal_nan=output.dtype in (1, 2, 8, 18)
            )


def test_the_servable_is_let_go_of_with_its_last_handle() -> None:
    servable = Servable()
    gone = weakref.ref(servable)
    site = Site(servable)
    del servable

    async def test(site: Site) -> None:
        await site.ask(predict_request("m", {"x": X}))
        site.serving_map.publish({})

    site.run(test)
    site.serving_map.publish({})
    gc.collect()
    eventually(lambda: gone() is None)
