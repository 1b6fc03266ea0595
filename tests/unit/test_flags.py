"""The command line's grammar and its table."""

from __future__ import annotations

import pytest

from tfsrv.flag_table import FLAG_GROUPS, FLAGS, Flag, Status
from tfsrv.flags import (
    UsageError,
    help_text,
    parse,
    refuse_what_is_not_built,
    shown,
    without_meaning,
)

# Of TensorFlow Serving 2.20's model_servers/main.cc, with the defaults of server.h; the numbers
# of threads and pools depend on the machine there as here.
TENSORFLOW_SERVING = {
    "port": 8500,
    "grpc_socket_path": "",
    "rest_api_port": 0,
    "rest_api_num_threads": None,
    "rest_api_timeout_in_ms": 30000,
    "rest_api_enable_cors_support": False,
    "enable_batching": False,
    "batching_parameters_file": "",
    "enable_per_model_batching_parameters": False,
    "model_config_file": "",
    "model_config_file_poll_wait_seconds": 0,
    "model_name": "default",
    "model_base_path": "",
    "num_load_threads": 0,
    "num_unload_threads": 0,
    "max_num_load_retries": 5,
    "load_retry_interval_micros": 60_000_000,
    "file_system_poll_wait_seconds": 1,
    "flush_filesystem_caches": True,
    "allow_version_labels_for_unavailable_models": False,
    "tensorflow_session_parallelism": 0,
    "tensorflow_intra_op_parallelism": 0,
    "tensorflow_inter_op_parallelism": 0,
    "tensorflow_session_config_file": "",
    "per_process_gpu_memory_fraction": 0.0,
    "platform_config_file": "",
    "saved_model_tags": "serve",
    "grpc_channel_arguments": "",
    "grpc_max_threads": None,
    "use_alts_credentials": False,
    "ssl_config_file": "",
    "enable_model_warmup": True,
    "num_request_iterations_for_warmup": 0,
    "monitoring_config_file": "",
    "remove_unused_fields_from_bundle_metagraph": True,
    "prefer_tflite_model": False,
    "num_tflite_pools": None,
    "num_tflite_interpreters_per_pool": 1,
    "enable_signature_method_name_check": False,
    "xla_cpu_compilation_enabled": False,
    "xla_gpu_compilation_enabled": False,
    "enable_profiler": True,
    "thread_pool_factory_config_file": "",
    "mixed_precision": "",
    "skip_initialize_tpu": False,
    "enable_grpc_healthcheck_service": None,  # off there, on here
    "enable_serialization_as_tensor_content": False,
    "version": False,
}


@pytest.mark.parametrize("name", TENSORFLOW_SERVING)
def test_knows_every_flag_of_tensorflow_serving_with_its_type_and_default(name: str) -> None:
    default = TENSORFLOW_SERVING[name]
    assert name in FLAGS
    assert default is None or FLAGS[name].default == default
    assert default is None or type(FLAGS[name].default) is type(default)


def test_adds_only_flags_that_are_marked_as_ours() -> None:
    ours = set(FLAGS) - set(TENSORFLOW_SERVING) - {"help"}
    assert ours == {name for name, flag in FLAGS.items() if "(Ours.)" in flag.help}


def test_no_flag_can_be_taken_for_the_negation_of_another() -> None:
    booleans = [name for name, flag in FLAGS.items() if isinstance(flag.default, bool)]
    assert not {f"no{name}" for name in booleans} & set(FLAGS)


def test_flags_stand_at_their_defaults_when_nothing_is_typed() -> None:
    line = parse([])
    assert line.values == {name: flag.default for name, flag in FLAGS.items()}
    assert not line.given
    assert not line.words


@pytest.mark.parametrize("words", [["--port=1"], ["--port", "1"], ["--port=9", "--port=1"]])
def test_takes_a_value_after_an_equals_sign_or_as_the_next_word(words: list[str]) -> None:
    assert parse(words).integer("port") == 1


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("--enable_model_warmup", True),
        ("--noenable_model_warmup", False),
        ("--enable_model_warmup=true", True),
        ("--enable_model_warmup=false", False),
        ("--enable_model_warmup=1", True),
        ("--enable_model_warmup=0", False),
        ("--enable_model_warmup=False", False),
    ],
)
def test_reads_every_form_of_a_boolean(word: str, value: bool) -> None:
    assert parse([word]).boolean("enable_model_warmup") is value


def test_a_boolean_never_takes_the_next_word() -> None:
    line = parse(["--enable_batching", "false"])
    assert line.boolean("enable_batching") is True
    assert line.words == ("false",)
    assert line.word_follows == "enable_batching"


def test_a_value_may_be_empty_or_negative_or_hold_an_equals_sign() -> None:
    line = parse(
        ["--model_name", "", "--file_system_poll_wait_seconds", "-1", "--model_base_path=a=b"]
    )
    assert line.text("model_name") == ""
    assert line.integer("file_system_poll_wait_seconds") == -1
    assert line.text("model_base_path") == "a=b"


def test_two_dashes_end_the_flags() -> None:
    assert parse(["--", "--port=1"]).words == ("--port=1",)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--modelname=a"], "unknown flag --modelname (did you mean --model_name?)"),
        (["--model-name=a"], "unknown flag --model-name (did you mean --model_name?)"),
        (["--xyzzy"], "unknown flag --xyzzy (see --help)"),
        (["--noport"], "unknown flag --noport"),
        (["-port=1"], "unknown flag -port=1"),
        (["--noenable_batching=true"], "--noenable_batching takes no value"),
        (["--port"], "--port needs a value: --port=PORT"),
        (["--model_name", "--port=1"], "--model_name needs a value"),
        (["--port=http"], "bad value 'http' for --port: it must be a whole number"),
        (["--port=8_500"], "it must be a whole number"),
        (["--port=1.5"], "it must be a whole number"),
        (["--port="], "bad value '' for --port"),
        (["--port=-1"], "bad value '-1' for --port: the least is 0"),
        (["--port=65536"], "bad value '65536' for --port: the most is 65535"),
        (["--file_system_poll_wait_seconds=2147483648"], "it needs over 32 bits"),
        (["--max_in_flight_bytes=" + "9" * 5000], "it needs over 64 bits"),
        (["--enable_batching=maybe"], "it must be true or false"),
        (["--shutdown_grace_seconds=soon"], "it must be a number"),
        (["--shutdown_grace_seconds=nan"], "it must be a number"),
        (["--shutdown_grace_seconds=-1"], "the least is 0"),
        (["--model_config_file_poll_wait_seconds=-1"], "the least is 0"),
        (["--num_load_threads=-1"], "the least is 0"),
        (["--wait_for_models=-0.5"], "the least is 0"),
        (["--total_model_memory_limit_bytes=-1"], "the least is 0"),
        (
            ["--aspired_version_policy=none"],
            "it must be availability_preserving or resource_preserving",
        ),
        (["--batching_target_latency_ms=-1"], "the least is 0"),
        (["--batching_target_latency_ms=3600001"], "the most is 3600000"),
        (["--batching_target_latency_ms=inf"], "it must be a number"),
        (["--grpc_transport=quic"], "it must be auto or native or grpcio"),
    ],
)
def test_tells_a_wrong_command_line_in_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def flags(*statuses: Status) -> list[Flag]:
    return [flag for flag in FLAGS.values() if flag.status in statuses]


@pytest.mark.parametrize(
    "flag", flags(Status.NOT_YET, Status.NEVER), ids=lambda flag: str(flag.name)
)
def test_accepts_what_is_not_built_at_its_default_only(flag: Flag) -> None:
    refuse_what_is_not_built(parse([f"--{flag.name}={shown(flag.default)}"]))
    if isinstance(flag.default, bool):
        other = shown(not flag.default)
    else:
        other = str(flag.default + 1) if isinstance(flag.default, int) else "something"
    line = parse([f"--{flag.name}={other}"])
    if line.values[flag.name] in flag.also_fine:
        refuse_what_is_not_built(line)
        return
    with pytest.raises(UsageError, match=rf"--{flag.name} is not .*: leave it out"):
        refuse_what_is_not_built(line)


def test_says_what_to_use_in_place_of_a_platform_config() -> None:
    with pytest.raises(UsageError) as caught:
        refuse_what_is_not_built(parse(["--platform_config_file=f"]))
    assert str(caught.value) == (
        "--platform_config_file is not part of this server (--tensorflow_session_config_file,"
        " --saved_model_tags and the flags for batching and warm-up say the same): leave it out,"
        " or at its default of no value"
    )


def test_every_flag_without_meaning_says_why_when_it_is_given() -> None:
    words = [f"--{flag.name}={shown(flag.default)}" for flag in flags(Status.WITHOUT_MEANING)]
    sentences = without_meaning(parse(words))
    assert len(sentences) == len(words) > 0
    assert all(FLAGS[s.split()[0].lstrip("-")].note in s for s in sentences)
    assert without_meaning(parse(["--port=1"])) == []


def test_help_names_every_flag_and_keeps_to_its_width() -> None:
    text = help_text(width=80)
    for name in FLAGS:
        assert f"--{name}" in text
    for group in FLAG_GROUPS:
        if any(flag.status is Status.WORKS for flag in FLAG_GROUPS[group]):
            assert f"\n{group}:\n" in text
    assert max(map(len, text.splitlines())) <= 90
