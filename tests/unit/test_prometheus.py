"""The page for Prometheus: its text, and that it is made in slices."""

from __future__ import annotations

import asyncio
import gc
import math
import uuid
from collections.abc import Awaitable, Iterator
from typing import Any, TypeVar

import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from tfsrv import _counters
from tfsrv.frontends.http_messages import HttpRequest
from tfsrv.frontends.prometheus import (
    STEPS_IN_A_SLICE,
    PrometheusMetrics,
    number_text,
    sample_text,
    text_of,
)
from tfsrv.metrics import Histogram
from tfsrv.monitoring.families import STEP, Families, Family, Kind, joined, single
from tfsrv.monitoring.requests import request_families, serving_request_families

GET = HttpRequest("GET", "/metrics", "name=a")
T = TypeVar("T")


def text(*families: Family | None) -> str:
    return "".join(text_of(iter(families)))


def run(awaitable: Awaitable[T]) -> T:
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(awaitable, 60))
    finally:
        loop.close()


# -- the text


def test_a_metric_says_what_it_is_and_of_which_type() -> None:
    assert text(Family("loads", "counter", "All loads.")) == (
        "# HELP loads All loads.\n# TYPE loads counter\n"
    )


def test_help_is_one_line_whatever_is_in_it() -> None:
    assert text(Family("a", "gauge", 'a "b"\nc\\d')).startswith('# HELP a a "b"\\nc\\\\d\n#')


def test_each_value_is_a_line_with_its_labels() -> None:
    family = Family("loads", "counter", "", ("path", "status"), [(("/a", "OK"), 3)])
    assert text(family).endswith('loads{path="/a",status="OK"} 3\n')


def test_without_labels_there_are_braces_as_on_the_page_of_tensorflow_serving() -> None:
    assert text(single(":tensorflow:core:graph_runs", "counter", "", 8)).endswith(
        "\n:tensorflow:core:graph_runs{} 8\n"
    )


def test_a_metric_without_value_has_no_line() -> None:
    assert text(single("a", "gauge", "", None)) == "# HELP a \n# TYPE a gauge\n"


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram((10.0, 1.8e6), (1, 0, 4), 12345678.25)
    family = Family("took", "histogram", "", ("model",), [(("m",), histogram)])
    assert sample_text(family, ("m",), histogram) == (
        'took_bucket{model="m",le="10"} 1\n'
        'took_bucket{model="m",le="1.8e+06"} 1\n'
        'took_bucket{model="m",le="+Inf"} 5\n'
        'took_sum{model="m"} 12345678.25\n'
        'took_count{model="m"} 5\n'
    )
    assert sample_text(Family("took", "histogram", ""), (), histogram).startswith(
        'took_bucket{le="10"} 1\n'
    )


def test_labels_that_are_missing_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        sample_text(Family("a", "gauge", "", ("b",)), (), 1)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (2**70, str(2**70)),
        (1e6, "1000000"),
        (0.1, "0.1"),
        (1e-5, "1e-05"),
        (1e300, "1e+300"),
        (-2.0, "-2"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers_are_written_without_loss(value: float, written: str) -> None:
    assert number_text(value) == written
    assert math.isnan(value) or float(written) == value


NASTY = ('a"b', "a\\b", "a\nb", 'a\\"\n', "ä\u2028é", "a{b}=,", "", "\\n", "\ud800")


@pytest.mark.parametrize("value", NASTY)
def test_prometheus_reads_every_label_as_it_was(value: str) -> None:
    family = Family("a", "gauge", "", ("b", "c"), [((value, "d"), 1.5)])
    page = text(family).encode("utf-8", "replace").decode()
    (read,) = text_string_to_metric_families(page)
    (sample,) = read.samples
    assert sample.labels == {"b": value.replace("\ud800", "?"), "c": "d"}
    assert sample.value == 1.5


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
def test_prometheus_reads_every_type(kind: Kind) -> None:
    value = Histogram((1.0,), (2, 3), 9) if kind == "histogram" else 5
    (read,) = text_string_to_metric_families(text(single("a_b", kind, "What it is.", value)))
    assert (read.name, read.type, read.documentation) == ("a_b", kind, "What it is.")
    assert max(sample.value for sample in read.samples if sample.name != "a_b_sum") == 5


# -- the page


def test_the_answer_says_which_format_it_is() -> None:
    page = PrometheusMetrics(lambda: iter([single("a", "gauge", "b", 1)]))
    response = run(page(GET))
    assert response.status == 200
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert response.body == b"# HELP a b\n# TYPE a gauge\na{} 1\n"


class Turns:
    """Counts how often the loop has its turn, and the steps between two of them."""

    def __init__(self) -> None:
        self.turns = 0
        self.steps = 0
        self.most_steps = 0
        self._is_over = False

    def step(self) -> None:
        self.steps += 1
        self.most_steps = max(self.most_steps, self.steps)

    async def count(self) -> None:
        while not self._is_over:
            self.turns += 1
            self.steps = 0
            await asyncio.sleep(0)

    async def during(self, work: Awaitable[T]) -> T:
        counting = asyncio.create_task(self.count())
        done = await work
        self._is_over = True
        await counting
        return done


def test_the_loop_has_its_turn_after_each_slice() -> None:
    turns = Turns()

    def families() -> Families:
        def samples() -> Iterator[tuple[tuple[str, ...], int] | None]:
            for i in range(1000):
                turns.step()
                yield ((str(i),), i) if i % 3 else STEP

        for _ in range(500):
            turns.step()
            yield STEP
        yield Family("a", "gauge", "", ("b",), samples())

    response = run(turns.during(PrometheusMetrics(families)(GET)))
    assert response.body.count(b"\na{") == 666
    assert turns.most_steps <= STEPS_IN_A_SLICE
    assert turns.turns >= 1501 // STEPS_IN_A_SLICE


def test_a_thousand_models_are_shown_in_small_steps() -> None:
    prefix = uuid.uuid4().hex
    for i in range(1000):
        _counters.add_request(f"{prefix}{i}", 1, "s", "Predict", 0, 1000, 10, 10)
    turns = Turns()
    longest = 0

    def families() -> Families:
        for family in joined([serving_request_families, request_families]):
            turns.step()
            yield family

    for piece in text_of(families()):
        longest = max(longest, piece.count("\n"))
    # One value at a time: 53 bounds at the most, sum and count.
    assert longest <= 55
    response = run(turns.during(PrometheusMetrics(families)(GET)))
    # Those that are summed up, counts and three histograms, and the same for Serving's names.
    assert turns.turns >= (1000 + 4 * 1000 + 3 * 1000) // STEPS_IN_A_SLICE
    assert response.body.count(f'_count{{model="{prefix}'.encode()) == 3000


def test_what_is_read_for_the_page_does_not_pile_up() -> None:
    """Or the garbage collector looks through all of it, and everything waits for that."""
    prefix = uuid.uuid4().hex
    for i in range(2000):
        _counters.add_request(f"{prefix}{i % 10}", i, "s", "Predict", 0, 1000, 10, 10)
    gc.collect()
    before = most = len(gc.get_objects())
    for i, _ in enumerate(text_of(request_families())):
        if i % 500 == 0:
            most = max(most, len(gc.get_objects()))
    assert most - before < 500


class Numbered:
    """Families that tell when they were made, which takes a few turns. For one loop."""

    def __init__(self) -> None:
        self.made = 0
        self.is_begun = asyncio.Event()

    def __call__(self) -> Families:
        self.is_begun.set()
        yield single("made", "gauge", "", self.made)
        self.made += 1
        for _ in range(10 * STEPS_IN_A_SLICE):
            yield STEP


def test_who_comes_while_a_page_is_made_gets_one_that_was_begun_later() -> None:
    async def ask() -> list[bytes]:
        families = Numbered()
        page = PrometheusMetrics(families)
        first = asyncio.create_task(page(GET))
        await families.is_begun.wait()
        others = [asyncio.create_task(page(GET)) for _ in range(5)]
        responses = [await first, *[await other for other in others]]
        responses.append(await page(GET))
        return [response.body.splitlines()[-1] for response in responses]

    assert run(ask()) == [b"made{} 0", *[b"made{} 1"] * 5, b"made{} 2"]


def test_who_leaves_takes_the_page_from_nobody() -> None:
    async def ask() -> tuple[Any, int]:
        families = Numbered()
        page = PrometheusMetrics(families)
        first, second = (asyncio.create_task(page(GET)) for _ in range(2))
        await families.is_begun.wait()
        first.cancel()
        return await second, families.made

    response, made = run(ask())
    assert response.body.endswith(b"made{} 0\n")
    assert made == 1


def test_an_error_is_told_and_the_next_page_is_made() -> None:
    families = [iter([single("a", "gauge", "", 1)])]

    def fail_once() -> Families:
        return families.pop()

    async def ask() -> Any:
        page = PrometheusMetrics(fail_once)
        families_of_now = families[:]
        families.clear()
        with pytest.raises(IndexError):
            await page(GET)
        families.extend(families_of_now)
        return await page(GET)

    assert run(ask()).body.endswith(b"a{} 1\n")
