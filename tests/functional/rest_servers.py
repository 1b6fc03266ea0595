"""Servers with a REST port, for tests that ask it as other programs do."""

from __future__ import annotations

import json
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT, tensorflow_version
from tests.functional.conftest import ends_well
from tests.functional.launching import SECONDS, Launched, launched, until

MODELS = ROOT / "tests" / "conformance" / "models"


@contextmanager
def rest_serving(
    *flags: str, config: str = "", errors_are_meant: bool = False
) -> Iterator[Launched]:
    """A server with a free REST port; `config` is the inside of its ModelConfigList."""
    if tensorflow_version() is None:
        pytest.skip("needs TensorFlow")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "models.config"
        file.write_text(f"model_config_list {{ {config} }}")
        where = ("--port=0", "--rest_api_port=-1", "--bind_address=127.0.0.1")
        with launched(f"--model_config_file={file}", *where, *flags) as server:
            yield server
            ends_well(server, errors_are_meant=errors_are_meant)


def model_config(name: str, path: Path, more: str = "") -> str:
    """One of its models. A JSON string is one of protobuf's text format, too."""
    return (
        f"config {{ name: {json.dumps(name)} base_path: {json.dumps(str(path))} "
        f'model_platform: "tensorflow" {more} }}'
    )


def half_plus_two(name: str = "half_plus_two") -> str:
    """Its versions 1 and 2, of which 1 is labelled "stable"."""
    more = (
        "model_version_policy { specific { versions: 1 versions: 2 } } "
        "version_labels { key: 'stable' value: 1 }"
    )
    return model_config(name, MODELS / "half_plus_two", more)


def wait_for(address: str, path: str) -> None:
    """Until that path is answered with 200."""

    def is_there() -> bool:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=SECONDS) as response:
                return bool(response.status == 200)
        except urllib.error.HTTPError:
            return False

    until(is_there)
