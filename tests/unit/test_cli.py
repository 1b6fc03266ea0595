"""What the launcher makes of a command line, up to the point where a server would start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfsrv.cli import main, options_from
from tfsrv.config import ModelConfig, ServerOptions
from tfsrv.flags import UsageError, parse


def options(*words: str) -> ServerOptions:
    return options_from(parse(list(words)))


def refused(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        options(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def make_saved_model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "saved_model.pb").touch()
    return directory


def test_serves_the_model_that_flags_name_to_everybody(tmp_path: Path) -> None:
    made = options("--model_name=m", f"--model_base_path={tmp_path}")
    assert made.models == (ModelConfig("m", str(tmp_path)),)
    assert (made.bind_address, made.port) == ("0.0.0.0", 8500)


def test_a_base_path_may_be_relative_and_need_not_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert options("--model_base_path=later").models[0].base_path == str(tmp_path / "later")


def test_serves_a_directory_under_its_own_name_on_this_machine_only(tmp_path: Path) -> None:
    make_saved_model(tmp_path / "half_plus_two" / "1")
    made = options(str(tmp_path / "half_plus_two") + "/")
    assert made.models == (ModelConfig("half_plus_two", str(tmp_path / "half_plus_two")),)
    assert made.bind_address == "127.0.0.1"


def test_flags_go_before_what_a_directory_implies(tmp_path: Path) -> None:
    made = options(str(tmp_path), "--model_name=m", "--bind_address=::")
    assert made.models[0].name == "m"
    assert made.bind_address == "::"


def test_serves_a_saved_model_itself_as_version_1(tmp_path: Path) -> None:
    path = make_saved_model(tmp_path / "exported")
    assert options(str(path)).models == (ModelConfig("exported", str(path), only_version=1),)


def test_names_a_saved_model_in_a_numbered_folder_after_the_folder_above(tmp_path: Path) -> None:
    path = make_saved_model(tmp_path / "half_plus_two" / "00123")
    assert options(str(path)).models == (ModelConfig("half_plus_two", str(path), only_version=1),)


def test_a_boolean_flag_may_stand_before_the_directory(tmp_path: Path) -> None:
    made = options("--enable_signature_method_name_check", str(tmp_path))
    assert made.enable_signature_method_name_check
    assert made.models[0].base_path == str(tmp_path)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_tells_how_to_export_a_keras_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert "export it with model.export(dir)" in refused(str(tmp_path / name))
    assert "export it with model.export(dir)" in refused(f"--model_base_path={tmp_path / name}")


def test_refuses_in_one_sentence_what_cannot_be_served(tmp_path: Path) -> None:
    assert refused(str(tmp_path / "nosuch")) == f"there is no directory {tmp_path / 'nosuch'}"
    saved_model = make_saved_model(tmp_path / "m") / "saved_model.pb"
    assert "is a file: give the directory" in refused(str(saved_model))
    assert "only one directory" in refused(str(tmp_path), str(tmp_path))
    assert "not both" in refused(str(tmp_path), f"--model_base_path={tmp_path}")
    assert "gs:// is not read here" in refused("--model_base_path=gs://bucket/m")


def test_explains_a_boolean_with_its_value_as_the_next_word() -> None:
    assert "takes its value with '='" in refused("--enable_signature_method_name_check", "false")


def test_a_bad_channel_argument_is_a_wrong_command_line(tmp_path: Path) -> None:
    assert "is not name=value" in refused(str(tmp_path), "--grpc_channel_arguments=a")


def test_port_0_picks_a_port_unless_there_is_a_socket(tmp_path: Path) -> None:
    assert options(str(tmp_path), "--port=0").port == 0
    assert options(str(tmp_path), "--port=0", "--grpc_socket_path=/s").port is None
    assert options(str(tmp_path), "--grpc_socket_path=/s").port == 8500


@pytest.mark.parametrize(
    ("tags", "read"), [("serve", ("serve",)), ("tpu, serve", ("tpu", "serve")), ("", ())]
)
def test_tags_stand_between_commas(tmp_path: Path, tags: str, read: tuple[str, ...]) -> None:
    assert options(str(tmp_path), f"--saved_model_tags={tags}").saved_model_tags == read


def test_a_wrong_command_line_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["--nosuch"], ["--port=x"], ["--enable_batching"], ["/nosuch/directory"]):
        assert main(words) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("tfsrv: ")
        assert output.err.count("\n") == 1


def test_options_that_contradict_each_other_fail_the_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 1
    assert capsys.readouterr().err == (
        "Failed to start server. Error: INVALID_ARGUMENT: Both server_options.model_base_path"
        " and server_options.model_config_file are empty!\n"
    )


def test_help_is_printed_whatever_else_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "--enable_batching"]) == 0
    assert "--model_base_path=DIR" in capsys.readouterr().out
