"""From the rename of a directory into place to the first answer of that version."""

from __future__ import annotations

import statistics
import time

from _client import AVAILABLE, END, Client, connected
from _lifecycle import (
    FIRST_VERSION,
    MODEL,
    Settings,
    ask_until,
    milliseconds,
    single_model,
    wait_until,
)
from _report import Finding, number
from _versions import VersionDirectories

ANSWER_SECONDS = 0.5  # aim
OLD_SECONDS = 1.5  # files that nobody wrote to for so long are old
# Between two renames, each time a bit longer: not in step with a look once a second.
PAUSE_SECONDS = 0.2
LONGER_SECONDS = 0.037
KINDS = {"old": "written long before", "fresh": "written just before"}


def measure(settings: Settings) -> Finding:
    finding = Finding(
        f"rename: {settings.renames} directories renamed into place, ms to the first answer",
        ["files", "median", "least", "most"],
    )
    for kind, described in KINDS.items():
        seconds, wrong = measure_kind(kind, settings)
        finding.rows.append(
            [
                described,
                *(
                    number(value * 1e3)
                    for value in (statistics.median(seconds), min(seconds), max(seconds))
                ),
            ]
        )
        finding.judge(
            f"rename to first answer, files {described}: worst of {len(seconds)}",
            f"≤ {milliseconds(ANSWER_SECONDS)}",
            milliseconds(max(seconds)),
            max(seconds) <= ANSWER_SECONDS,
        )
        finding.fail(wrong)
        finding.details[kind] = seconds
    return finding


def measure_kind(kind: str, settings: Settings) -> tuple[list[float], list[str]]:
    """Seconds of each rename, and what was wrong with answers meanwhile."""
    versions = VersionDirectories(settings.small, settings.directory / kind)
    versions.add(FIRST_VERSION)
    numbers = range(FIRST_VERSION + 1, FIRST_VERSION + 1 + settings.renames)
    if kind == "old":
        for version in numbers:
            versions.write(version)
        time.sleep(OLD_SECONDS)
    seconds: list[float] = []
    wrong: list[str] = []
    with single_model(settings, versions, FIRST_VERSION) as server:
        server.wait_until_ready()
        with connected(server) as client:
            for turn, version in enumerate(numbers):
                time.sleep(PAUSE_SECONDS + turn * LONGER_SECONDS)
                if kind == "fresh":
                    versions.write(version)
                placed = versions.place(version)
                seconds.append(ask_until(version, client, versions.history, wrong) - placed)
                wait_until_replaced(client, version)
                versions.remove(version - 1)
    return seconds, wrong


def wait_until_replaced(client: Client, version: int) -> None:
    """Until `version` is available and the one before has gone."""

    def replaced() -> bool:
        states = client.states(MODEL)
        return states.get(version) == AVAILABLE and states.get(version - 1, END) == END

    wait_until(replaced, f"version {version} instead of the one before")
