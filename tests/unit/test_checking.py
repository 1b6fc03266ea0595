"""`tfsrv check`: what it prints, and how it exits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.graphs import Graph
from tfsrv._proto import message_class
from tfsrv.checking.base_path import check_base_path
from tfsrv.checking.config_file import check
from tfsrv.config import ModelConfig


class Folder:
    """A folder with models and a models.config."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self.config = path / "models.config"
        self._capsys = capsys

    def list_model(self, fields: str = "") -> None:
        """Write a config: in its third line the model m, at ./m."""
        if "model_platform" not in fields:
            fields += ' model_platform: "tensorflow"'
        if "base_path" not in fields:
            fields += ' base_path: "m"'
        self.config.write_text(f'model_config_list {{\nconfig {{\nname: "m" {fields}\n}} }}')

    def add_version(self, version: object = 1, **options: Any) -> Path:
        """Write a SavedModel for the model m."""
        return write_saved_model(self.path / "m" / str(version), **options)

    def check(
        self,
        *,
        status: int,
        summary_is_ok: bool | None = None,
        tags: tuple[str, ...] = ("serve",),
        **options: Any,
    ) -> list[str]:
        """The lines printed of the config, without the name of the folder and the summary."""
        assert check(str(self.config), tags=tags, **options) == status
        out = self._capsys.readouterr().out.replace(f"{self.path}/", "")
        *lines, self.summary = out.splitlines()
        assert ("ok" in self.summary) == (status == 0 if summary_is_ok is None else summary_is_ok)
        return lines

    def problem(self, **options: Any) -> str:
        """The only line printed, which is of the model m in line 3."""
        (line,) = self.check(status=1, **options)
        place = "models.config:3: model m: "
        assert line.startswith(place)
        return line.removeprefix(place)

    def warning(self) -> str:
        (line,) = self.check(status=0)
        place = "models.config:3: warning: model m: "
        assert line.startswith(place)
        return line.removeprefix(place)


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Folder:
    return Folder(tmp_path, capsys)


def write_saved_model(
    directory: Path, *, has_variables: bool = False, tags: tuple[str, ...] = ("serve",)
) -> Path:
    graph = Graph()
    graph.add("variable", "VarHandleOp" if has_variables else "NoOp")
    if has_variables:
        graph.meta.saver_def.restore_op_name = "restore"
    graph.meta.meta_info_def.ClearField("tags")
    graph.meta.meta_info_def.tags.extend(tags)
    saved_model: Any = message_class("tensorflow.SavedModel")()
    saved_model.meta_graphs.add().CopyFrom(graph.meta)
    variables = directory / "variables"
    variables.mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    for name in ("variables.index", "variables.data-00000-of-00001"):
        (variables / name).write_bytes(b"not empty")
    return directory


# -- a sound config


def test_a_sound_config_is_ok(folder: Folder) -> None:
    folder.list_model(
        "model_version_policy { latest { num_versions: 2 } } version_labels { key: 'a' value: 7 }"
    )
    for version in (1, 7, "0009"):
        folder.add_version(version, has_variables=version == 7)
    (folder.path / "m" / "notes").mkdir()
    assert folder.check(status=0) == []
    assert folder.summary == "models.config: ModelServerConfig: 1 model, 2 versions: ok"


def test_an_empty_list_is_ok_with_a_warning(folder: Folder) -> None:
    for text in ("", "model_config_list {}"):
        folder.config.write_text(text)
        assert folder.check(status=0) == ["models.config: warning: it names no models"]
        assert folder.summary.endswith("0 models, 0 versions: ok, 1 warning")


def test_the_models_of_the_tests_are_ok(folder: Folder, models: Path) -> None:
    blocks = [
        f'config {{ name: "{path.name}" base_path: "{path}" model_platform: "tensorflow" }}'
        for path in models.iterdir()
    ]
    folder.config.write_text(f"model_config_list {{ {' '.join(blocks)} }}")
    assert folder.check(status=0) == []
    assert f"{len(blocks)} models" in folder.summary


def test_of_other_platforms_only_the_versions_are_looked_at(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.list_model('model_platform: "lookup_table"')
    (folder.path / "m" / "1").mkdir(parents=True)
    assert folder.problem() == "Model m requests unsupported platform lookup_table"
    assert check(str(folder.config), tags=(), platforms=["lookup_table"]) == 0
    assert "1 model, 1 version: ok" in capsys.readouterr().out


def test_two_models_with_one_base_path_are_a_warning(folder: Folder) -> None:
    folder.add_version()
    (folder.path / "link").symlink_to(folder.path / "m")
    block = 'config {{ name: "{0}" base_path: "{1}" model_platform: "tensorflow" }}\n'
    blocks = block.format("a", "m") + block.format("b", "link")
    folder.config.write_text(f"model_config_list {{\n{blocks} }}")
    assert folder.check(status=0) == [
        "models.config:3: warning: model b: its base path is also that of model a"
    ]


# -- the text


def test_a_file_that_cannot_be_read_is_a_problem(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(str(folder.path / "nosuch"), tags=()) == 1
    assert check(str(folder.path), tags=()) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{folder.path}/nosuch: No such file or directory",
        f"{folder.path}: Is a directory",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("model_config_list {\n  config { nme: 'a' }\n}", "models.config:2:12: Message type"),
        (b"# \xff", "models.config:1:3: not UTF-8"),
        ("model_config_list { config { name: 'a\x1b[1m", "models.config:1:36: "),
    ],
)
def test_a_text_that_is_no_config_is_told_with_line_and_column(
    folder: Folder, text: str | bytes, line: str
) -> None:
    folder.config.write_bytes(text if isinstance(text, bytes) else text.encode())
    (told,) = folder.check(status=1)
    assert told.startswith(line)
    assert told.isprintable()
    assert folder.summary == "models.config: ModelServerConfig: 1 problem"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("max_batch_size { value: 128 }", "BatchingParameters"),
        ("prometheus_config { enable: true }", "MonitoringConfig"),
        ("intra_op_parallelism_threads: 2", "ConfigProto"),
        ('config { name: "m" base_path: "/m" }', "ModelConfigList"),
    ],
)
def test_says_what_else_a_file_is(folder: Folder, text: str, kind: str) -> None:
    folder.config.write_text(text)
    folder.check(status=1)
    assert folder.summary == f"models.config: {kind}, not ModelServerConfig: 1 problem"


def test_tells_every_mistake_in_the_order_of_the_lines(folder: Folder) -> None:
    folder.config.write_text(
        """model_config_list {
          config { name: "a" base_path: "" }
          config { name: "b" base_path: "b" model_platform: "tensorflow" }
          config { name: "b" base_path: "b" model_platform: "x" logging_config {} }
        }"""
    )
    lines = folder.check(status=1)
    assert [line.split(": ")[:2] for line in lines] == [
        ["models.config:2", "model a"],
        ["models.config:2", "model a"],
        ["models.config:3", "model b"],
        ["models.config:4", "model b"],
        ["models.config:4", "model b"],
        ["models.config:4", "model b"],
    ]
    assert "Illegal setting neither" in lines[1]
    assert lines[2].endswith("b: No such file or directory")
    assert lines[3].endswith("Illegal to list model b multiple times in config list")
    assert folder.summary.endswith("3 models, 0 versions: 6 problems")


def test_a_custom_config_is_refused(folder: Folder) -> None:
    folder.config.write_text("custom_model_config {}")
    (line,) = folder.check(status=1)
    assert line.startswith("models.config: Missing custom_model_config_loader")


# -- base paths


def test_tells_of_a_base_path_that_cannot_be_one(folder: Folder) -> None:
    folder.list_model()
    path = folder.path / "m"
    assert folder.problem() == "m: No such file or directory"
    path.touch()
    assert folder.problem() == "m is a file: a base path is the directory above the versions"
    path.unlink()
    path.symlink_to("nosuch")
    assert folder.problem() == "m is a dangling link to nosuch"
    path.unlink()
    path.symlink_to("m")
    assert folder.problem() == "m is a dangling link to m"
    path.unlink()
    path.mkdir()
    assert folder.problem().startswith("no versions found under base path")
    (path / "saved_model.pb").touch()
    assert "is itself a SavedModel" in folder.problem()


def test_tells_of_a_base_path_that_may_not_be_read(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is forbidden to root, who runs these tests in a container.
    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    folder.list_model()
    folder.add_version()
    monkeypatch.setattr(os, "listdir", refuse)
    assert folder.problem() == f"{folder.path / 'm'}: Permission denied".replace(
        f"{folder.path}/", ""
    )


@pytest.mark.parametrize("scheme", ["gs://", "s3://", "hdfs://"])
def test_tells_of_a_scheme_that_is_not_read(folder: Folder, scheme: str) -> None:
    folder.list_model(f'base_path: "{scheme}bucket/m"')
    assert folder.problem() == (
        f"{scheme}bucket/m is not read here: only local directories are; mount or copy what"
        f" {scheme} leads to"
    )


def test_a_path_too_long_is_a_problem_like_any_other(folder: Folder) -> None:
    folder.list_model(f'base_path: "/{"x" * 300}"')
    assert folder.problem().endswith("xxx: File name too long")


# -- versions


def test_warns_of_numbers_that_are_no_versions(folder: Folder) -> None:
    folder.list_model()
    folder.add_version()
    path = folder.path / "m"
    (path / "2").touch()
    assert folder.warning() == "m/2 is ignored: it is not a directory"
    (path / "2").unlink()
    (path / str(2**63)).mkdir()
    assert folder.warning() == f"m/{2**63} is ignored: a version has at most 64 bits"
    (path / str(2**63)).rmdir()
    folder.add_version("01")
    assert folder.warning() == "m/01 is ignored: m/1 is the same version"


def test_a_version_that_is_a_dangling_link_is_a_problem(folder: Folder) -> None:
    folder.list_model()
    folder.add_version()
    (folder.path / "m" / "2").symlink_to("/nosuch")
    assert folder.problem() == "m/2 is a dangling link to /nosuch"


def test_every_specific_version_must_be_there(folder: Folder) -> None:
    folder.list_model("model_version_policy { specific { versions: [1, 2, 3] } }")
    folder.add_version(1)
    folder.add_version(3)
    assert folder.problem() == f"version 2 is not under base path {folder.path / 'm'}".replace(
        f"{folder.path}/", ""
    )
    assert "1 model, 2 versions" in folder.summary


def test_only_versions_that_would_be_served_are_looked_at(folder: Folder) -> None:
    folder.list_model()
    folder.add_version(1).joinpath("saved_model.pb").write_bytes(b"")
    folder.add_version(2)
    assert folder.check(status=0) == []
    assert "1 model, 1 version: ok" in folder.summary


def test_a_broken_latest_version_is_a_problem_and_the_next_one_is_looked_at_too(
    folder: Folder,
) -> None:
    folder.list_model()
    folder.add_version(1)
    folder.add_version(2).joinpath("saved_model.pb").unlink()
    assert folder.problem() == "version 2: m/2 has no saved_model.pb or saved_model.pbtxt"
    assert "1 model, 2 versions" in folder.summary


@pytest.mark.parametrize(
    ("policy", "label", "problem"),
    [
        (
            "latest {}",
            1,
            "label a points to version 1, which latest { num_versions: 1 } leaves out",
        ),
        ("latest {}", 9, "label a points to version 9, which is not there"),
        ("all {}", 9, "label a points to version 9, which is not there"),
        ("specific { versions: 9 }", 9, "version 9 is not under base path m"),
    ],
)
def test_a_label_must_lead_to_a_version_that_is_served(
    folder: Folder, policy: str, label: int, problem: str
) -> None:
    folder.list_model(
        f"model_version_policy {{ {policy} }} version_labels {{ key: 'a' value: {label} }}"
    )
    folder.add_version(1)
    folder.add_version(2)
    assert folder.problem() == problem


# -- SavedModels


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "file", "problem"),
    [
        (empty, "saved_model.pb", "m/1/saved_model.pb is empty"),
        (cut, "saved_model.pb", "m/1/saved_model.pb is not a SavedModel, or was cut short"),
        (
            Path.unlink,
            "variables/variables.index",
            "the model has variables, but there is no checkpoint for them:"
            " m/1/variables/variables.index",
        ),
        (empty, "variables/variables.index", "m/1/variables/variables.index is empty"),
        (
            Path.unlink,
            "variables/variables.data-00000-of-00001",
            "m/1/variables has no variables.data-00000-of-00001",
        ),
    ],
)
def test_tells_which_file_of_a_version_is_damaged(
    folder: Folder, damage: Callable[[Path], None], file: str, problem: str
) -> None:
    folder.list_model()
    damage(folder.add_version(has_variables=True) / file)
    assert folder.problem() == f"version 1: {problem}"


def test_a_checkpoint_in_parts_must_have_all_of_them(folder: Folder) -> None:
    folder.list_model()
    variables = folder.add_version(has_variables=True) / "variables"
    shard = variables / "variables.data-00000-of-00001"
    shard.rename(variables / "variables.data-00001-of-00002")
    assert folder.problem() == "version 1: m/1/variables has no variables.data-00000-of-00002"


def test_a_model_without_variables_needs_no_checkpoint(folder: Folder) -> None:
    folder.list_model()
    for file in (folder.add_version() / "variables").iterdir():
        file.unlink()
    assert folder.check(status=0) == []


def test_a_metagraph_with_the_tags_must_be_there(folder: Folder) -> None:
    folder.list_model()
    folder.add_version(tags=("serve", "gpu"))
    assert folder.problem() == (
        "version 1: m/1/saved_model.pb has no MetaGraph with the tags {serve}, but {gpu, serve}"
    )
    assert folder.check(status=0, tags=("gpu", "serve")) == []


def test_a_graph_as_text_only_has_to_be_there(folder: Folder) -> None:
    folder.list_model()
    version = folder.add_version()
    (version / "saved_model.pb").unlink()
    text = version / "saved_model.pbtxt"
    text.write_text("field_of_a_later_tensorflow: 1")
    assert folder.check(status=0) == []
    text.write_text("")
    assert folder.problem() == "version 1: m/1/saved_model.pbtxt is empty"


def test_a_graph_that_is_a_link_to_nothing_is_none(folder: Folder) -> None:
    folder.list_model()
    graph = folder.add_version() / "saved_model.pb"
    graph.unlink()
    graph.symlink_to("saved_model.pb")
    assert folder.problem() == "version 1: m/1 has no saved_model.pb or saved_model.pbtxt"


def test_a_file_that_cannot_be_read_is_a_problem_of_its_version(tmp_path: Path) -> None:
    def look(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", f"{path}/saved_model.pb")

    (tmp_path / "1").mkdir()
    report = check_base_path(ModelConfig("m", str(tmp_path)), look)
    assert report.problems == [f"version 1: {tmp_path}/1/saved_model.pb: Permission denied"]
    assert report.versions == [1]


# -- printing


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_batch_size: 8", "Invalid protobuf file: '{file}' ({file}:1:17: "),
        (
            "max_batch_size { value: 0 }",
            "input_batch_size_limit must be positive; was 0 ({file}:1)",
        ),
    ],
)
def test_wrong_batching_parameters_of_a_version_are_a_problem_if_they_are_read(
    folder: Folder, text: str, problem: str
) -> None:
    folder.list_model()
    file = folder.add_version() / "batching_params.pbtxt"
    file.write_text(text)
    told = f"version 1: {problem.format(file='m/1/batching_params.pbtxt')}"
    assert folder.warning().startswith(told)
    assert folder.problem(reads_version_batching=True).startswith(told)
    file.write_text("max_batch_size { value: 8 }")
    assert folder.check(status=0) == []
    assert folder.check(status=0, reads_version_batching=True) == []


def test_a_file_with_batching_parameters_is_checked_beside_the_config(
    folder: Folder, tmp_path: Path
) -> None:
    folder.list_model()
    folder.add_version()
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 8 }\nallowed_batch_sizes: 4")
    (line,) = folder.check(batching_parameters_file=str(file), status=1, summary_is_ok=True)
    assert line == (
        "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8"
        " (batching.config:2)"
    )
    file.write_text("max_batch_size { value: 8 }")
    assert folder.check(batching_parameters_file=str(file), status=0) == []
    file.unlink()
    (line,) = folder.check(batching_parameters_file=str(file), status=1, summary_is_ok=True)
    assert line == "batching.config; No such file or directory"


@pytest.mark.parametrize("name", ["a\\nb", "\\033[2J", "\\u2028"])
def test_a_name_cannot_break_the_line(folder: Folder, name: str) -> None:
    folder.config.write_text(f'model_config_list {{ config {{ name: "{name}" base_path: "m" }} }}')
    (line,) = folder.check(status=1)
    assert line.isprintable()


def test_prints_with_any_encoding_and_opens_no_tensorflow(folder: Folder) -> None:
    folder.list_model('base_path: "ä\\u2028"')
    program = """if True:
        import sys
        from tfsrv import _tf
        from tfsrv.cli import main
        status = main(["check", sys.argv[1]])
        assert not _tf.is_open()
        assert not [name for name in sys.modules if name.startswith("tensorflow")]
        sys.exit(status)
    """
    done = subprocess.run(
        [sys.executable, "-c", program, folder.config],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 1
    assert "\\xe4\\u2028: No such file or directory" in done.stdout


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=60))
def test_no_name_in_a_base_path_makes_a_traceback(folder: Folder, name: str) -> None:
    folder.list_model()
    (folder.path / "m").mkdir(exist_ok=True)
    path = folder.path / "m" / (name or "1")
    is_made = name not in (".", "..")
    if is_made:
        path.mkdir()
    try:
        assert check(str(folder.config), tags=("serve",)) == 1
    finally:
        if is_made:
            path.rmdir()
