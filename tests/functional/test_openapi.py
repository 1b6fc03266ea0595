"""What schemathesis finds when it asks a server everything that its OpenAPI document describes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.functional.rest_stand_in import rest_stand_in
from tests.known_models import HALF_PLUS_TWO, Declares, KnownModels

EXAMPLES = 25  # that are made up for each operation

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("schemathesis") is None, reason="needs schemathesis"),
]


@pytest.fixture(scope="module")
def rest_address() -> Iterator[str]:
    """HOST:PORT of a server of half_plus_two, version 1 of which is labelled "stable"."""
    models = KnownModels()
    servable = Declares(serving_default=HALF_PLUS_TWO)
    models.add("half_plus_two", {1: servable, 2: servable}, labels={"stable": 1})
    with rest_stand_in(models) as address:
        yield address


@pytest.fixture
def paths() -> str:
    """What is asked, as a pattern: all that the stand-in has."""
    return ":predict$|^/$|^/tfsrv/|^/openapi.json$"


def test_schemathesis_finds_nothing(rest_address: str, paths: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run"),
            f"http://{rest_address}/openapi.json",
            f"--include-path-regex={paths}",
            f"--max-examples={EXAMPLES}",
            "--no-color",
        ],
        cwd=tmp_path,  # it keeps what it has found there
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
