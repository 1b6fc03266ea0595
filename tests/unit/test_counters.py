"""Counts of requests: which bucket, whose counters, and nothing lost between threads."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsrv import _counters, metrics
from tfsrv.errors import Code

_fresh_names = itertools.count()
BOUNDS = _counters.BOUNDS_MICROS


@pytest.fixture
def method() -> str:
    """A method that nobody has counted yet: counters live as long as the process."""
    return f"Method{next(_fresh_names)}"


def counted(method: str, entrypoint: str = metrics.GRPC) -> metrics.RequestMetrics:
    found = [
        metric
        for metric in metrics.snapshot()
        if (metric.method, metric.entrypoint) == (method, entrypoint)
    ]
    assert len(found) == 1
    return found[0]


def only_bucket(histogram: metrics.Histogram) -> int:
    assert histogram.count == 1
    return histogram.counts.index(1)


def test_bounds_are_those_of_tensorflow_serving() -> None:
    assert len(BOUNDS) == 33
    assert BOUNDS[:6] == (10.0, 18.0, 32.4, 58.32, 104.976, 188.95680000000002)
    assert BOUNDS[-1] == pytest.approx(10 * 1.8**32)


@pytest.mark.parametrize("bucket", range(34))
def test_a_value_on_a_bound_belongs_to_the_bucket_above(method: str, bucket: int) -> None:
    lowest = 0 if bucket == 0 else -int(-BOUNDS[bucket - 1] * 1000 // 1)
    highest = 2**63 - 1 if bucket == 33 else -int(-BOUNDS[bucket] * 1000 // 1) - 1
    _counters.add_request("m", 1, "s", method, 0, lowest, highest)
    metric = counted(method)
    assert (only_bucket(metric.total), only_bucket(metric.queue)) == (bucket, bucket)


@given(st.one_of(st.integers(0, 2**63 - 1), st.integers(0, 62).flatmap(
    lambda bit: st.integers(2**bit - 2**bit // 8, 2**bit + 2**bit // 8))))  # fmt: skip
def test_each_value_is_between_the_bounds_of_its_bucket(nanoseconds: int) -> None:
    key = ("m", 1, "s", "each value")
    _counters.add_request(*key, 1, 0, 0, 0)
    before = _counters.read_histograms(key)[2][0]
    _counters.add_request(*key, 1, 0, 0, nanoseconds)
    after = _counters.read_histograms(key)[2][0]
    (bucket,) = [i for i in range(34) if after[i] != before[i]]
    assert bucket == 0 or BOUNDS[bucket - 1] * 1000 <= nanoseconds
    assert bucket == 33 or nanoseconds < BOUNDS[bucket] * 1000


def test_one_ok_request_is_counted_everywhere(method: str) -> None:
    _counters.add_request("m", 7, "s", method, Code.OK, 50_000, 20_000, 5_000)
    metric = counted(method)
    assert (metric.model_name, metric.version, metric.signature_name) == ("m", 7, "s")
    assert metric.codes == {Code.OK: 1}
    assert [only_bucket(h) for h in (metric.total, metric.queue, metric.run)] == [3, 2, 0]
    assert [h.sum for h in (metric.total, metric.queue, metric.run)] == [50.0, 20.0, 5.0]


def test_the_total_time_of_a_failed_request_is_not_counted(method: str) -> None:
    _counters.add_request("m", 1, "s", method, Code.INTERNAL, 50_000, 20_000, 5_000)
    metric = counted(method)
    assert metric.codes == {Code.INTERNAL: 1}
    assert (metric.total.count, metric.queue.count, metric.run.count) == (0, 1, 1)


def test_the_time_of_a_failed_request_is_counted_by_its_code(method: str) -> None:
    _counters.add_request("m", 1, "s", method, Code.INTERNAL, 50_000)
    _counters.add_request("m", 1, "s", method, Code.NOT_FOUND, 20_000)
    _counters.add_request("m", 1, "s", method, Code.NOT_FOUND, 20_000)
    failed = counted(method).failed
    assert {code: (h.count, h.sum) for code, h in failed.items()} == {
        Code.INTERNAL: (1, 50.0),
        Code.NOT_FOUND: (2, 40.0),
    }


def test_a_failed_request_of_which_nobody_knows_how_long_it_took_is_counted(method: str) -> None:
    _counters.add_request("m", 1, "s", method, Code.CANCELLED, -1)
    metric = counted(method)
    assert (metric.codes, metric.failed) == ({Code.CANCELLED: 1}, {})


def test_requests_by_rest_are_counted_apart(method: str) -> None:
    _counters.add_request("m", 1, "s", method, Code.OK, 50_000, 20_000, 5_000)
    _counters.add_request("m", 1, "s", method, Code.OK, 90_000, 30_000, 7_000, rest=True)
    _counters.add_request("m", 1, "s", method, Code.INTERNAL, 1_000, rest=True)
    metric, by_rest = counted(method), counted(method, metrics.REST)
    assert (metric.codes, by_rest.codes) == ({Code.OK: 1}, {Code.OK: 1, Code.INTERNAL: 1})
    assert [h.sum for h in (metric.total, metric.queue, metric.run)] == [50.0, 20.0, 5.0]
    assert [h.sum for h in (by_rest.total, by_rest.queue, by_rest.run)] == [90.0, 30.0, 7.0]
    assert by_rest.failed[Code.INTERNAL].sum == 1.0


def test_what_nobody_asked_by_rest_is_not_told(method: str) -> None:
    key = ("m", 1, "s", method)
    _counters.add_request(*key, Code.OK, 1)
    assert {metric.entrypoint for metric in metrics.requests_of(key)} == {metrics.GRPC}
    assert _counters.read_codes(key, True) == (0,) * 17
    assert _counters.read_histograms(key, True) == (((0,) * 34, 0),) * 3
    assert _counters.read_failed(key, True) == {}
    assert _counters.read_examples(key, True) == ((0,) * 16, 0)


@pytest.mark.parametrize("by_rest", [False, True])
@pytest.mark.parametrize(
    ("examples", "bucket"),
    [(1, 1), (2, 2), (3, 2), (4, 3), (2**14 - 1, 14), (2**14, 15), (2**40, 15)],
)
def test_examples_are_counted_by_their_number(
    method: str, examples: int, bucket: int, by_rest: bool
) -> None:
    _counters.add_request("m", 1, "s", method, Code.OK, 1, rest=by_rest, examples=examples)
    counts = counted(method, metrics.REST if by_rest else metrics.GRPC).examples
    assert (only_bucket(counts), counts.sum) == (bucket, examples)
    assert bucket == 15 or counts.bounds[bucket - 1] <= examples < counts.bounds[bucket]


def test_a_request_without_examples_is_not_among_those_that_have_some(method: str) -> None:
    _counters.add_request("m", 1, "s", method, Code.OK, 1)
    assert counted(method).examples.count == 0


def test_a_request_that_never_ran_has_no_queue_and_run_time(method: str) -> None:
    _counters.add_request("", 0, "", method, Code.NOT_FOUND, 50_000)
    metric = counted(method)
    assert metric.codes == {Code.NOT_FOUND: 1}
    assert (metric.total.count, metric.queue.count, metric.run.count) == (0, 0, 0)


def test_a_time_below_zero_counts_as_zero(method: str) -> None:
    _counters.add_request("m", 1, "s", method, Code.OK, -5)
    total = counted(method).total
    assert (only_bucket(total), total.sum) == (0, 0.0)


@pytest.mark.parametrize("code", [-1, 17, 2**31 - 1, -(2**31)])
def test_a_code_that_is_none_counts_as_unknown(method: str, code: int) -> None:
    _counters.add_request("m", 1, "s", method, code, 1)
    assert counted(method).codes == {Code.UNKNOWN: 1}


def test_each_model_version_signature_and_method_has_its_own_counters(method: str) -> None:
    keys = [("m", 1, "s"), ("n", 1, "s"), ("m", 2, "s"), ("m", 1, "t")]
    for times, key in enumerate(keys, 1):
        for _ in range(times):
            _counters.add_request(*key, method, Code.OK, 1)
    seen = {
        (metric.model_name, metric.version, metric.signature_name): metric.codes[Code.OK]
        for metric in metrics.snapshot()
        if metric.method == method
    }
    assert seen == {("m", 1, "s"): 1, ("n", 1, "s"): 2, ("m", 2, "s"): 3, ("m", 1, "t"): 4}


def test_a_snapshot_stays_as_it_was(method: str) -> None:
    _counters.add_request("m", 1, "s", method, Code.OK, 1)
    before = counted(method)
    _counters.add_request("m", 1, "s", method, Code.OK, 1)
    assert before.codes == {Code.OK: 1}
    assert before.total.count == 1
    assert counted(method).total.count == 2


def test_unknown_counters_are_not_made_by_reading() -> None:
    with pytest.raises(KeyError):
        _counters.read_codes(("nobody", 1, "s", "m"))


@pytest.mark.parametrize("by_rest", [False, True])
def test_native_threads_lose_no_request(method: str, by_rest: bool) -> None:
    threads, adds = 4, 17 * 4096
    _counters.stress("m", 1, "s", method, threads, adds, 17, by_rest)
    metric = counted(method, metrics.REST if by_rest else metrics.GRPC)
    assert metric.codes == dict.fromkeys(Code, threads * adds // 17)
    micros = [i % 4096 for i in range(adds)]
    ok_micros = [micros[i] for i in range(0, adds, 17)]
    assert metric.total.count == threads * len(ok_micros)
    assert metric.total.sum == threads * sum(ok_micros)
    assert metric.queue.sum == pytest.approx(threads * sum(micros) / 10)
    assert metric.run.sum == pytest.approx(threads * sum(micros) / 1000)
    assert metric.examples.count == threads * adds
    assert metric.examples.sum == threads * sum(micros)
    assert all(h.count == threads * adds // 17 for h in metric.failed.values())
    assert sum(h.sum for h in metric.failed.values()) == threads * (sum(micros) - sum(ok_micros))
    for bucket in range(34):
        lowest = BOUNDS[bucket - 1] if bucket else 0
        highest = BOUNDS[bucket] if bucket < 33 else float("inf")
        in_bucket = sum(lowest <= value / 10 < highest for value in micros)
        assert metric.queue.counts[bucket] == threads * in_bucket


def test_snapshots_only_grow_while_threads_count(method: str) -> None:
    _counters.add_request("m", 1, "s", method, Code.OK, 1, 1, 1)
    with ThreadPoolExecutor(1) as executor:
        counting = executor.submit(_counters.stress, "m", 1, "s", method, 2, 200_000, 1)
        before = counted(method)
        while not counting.done():
            after = counted(method)
            assert after.codes[Code.OK] >= before.codes[Code.OK]
            for name in ("total", "queue", "run"):
                pairs = zip(getattr(before, name).counts, getattr(after, name).counts, strict=True)
                assert all(old <= new for old, new in pairs)
            before = after
    assert counted(method).codes == {Code.OK: 400_001}
    assert counted(method).total.count == 400_001
