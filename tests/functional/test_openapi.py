"""What schemathesis finds when it asks a server everything that its OpenAPI document describes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.functional.rest_servers import half_plus_two, rest_serving, wait_for

SETTINGS = Path(__file__).with_name("schemathesis.toml")  # it says why, too
EXAMPLES = 25  # that are made up for each operation

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("schemathesis") is None, reason="needs schemathesis"),
]


@pytest.fixture(scope="module")
def rest_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a server of half_plus_two, version 1 of which is labelled "stable"."""
    file = tmp_path_factory.mktemp("monitoring") / "monitoring.config"
    file.write_text("prometheus_config { enable: true }")
    with rest_serving(f"--monitoring_config_file={file}", config=half_plus_two()) as server:
        address = server.rest_address()
        for version in (1, 2):
            wait_for(address, f"/v1/models/half_plus_two/versions/{version}/metadata")
        yield address


def test_schemathesis_finds_nothing(rest_address: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", f"--config-file={SETTINGS}", "run"),
            f"http://{rest_address}/openapi.json",
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
