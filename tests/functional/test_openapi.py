"""What schemathesis finds when it asks a server everything that its OpenAPI document describes."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.functional.launching import SECONDS
from tests.functional.rest_servers import (
    MODELS,
    half_plus_two,
    model_config,
    rest_serving,
    wait_for,
)

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


# What can't be written down for every graph: its signatures say something else than it does.
BAD_SIGNATURES = ("classify_bad", "regress_wide", "twice, rows")


def test_examples_are_valid_and_answered() -> None:
    config = half_plus_two() + "".join(
        model_config(name, MODELS / name) for name in ("dtypes", "multi", "odd")
    )
    with rest_serving(config=config) as server:
        address = server.rest_address()
        for name in ("half_plus_two/versions/2", "dtypes", "multi", "odd"):
            wait_for(address, f"/v1/models/{name}/metadata")
        described = asked(address, "/openapi.json")
        posts = {path: item["post"] for path, item in described["paths"].items() if "post" in item}
        asked_for = 0
        for path, operation in posts.items():
            content = operation["requestBody"]["content"]["application/json"]
            schema = {**content["schema"], "components": described["components"]}
            validator = jsonschema.Draft202012Validator(schema)
            for name, example in content["examples"].items():
                assert validator.is_valid(example["value"]), (path, name)
                if not name.startswith(BAD_SIGNATURES):
                    asked(address, path, json.dumps(example["value"]).encode())
                    asked_for += 1
        assert asked_for > 50


def asked(address: str, path: str, body: bytes | None = None) -> Any:
    """What a server answers, which must be 200. With a body by POST."""
    with urllib.request.urlopen(f"http://{address}{path}", body, SECONDS) as response:
        return json.load(response)


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
