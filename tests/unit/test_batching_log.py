"""What batching has learned and chosen, in the log whenever it changes."""

from __future__ import annotations

from typing import Any

import pytest

from tfsrv.batching_log import BatchingLog, sentence

FACTS: dict[str, Any] = {
    "changes": 1,
    "rows_limit": 32,
    "wait_ns": 0,
    "concurrency": 2,
    "saturated": False,
    "arm": "caller",
    "curve_ns": {},
    "p99_ns": 0,
}


class Session:
    """A session with one signature."""

    def __init__(
        self, name: str, version: int = 1, signature: str = "serving_default", **facts: Any
    ) -> None:
        self.name = name
        self.version = version
        self.signature = signature
        self.facts = FACTS | facts

    def describe_batching(self) -> dict[str, dict[str, Any]]:
        return {self.signature: self.facts}


@pytest.fixture(autouse=True)
def _hear(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "tfsrv")


def test_logs_a_choice_once(caplog: pytest.LogCaptureFixture) -> None:
    session = Session("m", 3)
    log = BatchingLog(lambda: [session])
    log.look()
    log.look()
    (record,) = caplog.records
    assert record.message == (
        "Batching m version 3, serving_default: batches of up to 32 rows, 2 at a time,"
        " in the threads that form them"
    )


def test_names_the_method_that_asks_several_signatures_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    BatchingLog(lambda: [Session("m", 3, "")]).look()
    assert caplog.messages[0].startswith("Batching m version 3, MultiInference: batches of ")


def test_logs_again_when_a_choice_changes(caplog: pytest.LogCaptureFixture) -> None:
    session = Session("m")
    log = BatchingLog(lambda: [session])
    log.look()
    session.facts |= {"changes": 2, "rows_limit": 16}
    log.look()
    assert ["32 rows" in caplog.messages[0], "16 rows" in caplog.messages[1]] == [True, True]


def test_says_nothing_where_nothing_was_chosen(caplog: pytest.LogCaptureFixture) -> None:
    BatchingLog(lambda: [Session("m", changes=0)]).look()
    assert not caplog.records


def test_forgets_what_was_unloaded(caplog: pytest.LogCaptureFixture) -> None:
    sessions = [Session("m")]
    log = BatchingLog(lambda: sessions)
    log.look()
    sessions.clear()
    log.look()
    sessions.append(Session("m"))
    log.look()
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("facts", "part"),
    [
        ({"wait_ns": 1_500_000}, "waiting up to 1.5 ms for more"),
        ({"wait_ns": 250_000}, "waiting up to 250 µs for more"),
        ({"saturated": True}, "2 at a time while busy"),
        ({"arm": "pool"}, "on TensorFlow's pool"),
        ({"arm": "single"}, "each in one thread"),
        ({"curve_ns": {1: 2_000_000, 8: 2_400_000_000}}, "runs take 2 ms for 1, 2.4 s for 8"),
        ({"p99_ns": 19_000_000}, "99 % of requests are through in 19 ms"),
    ],
)
def test_tells_what_there_is_to_tell(facts: dict[str, Any], part: str) -> None:
    assert part in sentence(FACTS | facts)


def test_shows_few_points_of_a_long_curve_with_its_ends() -> None:
    curve = {1 << bit: 1000 << bit for bit in range(11)}
    text = sentence(FACTS | {"curve_ns": curve})
    assert text.count(" for ") == 6
    assert " for 1," in text
    assert text.endswith(" for 1024")
