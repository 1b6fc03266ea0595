"""What the launcher makes of a command line, up to the point where a server would start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfsrv import cli
from tfsrv.batching_parameters import BatchingParameters
from tfsrv.cli import main, options_from
from tfsrv.config import ModelConfig, MonitoringConfig, ServerOptions
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
    for words in (["--nosuch"], ["--port=x"], ["--ssl_config_file=f"], ["/nosuch/directory"]):
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


CONFIG = 'model_config_list { config { name: "m" base_path: "m" model_platform: "tensorflow" } }'


def test_serves_the_models_of_a_config_file_to_everybody(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(CONFIG)
    made = options(f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=5")
    assert made.models == (ModelConfig("m", str(tmp_path / "m")),)
    assert made.model_config_file == str(file)
    assert made.model_config_content == CONFIG.encode()
    assert made.model_config_file_poll_wait_seconds == 5
    assert made.bind_address == "0.0.0.0"


@pytest.mark.parametrize("text", ["", "model_config_list {}"])
def test_a_config_file_may_name_no_models(tmp_path: Path, text: str) -> None:
    file = tmp_path / "models.config"
    file.write_text(text)
    line = parse([f"--model_config_file={file}"])
    made = options_from(line)
    assert made.models == ()
    assert cli._notes(line, made) == [f"{file} names no models: nothing is served"]


def test_a_config_file_goes_before_the_flags_for_one_model(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(CONFIG)
    line = parse([f"--model_config_file={file}", "--model_name=a", "--model_base_path=gs://a"])
    made = options_from(line)
    assert [model.name for model in made.models] == ["m"]
    assert cli._notes(line, made) == [
        "--model_name is ignored: --model_config_file names the models",
        "--model_base_path is ignored: --model_config_file names the models",
    ]
    assert "not both" in refused(str(tmp_path), f"--model_config_file={file}")


def test_looking_again_at_no_file_is_noted(tmp_path: Path) -> None:
    line = parse([f"--model_base_path={tmp_path}", "--model_config_file_poll_wait_seconds=1"])
    (note,) = cli._notes(line, options_from(line))
    assert "there is no --model_config_file" in note


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "NOT_FOUND: {file}; No such file or directory"),
        ("nosuch: 1", "INVALID_ARGUMENT: Error parsing text-format tensorflow.serving."),
        (CONFIG.replace('"m"', '""', 1), "INVALID_ARGUMENT: Expected a model to have a name"),
        ("custom_model_config {}", "INVALID_ARGUMENT: Missing custom_model_config_loader"),
    ],
)
def test_a_bad_config_file_fails_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, error: str
) -> None:
    file = tmp_path / "models.config"
    if text is not None:
        file.write_text(text)
    assert main([f"--model_config_file={file}"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"Failed to start server. Error: {error.format(file=file)}")
    assert str(file) in err
    assert err.count("\n") == 1


def test_a_source_may_bring_its_models_itself() -> None:
    made = options("--source=watcher:/etc/models")
    assert made.source == "watcher:/etc/models"
    assert made.models == ()


def test_how_models_are_loaded_reaches_the_options(tmp_path: Path) -> None:
    made = options(
        str(tmp_path),
        "--num_load_threads=3",
        "--num_unload_threads=2",
        "--max_num_load_retries=0",
        "--load_retry_interval_micros=-1",
        "--aspired_version_policy=resource_preserving",
        "--total_model_memory_limit_bytes=8000000000",
        "--wait_for_models=2.5",
        "--enable_model_management",
        "--noenable_reload_rpc",
        "--noservable_versions_always_present",
        "--allow_version_labels_for_unavailable_models",
    )
    assert (made.num_load_threads, made.num_unload_threads) == (3, 2)
    assert (made.max_num_load_retries, made.load_retry_interval_micros) == (0, -1)
    assert made.aspired_version_policy == "resource_preserving"
    assert made.total_model_memory_limit_bytes == 8_000_000_000
    assert made.wait_for_models == 2.5
    assert made.enable_model_management
    assert not made.enable_reload_rpc
    assert not made.servable_versions_always_present
    assert made.allow_version_labels_for_unavailable_models


def test_options_that_nobody_gave_are_those_of_the_flags(tmp_path: Path) -> None:
    assert options(str(tmp_path), "--bind_address=0.0.0.0") == ServerOptions(
        models=(ModelConfig(tmp_path.name, str(tmp_path)),)
    )


def test_metrics_are_shown_if_a_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text('prometheus_config { enable: true path: "/metrics" }')
    assert not options(str(tmp_path)).monitoring.prometheus_enabled
    made = options(str(tmp_path), f"--monitoring_config_file={file}")
    assert made.monitoring == MonitoringConfig(True, "/metrics")


def test_a_wrong_file_about_metrics_is_an_error_of_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text("prometheus { enable: true }")
    assert cli.main([str(tmp_path), f"--monitoring_config_file={file}"]) == 1
    assert capsys.readouterr().err.startswith(
        "Failed to start server. Error: INVALID_ARGUMENT: "
        f"Invalid protobuf file: '{file}' ({file}:1:1: "
    )


def test_nothing_is_batched_unless_that_is_asked_for(tmp_path: Path) -> None:
    assert options(str(tmp_path)).batching is None
    assert options(str(tmp_path), "--enable_batching=false").batching is None


def test_batching_without_a_file_has_the_defaults_and_the_servers_name(tmp_path: Path) -> None:
    made = options(str(tmp_path), "--enable_batching")
    assert made.batching == BatchingParameters(thread_pool_name="model_server_batch_threads")
    assert not made.enable_per_model_batching_parameters


def test_batching_parameters_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 8 } target_latency_ms { value: 2 }")
    made = options(
        str(tmp_path),
        "--enable_batching",
        f"--batching_parameters_file={file}",
        "--enable_per_model_batching_parameters",
        "--batching_target_latency_ms=5",
    )
    assert made.batching == BatchingParameters(max_batch_size=8, target_latency_ms=2.0)
    assert made.enable_per_model_batching_parameters
    assert made.batching_target_latency_ms == 5.0
    assert cli._notes(parse([]), made) == []


def test_a_target_latency_is_for_what_has_none_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "batching.config"
    file.write_text("")
    words = [str(tmp_path), "--enable_batching", "--batching_target_latency_ms=2.5"]
    for made in (options(*words), options(*words, f"--batching_parameters_file={file}")):
        assert made.batching is not None
        assert made.batching.target_latency_ms == 2.5


def test_parameters_for_batching_need_batching(tmp_path: Path) -> None:
    assert refused(str(tmp_path), "--batching_parameters_file=nosuch") == (
        "server_options.batching_parameters_file is set without setting"
        " server_options.enable_batching to true."
    )
    assert refused(str(tmp_path), "--batching_target_latency_ms=1") == (
        "--batching_target_latency_ms is only for --enable_batching"
    )
    assert options(str(tmp_path), "--batching_target_latency_ms=0").batching is None


def test_parameters_of_versions_are_ignored_with_a_note_without_batching(tmp_path: Path) -> None:
    line = parse([str(tmp_path), "--enable_per_model_batching_parameters"])
    assert cli._notes(line, options_from(line)) == [
        "--enable_per_model_batching_parameters is ignored: there is no --enable_batching"
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "NOT_FOUND: {file}; No such file or directory"),
        ("nosuch: 1", "INVALID_ARGUMENT: Invalid protobuf file: '{file}' ({file}:1:1: "),
        (
            "\nnum_batch_threads { value: 0 }",
            "INVALID_ARGUMENT: num_batch_threads must be positive; was 0 ({file}:2)\n",
        ),
    ],
)
def test_a_bad_file_with_batching_parameters_fails_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, error: str
) -> None:
    file = tmp_path / "batching.config"
    if text is not None:
        file.write_text(text)
    assert main([str(tmp_path), "--enable_batching", f"--batching_parameters_file={file}"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"Failed to start server. Error: {error.format(file=file)}")
    assert err.count("\n") == 1


def test_checks_a_file_in_place_of_serving(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "models.config"
    file.write_text("model_config_list {}")
    assert main(["check", str(file)]) == 0
    assert "0 models" in capsys.readouterr().out
    file.write_text(CONFIG)
    assert main(["--saved_model_tags=a,b", "check", str(file)]) == 1
    make_saved_model(tmp_path / "m" / "1").joinpath("saved_model.pb").write_bytes(b"\x08\x01")
    capsys.readouterr()
    assert main(["check", str(file), "--saved_model_tags=a,b"]) == 1
    assert "tags {a, b}" in capsys.readouterr().out


def test_checks_batching_parameters_as_the_flags_have_them_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, batching = tmp_path / "models.config", tmp_path / "batching.config"
    file.write_text("model_config_list {}")
    batching.write_text("max_batch_size { value: 0 }")
    words = ["check", str(file), "--enable_batching", f"--batching_parameters_file={batching}"]
    assert main(words) == 1
    assert f"input_batch_size_limit must be positive; was 0 ({batching}:1)" in (
        capsys.readouterr().out
    )
    batching.write_text("max_batch_size { value: 1 }")
    assert main([*words, "--enable_per_model_batching_parameters"]) == 0


@pytest.mark.parametrize("words", [["check"], ["check", "a", "b"], ["check", "a", "--nosuch"]])
def test_a_wrong_command_line_of_check_is_status_2(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("tfsrv: ")


def test_a_directory_called_check_can_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "check").mkdir()
    monkeypatch.chdir(tmp_path)
    assert options("./check").models == (ModelConfig("check", str(tmp_path / "check")),)
    assert main(["check"]) == 2
    assert "'tfsrv ./check' to serve a directory" in capsys.readouterr().err


def test_help_is_printed_whatever_else_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "--enable_batching"]) == 0
    assert "--model_base_path=DIR" in capsys.readouterr().out
