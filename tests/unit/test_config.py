"""Options, and the files and lists that they are read from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tfsrv._proto import message_class
from tfsrv.config import (
    MAX_MESSAGE_BYTES,
    GrpcChannelArguments,
    ModelConfig,
    ServerOptions,
    grpc_channel_arguments,
    memory_bytes,
    session_config,
    unreadable,
)
from tfsrv.errors import Code, ServingError

MODEL = ModelConfig("m", "/models/m")


def config_proto(**options: Any) -> Any:
    serialized = session_config(ServerOptions(models=(MODEL,), **options))
    return message_class("tensorflow.ConfigProto").FromString(serialized)


def test_refuses_options_without_a_model_in_tensorflow_servings_words() -> None:
    with pytest.raises(ServingError) as caught:
        ServerOptions()
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message == (
        "Both server_options.model_base_path and server_options.model_config_file are empty!"
    )


@pytest.mark.parametrize("named", [{"model_config_file": "f"}, {"source": "s"}])
def test_options_without_a_model_are_fine_where_models_may_come_later(
    named: dict[str, Any],
) -> None:
    assert ServerOptions(**named).models == ()


def test_names_a_file_that_may_not_be_read() -> None:
    error = unreadable("models.config", PermissionError(13, "Permission denied"))
    assert error.code == Code.PERMISSION_DENIED
    assert error.message == "models.config; Permission denied"


def test_where_a_model_was_configured_is_no_difference_between_models() -> None:
    assert ModelConfig("m", "/m", place="a:1") == ModelConfig("m", "/m", place="b:2")


def test_refuses_three_kinds_of_parallelism_at_once() -> None:
    with pytest.raises(ServingError, match=r"Either configure .* You cannot configure all\."):
        ServerOptions(
            models=(MODEL,),
            tensorflow_session_parallelism=1,
            tensorflow_intra_op_parallelism=1,
            tensorflow_inter_op_parallelism=1,
        )


def test_holds_half_of_the_memory_in_flight_unless_told_otherwise() -> None:
    assert ServerOptions(models=(MODEL,)).max_in_flight_bytes == memory_bytes() // 2 > 0
    assert ServerOptions(models=(MODEL,), max_in_flight_bytes=5).max_in_flight_bytes == 5


def test_session_parallelism_sets_both_kinds_of_threads() -> None:
    config = config_proto(tensorflow_session_parallelism=3)
    assert config.intra_op_parallelism_threads == 3
    assert config.inter_op_parallelism_threads == 3


def test_separate_parallelism_sets_one_kind_of_threads_each() -> None:
    config = config_proto(tensorflow_intra_op_parallelism=2, tensorflow_inter_op_parallelism=-1)
    assert config.intra_op_parallelism_threads == 2
    assert config.inter_op_parallelism_threads == -1


def test_takes_gpu_memory_as_it_is_needed_unless_a_part_is_asked_for() -> None:
    assert config_proto().gpu_options.allow_growth
    asked = config_proto(per_process_gpu_memory_fraction=0.5)
    assert asked.gpu_options.per_process_gpu_memory_fraction == 0.5
    assert not asked.gpu_options.allow_growth


def test_flags_go_before_the_session_config_file_only_where_they_say_something(
    tmp_path: Path,
) -> None:
    file = tmp_path / "session.pbtxt"
    file.write_text(
        "intra_op_parallelism_threads: 7 inter_op_parallelism_threads: 8 "
        "allow_soft_placement: true gpu_options { per_process_gpu_memory_fraction: 0.25 }"
    )
    config = config_proto(
        tensorflow_session_config_file=str(file), tensorflow_intra_op_parallelism=2
    )
    assert config.intra_op_parallelism_threads == 2
    assert config.inter_op_parallelism_threads == 8
    assert config.allow_soft_placement
    assert config.gpu_options.per_process_gpu_memory_fraction == 0.25
    assert not config.gpu_options.allow_growth


def test_names_a_session_config_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="nosuch; No such file or directory") as caught:
        config_proto(tensorflow_session_config_file=str(tmp_path / "nosuch"))
    assert caught.value.code == Code.NOT_FOUND
    with pytest.raises(ServingError, match="Is a directory"):
        config_proto(tensorflow_session_config_file=str(tmp_path))
    bad = tmp_path / "bad"
    bad.write_text("nosuch_field: 1")
    with pytest.raises(ServingError, match=r"Invalid protobuf file: '.*bad' \(.*nosuch_field"):
        config_proto(tensorflow_session_config_file=str(bad))


def test_reads_the_channel_arguments_that_work_and_names_the_others() -> None:
    arguments = grpc_channel_arguments(
        "grpc.max_concurrent_streams=100, grpc.so_reuseport=1,so_reuseaddr=0,"
        "grpc.max_connection_age_ms=2000,grpc.max_connection_age_grace_ms=0,"
        "grpc.keepalive_time_ms=1000,grpc.keepalive_timeout_ms=500,"
        "grpc.keepalive_permit_without_calls=1,grpc.max_receive_message_length=1024,"
        "grpc.lb_policy_name=round_robin,"
    )
    assert arguments == GrpcChannelArguments(
        so_reuseaddr=False,
        so_reuseport=True,
        max_connection_age_ms=2000,
        max_connection_age_grace_ms=0,
        keepalive_time_ms=1000,
        keepalive_timeout_ms=500,
        keepalive_permit_without_calls=True,
        max_concurrent_streams=100,
        max_receive_message_length=1024,
        ignored=("grpc.lb_policy_name=round_robin",),
    )


def test_no_channel_arguments_are_grpcs_defaults() -> None:
    assert grpc_channel_arguments("") == GrpcChannelArguments()
    assert GrpcChannelArguments().max_receive_message_length == MAX_MESSAGE_BYTES == 2**31 - 1


@pytest.mark.parametrize("value", ["-1", "2147483647"])
def test_the_most_that_fits_an_int_is_no_limit(value: str) -> None:
    arguments = grpc_channel_arguments(
        f"grpc.max_receive_message_length={value},grpc.keepalive_time_ms={value}"
    )
    assert arguments.max_receive_message_length == MAX_MESSAGE_BYTES
    assert arguments.keepalive_time_ms is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("grpc.max_concurrent_streams", "is not name=value"),
        ("=1", "is not name=value"),
        ("grpc.keepalive_time_ms=soon", "'soon' for grpc.keepalive_time_ms"),
        ("grpc.keepalive_time_ms=", "'' for grpc.keepalive_time_ms"),
        ("grpc.keepalive_time_ms=²", "is not a whole number"),
        ("grpc.max_concurrent_streams=0", "must be over 0"),
    ],
)
def test_refuses_bad_channel_arguments_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ServingError) as caught:
        grpc_channel_arguments(text)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert sentence in caught.value.message
