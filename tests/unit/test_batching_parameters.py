"""BatchingParameters: every field with its default, its bounds and what is said of a wrong one."""

from __future__ import annotations

import math
import os
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsrv import _proto, batching_parameters
from tfsrv.batching_parameters import BatchingParameters, WrongParameterError
from tfsrv.batching_parameters_file import (
    BATCHING_PARAMETERS,
    parse_batching_parameters,
    read_batching_parameters,
    read_version_parameters,
)
from tfsrv.errors import Code, ServingError


def parsed(text: str, **options: float) -> BatchingParameters:
    return parse_batching_parameters(text, "batching.config", **options)


def refused(text: str | bytes) -> str:
    with pytest.raises(ServingError) as caught:
        parse_batching_parameters(text, "batching.config")
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


def wrong(**values: Any) -> str:
    with pytest.raises(WrongParameterError) as caught:
        BatchingParameters(**values)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.parameter in values
    return caught.value.message


# -- values


def test_defaults_are_those_of_tensorflow_serving() -> None:
    made = BatchingParameters()
    assert made == parsed("")
    assert made.max_batch_size == made.max_execution_batch_size == 1000
    assert not made.explicit_max_batch_size
    assert made.batch_timeout_micros == 0
    assert made.max_enqueued_batches == 10
    assert made.num_batch_threads == min(len(os.sched_getaffinity(0)), 64)
    assert made.thread_pool_name == "batch_threads"
    assert made.allowed_batch_sizes == ()
    assert not made.pad_variable_length_inputs
    assert not made.enable_large_batch_splitting
    assert made.max_concurrent_runs == 0
    assert made.target_latency_ms == 0.0


def test_a_machine_of_many_processors_gets_as_many_threads_as_there_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching_parameters, "cpus", lambda: 256)
    assert BatchingParameters().num_batch_threads == 64


EVERY_FIELD = """
max_batch_size { value: 64 }
batch_timeout_micros { value: 1500 }
max_enqueued_batches { value: 7 }
num_batch_threads { value: 3 }
thread_pool_name { value: "mine" }
allowed_batch_sizes: 8
allowed_batch_sizes: [ 16, 64 ]
pad_variable_length_inputs: true
enable_large_batch_splitting { value: true }
max_execution_batch_size { value: 32 }
max_concurrent_runs { value: 2 }
target_latency_ms { value: 12.5 }
"""


def test_reads_every_field() -> None:
    assert parsed(EVERY_FIELD) == BatchingParameters(
        max_batch_size=64,
        batch_timeout_micros=1500,
        max_enqueued_batches=7,
        num_batch_threads=3,
        thread_pool_name="mine",
        allowed_batch_sizes=(8, 16, 64),
        pad_variable_length_inputs=True,
        enable_large_batch_splitting=True,
        max_execution_batch_size=32,
        max_concurrent_runs=2,
        target_latency_ms=12.5,
        explicit_max_batch_size=True,
    )


def test_has_every_field_of_the_message_and_whether_the_size_was_given() -> None:
    message = {field.name for field in _proto.message_class(BATCHING_PARAMETERS).DESCRIPTOR.fields}
    assert {field.name for field in fields(BatchingParameters)} == message | {
        "explicit_max_batch_size"
    }
    assert all(f"\n{name}" in EVERY_FIELD for name in message)


def test_values_cannot_be_changed_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        BatchingParameters().max_batch_size = 1  # type: ignore[misc]


def test_a_size_that_was_given_is_told_from_the_default() -> None:
    assert parsed("max_batch_size { value: 1000 }").explicit_max_batch_size
    assert BatchingParameters(max_batch_size=8).explicit_max_batch_size
    assert not parsed("num_batch_threads { value: 1 }").explicit_max_batch_size


def test_a_batch_holds_what_a_request_may_have_unless_requests_are_split() -> None:
    assert parsed("max_batch_size { value: 8 }").max_execution_batch_size == 8
    ignored = "max_batch_size { value: 8 } max_execution_batch_size { value: 4 }"
    assert parsed(ignored).max_execution_batch_size == 8
    split = "enable_large_batch_splitting { value: true }"
    assert parsed(ignored + split).max_execution_batch_size == 4
    assert parsed("max_batch_size { value: 8 }" + split).max_execution_batch_size == 8
    assert parsed(split).max_execution_batch_size == 1000  # TensorFlow Serving: 0


def test_no_enqueued_batches_are_one_unless_requests_are_split() -> None:
    assert parsed("max_enqueued_batches { value: 0 }").max_enqueued_batches == 1
    assert BatchingParameters(max_enqueued_batches=0).max_enqueued_batches == 1
    message = wrong(max_enqueued_batches=0, enable_large_batch_splitting=True)
    assert message == "max_enqueued_batches must be positive; was 0"


def test_a_model_takes_its_threads_from_the_shared_parameters() -> None:
    own = BatchingParameters(max_batch_size=8, num_batch_threads=9, thread_pool_name="own")
    shared = BatchingParameters(max_batch_size=16, num_batch_threads=2, thread_pool_name="all")
    assert own.in_pool_of(shared) == replace(own, num_batch_threads=2, thread_pool_name="all")
    assert own.in_pool_of(shared).max_batch_size == 8


def test_a_target_that_the_text_does_not_name_is_the_given_one() -> None:
    assert parsed("", target_latency_ms=5.0).target_latency_ms == 5.0
    assert parsed("target_latency_ms { value: 0 }", target_latency_ms=5.0).target_latency_ms == 0
    assert parsed("target_latency_ms { value: 2 }", target_latency_ms=5.0).target_latency_ms == 2


# -- what is wrong

HOUR = 3_600_000_000


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"max_batch_size": 0}, "input_batch_size_limit must be positive; was 0"),
        ({"max_batch_size": -5}, "input_batch_size_limit must be positive; was -5"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros must be non-negative; was -1"),
        ({"max_enqueued_batches": -1}, "max_enqueued_batches must be non-negative; was -1"),
        ({"num_batch_threads": 0}, "num_batch_threads must be positive; was 0"),
        ({"num_batch_threads": -1}, "num_batch_threads must be positive; was -1"),
        ({"max_execution_batch_size": -1}, "max_execution_batch_size must be non-negative; was -1"),
        ({"max_concurrent_runs": -2}, "max_concurrent_runs must be non-negative; was -2"),
        ({"target_latency_ms": -0.5}, "target_latency_ms must be non-negative; was -0.5"),
        ({"target_latency_ms": math.nan}, "target_latency_ms must be non-negative; was nan"),
        ({"target_latency_ms": math.inf}, "target_latency_ms must be at most 3600000; was inf"),
        ({"target_latency_ms": 3_600_001.0}, "must be at most 3600000; was 3600001"),
        ({"max_batch_size": 2**31}, "max_batch_size must be at most 2147483647; was 2147483648"),
        ({"batch_timeout_micros": HOUR + 1}, "batch_timeout_micros must be at most 3600000000;"),
        ({"max_enqueued_batches": 2**31}, "max_enqueued_batches must be at most 2147483647;"),
        ({"max_concurrent_runs": 2**63 - 1}, "max_concurrent_runs must be at most 2147483647;"),
        ({"num_batch_threads": 65}, "num_batch_threads must be at most 64; was 65. Threads form"),
    ],
)
def test_says_what_is_wrong_with_a_value(values: dict[str, Any], sentence: str) -> None:
    assert wrong(**values).startswith(sentence) or wrong(**values).endswith(sentence)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch_size", 1),
        ("max_batch_size", 2**31 - 1),
        ("batch_timeout_micros", HOUR),
        ("max_enqueued_batches", 2**31 - 1),
        ("num_batch_threads", 1),
        ("num_batch_threads", 64),
        ("max_concurrent_runs", 2**31 - 1),
        ("target_latency_ms", 3_600_000.0),
    ],
)
def test_takes_what_is_just_inside_the_bounds(name: str, value: Any) -> None:
    assert getattr(BatchingParameters(**{name: value}), name) == value


def test_a_batch_of_split_requests_is_not_larger_than_a_request() -> None:
    message = wrong(max_batch_size=8, max_execution_batch_size=9, enable_large_batch_splitting=True)
    assert message == (
        "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or"
        " equal to max_execution_batch_size."
    )
    BatchingParameters(max_batch_size=8, max_execution_batch_size=9)  # it is not looked at


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((2, 4), "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4;"),
        ((8, 16), "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 16"),
        ((4, 2, 8), "allowed_batch_sizes entries must be monotonically increasing; 2 came after 4"),
        ((4, 4, 8), "allowed_batch_sizes entries must be monotonically increasing; 4 came after 4"),
        ((0, 8), "Entries in allowed_batch_sizes must be positive; the first was 0"),
        ((-1, 8), "Entries in allowed_batch_sizes must be positive; the first was -1"),
    ],
)
def test_allowed_sizes_ascend_to_the_largest_batch(sizes: tuple[int, ...], sentence: str) -> None:
    assert wrong(max_batch_size=8, allowed_batch_sizes=sizes).startswith(sentence)


def test_the_last_allowed_size_is_that_of_a_batch_without_a_size() -> None:
    message = refused("allowed_batch_sizes: 32")
    assert message == (
        "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 32; expected"
        " 1000 (batching.config:1)"
    )
    assert parsed("allowed_batch_sizes: [8, 1000]").allowed_batch_sizes == (8, 1000)


@pytest.mark.parametrize("last", [4, 8])
def test_with_splitting_the_last_allowed_size_may_be_that_of_either_limit(last: int) -> None:
    made = BatchingParameters(
        max_batch_size=8,
        max_execution_batch_size=4,
        enable_large_batch_splitting=True,
        allowed_batch_sizes=(2, last),
    )
    assert made.allowed_batch_sizes == (2, last)
    with pytest.raises(WrongParameterError, match="last entry was 6; expected 8"):
        replace(made, allowed_batch_sizes=(2, 6))


INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 70)


@given(
    max_batch_size=INT64,
    batch_timeout_micros=INT64,
    max_enqueued_batches=INT64,
    num_batch_threads=INT64,
    max_execution_batch_size=INT64,
    max_concurrent_runs=INT64,
    allowed_batch_sizes=st.lists(INT64, max_size=3).map(tuple),
    target_latency_ms=st.floats(),
    enable_large_batch_splitting=st.booleans(),
)
def test_whatever_64_bits_hold_is_refused_or_sane(**values: Any) -> None:
    try:
        made = BatchingParameters(**values)
    except WrongParameterError:
        return
    assert 1 <= made.max_execution_batch_size <= made.max_batch_size < 2**31
    assert 1 <= made.max_enqueued_batches < 2**31
    assert 0 <= made.batch_timeout_micros <= HOUR
    assert 1 <= made.num_batch_threads <= 64
    assert 0 <= made.max_concurrent_runs < 2**31
    assert 0 <= made.target_latency_ms <= 3_600_000
    assert sorted({0, *made.allowed_batch_sizes})[1:] == list(made.allowed_batch_sizes)


# -- texts and files


def test_a_wrong_value_is_told_with_its_line() -> None:
    text = '# sizes\nmax_batch_size {\n  value: 8\n}\nthread_pool_name { value: "{" }\n'
    assert refused(text + "num_batch_threads { value: 0 }") == (
        "num_batch_threads must be positive; was 0 (batching.config:6)"
    )
    assert refused(text + "allowed_batch_sizes: 4\nallowed_batch_sizes: 4").endswith(
        "4 came after 4 (batching.config:7)"
    )
    assert refused(text.replace("8", "0")).endswith("was 0 (batching.config:2)")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_batch_size: 8", "batching.config:1:"),
        ("\nmax_batch_sise { value: 8 }", "batching.config:2:1: "),
        ("num_batch_threads { value: 9223372036854775808 }", "batching.config:1:"),
        ("enable_large_batch_splitting: true", "batching.config:1:"),
        (b"\xff", "batching.config:1:1: not UTF-8"),
    ],
)
def test_a_text_that_is_none_is_told_with_its_line(text: str | bytes, reason: str) -> None:
    message = refused(text)
    assert message.startswith(f"Invalid protobuf file: 'batching.config' ({reason}")
    assert "\n" not in message


def test_reads_a_file(tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 8 }")
    made = read_batching_parameters(str(file), target_latency_ms=5.0)
    assert made == BatchingParameters(max_batch_size=8, target_latency_ms=5.0)


def test_a_file_that_cannot_be_read_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="nosuch; No such file") as caught:
        read_batching_parameters(str(tmp_path / "nosuch"))
    assert caught.value.code is Code.NOT_FOUND
    with pytest.raises(ServingError, match="Is a directory") as caught:
        read_batching_parameters(str(tmp_path))
    with pytest.raises(ServingError, match=r"Invalid protobuf file: '/dev/zero' \(it is larger"):
        read_batching_parameters("/dev/zero")


def test_a_version_has_parameters_if_it_has_the_file(tmp_path: Path) -> None:
    assert read_version_parameters(str(tmp_path)) is None
    file = tmp_path / "batching_params.pbtxt"
    file.write_text("max_batch_size { value: 8 }")
    made = read_version_parameters(str(tmp_path), target_latency_ms=5.0)
    assert made == BatchingParameters(max_batch_size=8, target_latency_ms=5.0)
    file.write_text("max_batch_size: 8")
    with pytest.raises(ServingError, match=f"Invalid protobuf file: '{file}'"):
        read_version_parameters(str(tmp_path))
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")  # somebody meant it to be there
    with pytest.raises(ServingError, match="No such file"):
        read_version_parameters(str(tmp_path))


def test_tells_what_matters_in_one_sentence() -> None:
    plain = BatchingParameters(num_batch_threads=2)
    assert plain.sentence() == "2 threads, batches of up to 1000 rows"
    told = BatchingParameters(
        num_batch_threads=4,
        max_batch_size=32,
        allowed_batch_sizes=(8, 32),
        batch_timeout_micros=1500,
        max_concurrent_runs=1,
        target_latency_ms=20.0,
    ).sentence()
    assert told == (
        "4 threads, batches of up to 32 rows, padded to 8, 32, that wait up to 1.5 ms to fill up,"
        " at most 1 of a model at a time, chosen so that 99 % of requests take 20 ms"
    )
