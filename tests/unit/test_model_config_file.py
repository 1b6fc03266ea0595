"""Reading --model_config_file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfsrv import model_config_file as module
from tfsrv.config import ModelConfig
from tfsrv.errors import Code, ServingError
from tfsrv.model_config_file import model_config_file, read_content, read_model_config_file

TEXT = 'model_config_list {\n config { name: "m" base_path: "m" model_platform: "tensorflow" } }'


def refusal(path: Path) -> ServingError:
    with pytest.raises(ServingError) as caught:
        read_model_config_file(str(path))
    return caught.value


def test_tells_the_models_and_what_the_file_was(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(TEXT)
    read = read_model_config_file(str(file), platforms=["tensorflow"])
    assert read.path == str(file)
    assert read.content == TEXT.encode() == read_content(str(file))
    assert read.models == (ModelConfig("m", str(tmp_path / "m")),)
    assert read.models[0].place == f"{file}:2"


def test_relative_base_paths_start_at_the_file_wherever_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models.config").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    models = read_model_config_file("models.config").models
    assert models == (ModelConfig("m", str(tmp_path / "m")),)
    assert models[0].place == "models.config:2"


def test_relative_base_paths_start_at_a_link_not_at_its_target(tmp_path: Path) -> None:
    # So does Kubernetes mount a ConfigMap: models.config -> ..data/models.config.
    data = tmp_path / "..2026"
    data.mkdir()
    (data / "models.config").write_text(TEXT)
    link = tmp_path / "models.config"
    link.symlink_to(data / "models.config")
    assert read_model_config_file(str(link)).models == (ModelConfig("m", str(tmp_path / "m")),)


def test_an_empty_file_is_not_an_empty_list(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text("# to come\n")
    assert read_model_config_file(str(file)).models is None
    file.write_text("model_config_list {}")
    assert read_model_config_file(str(file)).models == ()


def test_names_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = refusal(tmp_path / "nosuch")
    assert missing.code == Code.NOT_FOUND
    assert missing.message == f"{tmp_path / 'nosuch'}; No such file or directory"
    assert refusal(tmp_path).message == f"{tmp_path}; Is a directory"


def test_reads_no_more_than_a_config_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_TEXT_BYTES", 10)
    assert len(read_content("/dev/zero")) == 11


def test_tells_where_the_text_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(TEXT.replace("name", "nme"))
    assert refusal(file).message.startswith(
        f"Error parsing text-format tensorflow.serving.ModelServerConfig: {file}:2:11: Message type"
    )


def test_checks_the_platforms() -> None:
    with pytest.raises(
        ServingError, match=r"unsupported platform tensorflow \(models\.config:2\)$"
    ):
        model_config_file("models.config", TEXT.encode(), platforms=["lookup_table"])
