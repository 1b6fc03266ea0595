"""--monitoring_config_file: what it says, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfsrv.config import MonitoringConfig
from tfsrv.errors import Code, ServingError
from tfsrv.monitoring_config_file import (
    MAX_TEXT_BYTES,
    parse_monitoring_config,
    read_monitoring_config,
)


def parsed(text: str | bytes) -> MonitoringConfig:
    return parse_monitoring_config(text, "m.config")


def refused(text: str | bytes) -> str:
    with pytest.raises(ServingError) as caught:
        parsed(text)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


def test_nothing_is_shown_unless_it_is_enabled() -> None:
    for text in ("", "prometheus_config {}", 'prometheus_config { path: "/m" }'):
        assert not parsed(text).prometheus_enabled
    assert parsed("prometheus_config { enable: true }").prometheus_enabled
    assert not MonitoringConfig().prometheus_enabled


def test_the_path_is_that_of_tensorflow_serving_unless_another_is_given() -> None:
    assert parsed("prometheus_config { enable: true }").prometheus_path == (
        "/monitoring/prometheus/metrics"
    )
    assert parsed('prometheus_config { path: "/a/b-c.d%20_~:@!" }').prometheus_path == (
        "/a/b-c.d%20_~:@!"
    )


@pytest.mark.parametrize("path", ["metrics", "/a?b", "/a b", "/a#b", "/ä", "/a%2", "/a\\n", '/"'])
def test_a_path_that_no_request_can_have_is_refused(path: str) -> None:
    escaped = path.replace('"', '\\"')
    message = refused(f'prometheus_config {{ enable: true path: "{escaped}" }}')
    assert message.startswith("Invalid protobuf file: 'm.config' (")
    assert "is no path of a URL" in message


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("prometheus_config {\n  enabled: true\n}", "m.config:2:3: "),
        ("prometheus_config { enable: maybe }", "m.config:1:"),
        ("prometheus_config {", "m.config:1:"),
        (b"prometheus_config { path: '\xff' }", "m.config:1:28: not UTF-8"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str | bytes, place: str) -> None:
    assert refused(text).startswith(f"Invalid protobuf file: 'm.config' ({place}")


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text('prometheus_config { enable: true, path: "/metrics" }')
    assert read_monitoring_config(str(file)) == MonitoringConfig(True, "/metrics")


def test_a_file_that_cannot_be_read_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ServingError) as caught:
        read_monitoring_config(str(tmp_path / "none"))
    assert caught.value.code is Code.NOT_FOUND
    assert str(tmp_path / "none") in caught.value.message
    with pytest.raises(ServingError, match="Is a directory"):
        read_monitoring_config(str(tmp_path))


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(ServingError, match="larger than 1 MiB") as caught:
        read_monitoring_config("/dev/zero")
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert MAX_TEXT_BYTES == 2**20
