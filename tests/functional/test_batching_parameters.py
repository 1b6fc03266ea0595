"""Parameters of batching in the directories of versions, and in a file for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.functional.conftest import Serve
from tests.functional.launching import client, until
from tests.functional.sites import AVAILABLE, END, Site, ask_for, settle

INVALID_ARGUMENT = 3


@pytest.fixture
def batching_file(tmp_path: Path) -> Path:
    """For --batching_parameters_file."""
    path = tmp_path / "batching.config"
    path.write_text("num_batch_threads { value: 3 }")
    return path


def test_serves_with_every_flag_of_batching(serve: Serve, site: Site, batching_file: Path) -> None:
    site.add(1)
    (site.base() / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: 8 }")
    server = serve(
        {"m": site.base()},
        "--enable_batching",
        f"--batching_parameters_file={batching_file}",
        "--enable_per_model_batching_parameters",
        "--batching_target_latency_ms=50",
    )
    with client(server.address()) as ask:
        assert ask.predict(ask_for(2.0)).outputs["y"].float_val == [3.0]


def test_a_version_with_wrong_parameters_is_loaded_when_they_are_put_right(
    serve: Serve, site: Site, batching_file: Path
) -> None:
    site.add(1)
    file = site.base() / "1" / "batching_params.pbtxt"
    file.write_text("max_batch_size: 8")
    flags = ("--enable_batching", "--enable_per_model_batching_parameters")
    server = serve(
        {"m": site.base()},
        *flags,
        f"--batching_parameters_file={batching_file}",
        "--max_num_load_retries=0",
        ready=False,
        errors_are_meant=True,
    )
    with client(server.address()) as ask:
        until(lambda: ask.states("m") == [END])
        (status,) = ask.model_status("m")
        assert status.status.error_code == INVALID_ARGUMENT
        assert status.status.error_message.startswith(f"Invalid protobuf file: '{file}'")
        file.write_text("max_batch_size { value: 8 }")
        settle(site.base())
        until(lambda: ask.states("m") == [AVAILABLE])
        assert ask.predict(ask_for(2.0)).outputs["y"].float_val == [3.0]


def test_parameters_of_a_version_are_not_looked_at_unless_that_is_asked_for(
    serve: Serve, site: Site
) -> None:
    site.add(1)
    (site.base() / "1" / "batching_params.pbtxt").write_text("no parameters")
    server = serve({"m": site.base()}, "--enable_batching")
    with client(server.address()) as ask:
        assert ask.predict(ask_for(2.0)).outputs["y"].float_val == [3.0]
