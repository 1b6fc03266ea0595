"""The benchmarks judge answers and read the load generator's report; here they are judged."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

import _calibrated
from _load import Load, Run, Sample, WrongAnswerError, median_sample, parse_h2load, percentile
from _report import number, table
from _workloads import Workload
from bench_batch_tensors import MEMCPY, report

REPORT = """\
starting benchmark...
progress: 100% done

finished in 249.00ms, 12048.10 req/s, 1.16MB/s
requests: 3 total, 3 started, 3 done, 3 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 3 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 295.58KB (302676) total, 9.08KB (9300) headers (space savings 96.17%), 135B (135) data
                     min         max         mean         sd        +/- sd
time for request:      186us     11.23ms      5.22ms       881us    83.83%
"""
LOG = "1795389987658097\t200\t30\n1795389987658098\t200\t10\n1795389987658099\t-1\t20\n"

FLOAT = b"\x08\x01"  # dtype: DT_FLOAT
SHAPE = b"\x12\x04\x12\x02\x08\x01"  # tensor_shape { dim { size: 1 } }
VALUE = b"\x00\x00\x20\x40"  # 2.5
SPEC = b"\x12\x05\x0a\x01m\x12\x00"  # model_spec { name: "m" version {} }


def response(tensor: bytes, spec: bytes = SPEC, *, spec_first: bool = False) -> bytes:
    """A PredictResponse with one output named y."""
    entry = b"\x0a\x01y\x12" + bytes([len(tensor)]) + tensor
    outputs = b"\x0a" + bytes([len(entry)]) + entry
    return spec + outputs if spec_first else outputs + spec


RIGHT = response(FLOAT + SHAPE + b"\x2a\x04" + VALUE)  # float_val, packed


def workload() -> Workload:
    return Workload("w", "m", Path("m"), b"request", RIGHT, "x:0", "y:0")


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT,
        response(SHAPE + FLOAT + b"\x2a\x04" + VALUE, spec_first=True),
        response(FLOAT + SHAPE + b"\x22\x04" + VALUE),
        response(FLOAT + SHAPE + b"\x2d" + VALUE),
        response(FLOAT + SHAPE + b"\x18\x00" + b"\x2a\x04" + VALUE),
    ],
    ids=["the same bytes", "another order", "tensor_content", "not packed", "version number"],
)
def test_an_answer_is_right_however_it_is_encoded(answer: bytes) -> None:
    assert workload().is_right(answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        RIGHT[:-1],
        response(FLOAT + SHAPE + b"\x2a\x04" + VALUE[:3] + b"\x41"),
        response(b"\x08\x02" + SHAPE + b"\x2a\x04" + VALUE),
        response(FLOAT + b"\x2a\x04" + VALUE),
        response(FLOAT + SHAPE + b"\x2a\x04" + VALUE, b"\x12\x05\x0a\x01n\x12\x00"),
        RIGHT + b"\x1a\x00",
    ],
    ids=["empty", "cut off", "value", "dtype", "shape", "model", "unknown field"],
)
def test_an_answer_that_says_something_else_is_wrong(answer: bytes) -> None:
    assert not workload().is_right(answer)


def test_reads_what_h2load_prints_and_logs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOG)
    result = parse_h2load(REPORT, log)
    assert (result.done, result.succeeded, result.data_bytes) == (3, 3, 135)
    assert result.requests_per_second == 12048.10
    assert result.latencies_micros == [10, 30]


def test_refuses_a_report_that_lacks_the_traffic(tmp_path: Path) -> None:
    with pytest.raises(WrongAnswerError, match="something unknown"):
        parse_h2load(REPORT.replace("traffic", "trouble").replace(" data\n", "\n"), tmp_path)


@pytest.mark.parametrize(("percent", "expected"), [(50, 5), (99, 10), (100, 10), (1, 1)])
def test_percentile_is_the_value_that_so_many_do_not_pass(percent: float, expected: int) -> None:
    assert percentile(list(range(1, 11)), percent) == expected


def test_percentile_of_nothing_is_no_figure() -> None:
    with pytest.raises(WrongAnswerError):
        percentile([], 50)


@pytest.mark.parametrize("text", ["4x16", "4×16"])
def test_a_load_is_connections_by_streams(text: str) -> None:
    assert Load.parse(text) == Load(4, 16)


@pytest.mark.parametrize("text", ["", "4", "4x", "0x1", "1x0", "4x16x2", "-1x1"])
def test_refuses_what_is_no_load(text: str) -> None:
    with pytest.raises(ValueError, match="CONNECTIONSxSTREAMS"):
        Load.parse(text)


def test_a_sample_of_several_runs_weighs_each_request_alike() -> None:
    quick = Run(requests=98, probes=1, seconds=1.0, cpu_seconds=0.01, latencies_micros=[10] * 98)
    slow = Run(requests=2, probes=0, seconds=1.0, cpu_seconds=0.01, latencies_micros=[70, 90])
    sample = Sample.of(quick, slow)
    assert sample.requests_per_second == 50
    assert sample.cpu_micros == pytest.approx(0.02 * 1e6 / 101)
    assert (sample.p50_micros, sample.p99_micros, sample.max_micros) == (10, 70, 90)


def test_the_median_is_taken_for_each_figure() -> None:
    samples = [
        Sample.of(Run(1, 0, seconds, cpu, [1]))
        for seconds, cpu in ((1.0, 3e-6), (0.5, 1e-6), (0.25, 2e-6))
    ]
    median = median_sample(samples)
    assert (median.requests_per_second, median.requests) == (2, 3)
    assert median.cpu_micros == pytest.approx(2)


def test_a_table_is_aligned_markdown() -> None:
    assert table(["load", "µs"], [["1x1", number(1.234)], ["4x16", number(12345)]]) == (
        "| load |     µs |\n| ---- | -----: |\n| 1x1  |   1.23 |\n| 4x16 | 12,345 |"
    )


def test_batch_tensors_are_compared_with_the_faster_memcpy() -> None:
    whole, pieces = MEMCPY
    text = report({whole: 2_000_000, pieces: 1_000_000, "merge": 1_250_000, "split": 1_300_000})
    merge, split = text.splitlines()[-2:]
    assert "80%" in merge
    assert "reached" in merge
    assert "77%" in split
    assert "MISSED" in split


@pytest.mark.parametrize("clients", ["coroutines", "threads"])
def test_the_calibrated_callable_is_measured_with_and_without_parameters(clients: str) -> None:
    choices = [_calibrated.Choice(), _calibrated.Choice(64, 1.0)]
    throughput = _calibrated.measure(
        _calibrated.sleeping, choices, clients, seconds=0.5, warm_seconds=0.1, rounds=1
    )
    assert list(throughput) == choices
    assert all(each > 0 for each in throughput.values())
    assert _calibrated.ratio_to_best(throughput) == throughput[choices[0]] / throughput[choices[1]]
    assert "64 rows, 1.0 ms" in _calibrated.report(throughput)


def test_computing_takes_longer_for_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[object] = []
    computing = _calibrated.Computing()
    monkeypatch.setattr(computing, "_steps_a_second", 100_000.0)
    monkeypatch.setattr(computing, "_step", steps.append)
    computing(numpy.zeros(1))
    assert len(steps) == 205  # 2.05 ms
    computing(numpy.zeros(400))
    assert len(steps) == 205 + 2200
