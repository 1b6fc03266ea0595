"""Our .proto files against the committed set, and against what TensorFlow itself ships."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, text_format
from google.protobuf.message import Message

from tfsrv import _proto

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTORS = ROOT / "tfsrv" / "_descriptors.binpb"

# Files that the installed packages do not hold; they are checked by the tests at the end.
NOT_IN_PYTHON_PACKAGES = {
    "tensorflow_serving/config/monitoring_config.proto",
    "tensorflow_serving/config/ssl_config.proto",
    "tensorflow_serving/servables/tensorflow/saved_model_bundle_source_adapter.proto",
    "tensorflow_serving/servables/tensorflow/session_bundle_config.proto",
    "grpc/reflection/v1/reflection.proto",  # as v1alpha, which grpcio-reflection has
    "tfsrv/model_management.proto",  # ours
}


def committed() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())


def own_files() -> list[descriptor_pb2.FileDescriptorProto]:
    return [file for file in committed().file if not file.name.startswith("google/protobuf/")]


def describe(file: descriptor_pb2.FileDescriptorProto) -> dict[str, Any]:
    """Every field, enum value and method of a file, by full name: all that matters on a wire."""
    facts: dict[str, Any] = {}

    def add_message(message: descriptor_pb2.DescriptorProto, scope: str) -> None:
        name = f"{scope}.{message.name}"
        facts[name] = {"message": message.options.map_entry}
        for field in message.field:
            oneof = message.oneof_decl[field.oneof_index].name if in_oneof(field) else None
            packed = field.options.packed
            if file.syntax == "proto3" and not field.options.HasField("packed"):
                packed = is_packable(field)
            facts[f"{name}.{field.name}"] = {
                "number": field.number,
                "type": field.type,
                "type_name": field.type_name,
                "label": field.label,
                "oneof": oneof,
                "optional": field.proto3_optional,
                "packed": packed,
                "default": field.default_value,
                "json_name": field.json_name or camel_case(field.name),
                "deprecated": field.options.deprecated,
            }
        for enum in message.enum_type:
            add_enum(enum, name)
        for nested in message.nested_type:
            add_message(nested, name)

    def add_enum(enum: descriptor_pb2.EnumDescriptorProto, scope: str) -> None:
        facts[f"{scope}.{enum.name}"] = {"enum": enum.options.allow_alias}
        for value in enum.value:
            facts[f"{scope}.{enum.name}.{value.name}"] = value.number

    for message in file.message_type:
        add_message(message, file.package)
    for enum in file.enum_type:
        add_enum(enum, file.package)
    for service in file.service:
        for method in service.method:
            facts[f"{file.package}.{service.name}.{method.name}"] = {
                "input": method.input_type,
                "output": method.output_type,
                "streaming": [method.client_streaming, method.server_streaming],
            }
    facts["syntax"] = file.syntax or "proto2"
    return facts


def in_oneof(field: descriptor_pb2.FieldDescriptorProto) -> bool:
    return field.HasField("oneof_index") and not field.proto3_optional


def is_packable(field: descriptor_pb2.FieldDescriptorProto) -> bool:
    kinds = descriptor_pb2.FieldDescriptorProto
    return field.label == kinds.LABEL_REPEATED and field.type not in (
        kinds.TYPE_STRING,
        kinds.TYPE_BYTES,
        kinds.TYPE_MESSAGE,
        kinds.TYPE_GROUP,
    )


def camel_case(name: str) -> str:
    """The JSON name that a field has by default, which Python's descriptors leave out."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)


# Prints the descriptors of the modules named on standard input, as one FileDescriptorSet. Runs in
# a process of its own, for it imports TensorFlow; so does tfsrv._proto there, which must not mind.
DUMP = """
import importlib, json, sys
from google.protobuf import descriptor_pb2
names = json.load(sys.stdin)
files = descriptor_pb2.FileDescriptorSet()
for name in names:
    module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    module.DESCRIPTOR.CopyToProto(files.file.add())
from tfsrv import _proto
from tensorflow_serving.apis import predict_pb2
ours, theirs = _proto.message_class("tensorflow.serving.PredictRequest"), predict_pb2.PredictRequest
assert ours is not theirs
request = ours(model_spec={"name": "m"})
request.inputs["x"].float_val.append(1.5)
assert theirs.FromString(request.SerializeToString()).inputs["x"].float_val == [1.5]
sys.stdout.buffer.write(files.SerializeToString())
"""


# Of these files we have only the messages that are used.
PARTS = {"google/rpc/error_details.proto"}


def python_module_file(name: str) -> str:
    """Where the packages have it: TensorFlow under tensorflow/compiler, gRPC with underscores."""
    if name.startswith("xla/"):
        return f"tensorflow/compiler/{name}"
    return re.sub("^grpc/([a-z]+)/", r"grpc_\1/", name)


@pytest.fixture(scope="module")
def installed() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """The files of tensorflow and tensorflow-serving-api that we carry too, by name."""
    if not find_spec("tensorflow") or not find_spec("tensorflow_serving"):
        pytest.skip("needs tensorflow and tensorflow-serving-api")
    names = [file.name for file in own_files() if file.name not in NOT_IN_PYTHON_PACKAGES]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DUMP],
        input=json.dumps([python_module_file(name) for name in names]).encode(),
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    files = descriptor_pb2.FileDescriptorSet.FromString(done.stdout)
    return dict(zip(names, files.file, strict=True))


def test_committed_set_is_what_the_proto_files_compile_to(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    rebuilt = tmp_path / "rebuilt.binpb"
    subprocess.run([sys.executable, ROOT / "protos" / "compile.py", rebuilt], check=True)
    files = descriptor_pb2.FileDescriptorSet.FromString(rebuilt.read_bytes())
    assert {file.name: file for file in files.file} == {
        file.name: file for file in committed().file
    }


def test_committed_set_lists_each_file_after_those_it_imports() -> None:
    seen: set[str] = set()
    for file in committed().file:
        assert seen.issuperset(file.dependency)
        seen.add(file.name)


@pytest.mark.parametrize(
    "name", [file.name for file in own_files() if file.name not in NOT_IN_PYTHON_PACKAGES]
)
def test_agrees_with_the_installed_package(
    name: str, installed: dict[str, descriptor_pb2.FileDescriptorProto]
) -> None:
    (ours,) = (file for file in own_files() if file.name == name)
    theirs = describe(installed[name])
    if name in PARTS:
        theirs = {fact: theirs[fact] for fact in describe(ours)}
    assert describe(ours) == theirs


def test_older_name_of_reflection_has_the_same_messages() -> None:
    v1, v1alpha = (
        str(describe(file)).replace(".v1alpha.", ".v1.")
        for version in ("v1", "v1alpha")
        for file in own_files()
        if file.name == f"grpc/reflection/{version}/reflection.proto"
    )
    assert v1 == v1alpha


def test_files_declared_as_missing_from_the_packages_are_missing_there() -> None:
    assert {file.name for file in own_files()} >= NOT_IN_PYTHON_PACKAGES
    package = find_spec("tensorflow_serving")
    if package is None or package.submodule_search_locations is None:
        pytest.skip("needs tensorflow-serving-api")
    for name in NOT_IN_PYTHON_PACKAGES:
        module = name.removeprefix("tensorflow_serving/").replace(".proto", "_pb2.py")
        assert not (Path(package.submodule_search_locations[0]) / module).exists()


# Fields that this project has added to messages of TensorFlow Serving, with their numbers.
EXTENSIONS = {
    "tensorflow.serving.BatchingParameters": {
        "max_concurrent_runs": 1001,
        "target_latency_ms": 1002,
    },
}


def numbers(full_name: str) -> dict[str, int]:
    """TensorFlow Serving's fields."""
    fields = _proto.message_class(full_name).DESCRIPTOR.fields
    ours = EXTENSIONS.get(full_name, {})
    return {field.name: field.number for field in fields if field.name not in ours}


@pytest.mark.parametrize("full_name", EXTENSIONS)
def test_extensions_have_numbers_that_tensorflow_serving_is_far_from(full_name: str) -> None:
    fields = {
        field.name: field.number for field in _proto.message_class(full_name).DESCRIPTOR.fields
    }
    assert EXTENSIONS[full_name].items() <= fields.items()
    assert min(EXTENSIONS[full_name].values()) > 1000 > max(numbers(full_name).values())


def test_numbers_of_messages_that_no_python_package_holds() -> None:
    assert numbers("tensorflow.serving.SSLConfig") == {
        "server_key": 1,
        "server_cert": 2,
        "custom_ca": 3,
        "client_verify": 4,
    }
    assert numbers("tensorflow.serving.PrometheusConfig") == {"enable": 1, "path": 2}
    assert numbers("tensorflow.serving.MonitoringConfig") == {"prometheus_config": 1}
    assert numbers("tensorflow.serving.BatchingParameters") == {
        "max_batch_size": 1,
        "batch_timeout_micros": 2,
        "max_enqueued_batches": 3,
        "num_batch_threads": 4,
        "thread_pool_name": 5,
        "allowed_batch_sizes": 6,
        "pad_variable_length_inputs": 7,
        "enable_large_batch_splitting": 8,
        "max_execution_batch_size": 9,
    }
    assert numbers("tensorflow.serving.SavedModelBundleSourceAdapterConfig") == {
        "legacy_config": 1000
    }


def fill(message: Message, depth: int = 0) -> None:
    """Set every field of `message`, and of the messages in it down to a few levels."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            value: Any = {"string": "text", "bytes": b"bytes", "bool": True}.get(
                KINDS[field.type], 1
            )
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
        elif field.message_type.GetOptions().map_entry:
            value_field = field.message_type.fields_by_name["value"]
            key = "key" if KINDS[field.message_type.fields_by_name["key"].type] == "string" else 1
            entries = getattr(message, field.name)
            if value_field.message_type is not None:
                entries[key].SetInParent()
            else:
                entries[key] = "text" if KINDS[value_field.type] == "string" else 1
        elif depth < 4:
            part = getattr(message, field.name)
            if field.is_repeated:
                part = part.add()
            part.SetInParent()
            fill(part, depth + 1)


KINDS: dict[int, str] = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
}


@pytest.mark.parametrize(
    "full_name",
    [
        "tensorflow.ConfigProto",
        "tensorflow.serving.ModelServerConfig",
        "tensorflow.serving.SessionBundleConfig",
    ],
)
def test_reads_back_text_in_which_every_field_is_set(full_name: str) -> None:
    message = _proto.message_class(full_name)()
    fill(message)
    text = text_format.MessageToString(message, descriptor_pool=_proto.pool())
    assert _proto.parse_text(full_name, text, "every_field.pbtxt") == message


def test_reads_any_in_text_from_the_private_pool() -> None:
    text = (
        "custom_model_config { [type.googleapis.com/tensorflow.serving.ModelSpec] { name: 'a' } }"
    )
    config: Any = _proto.parse_text("tensorflow.serving.ModelServerConfig", text, "f")
    spec: Any = _proto.message_class("tensorflow.serving.ModelSpec")()
    assert config.custom_model_config.Unpack(spec)
    assert spec.name == "a"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "model_config_list {\n  config { nme: 'a' }\n}",
            'models.config:2:12: .* no field named "nme"',
        ),
        ("model_config_list { config { name: 3 } }", "models.config:1:36: .*Expected string"),
        ("model_config_list {\n", "models.config:.*Expected"),
        (b"# \xff", "models.config:1:3: not UTF-8"),
        (b"\n\n \xe4", "models.config:3:2: not UTF-8"),
    ],
    ids=["unknown field", "wrong type", "unfinished", "not UTF-8", "not UTF-8 in third line"],
)
def test_error_in_text_names_file_line_and_column(text: str | bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        _proto.parse_text("tensorflow.serving.ModelServerConfig", text, "models.config")


def test_text_nested_too_deeply_is_an_error_like_any_other() -> None:
    text = "attr { key: 'a' value { func {" * 5000
    with pytest.raises(ValueError, match="nested too deeply"):
        _proto.parse_text("tensorflow.NodeDef", text, "deep.pbtxt")


def test_unknown_message_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        _proto.message_class("tensorflow.serving.NoSuchMessage")


def test_same_class_for_the_same_name() -> None:
    name = "tensorflow.serving.PredictRequest"
    assert _proto.message_class(name) is _proto.message_class(name)


def test_threads_that_call_first_at_the_same_time_get_the_same_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_proto, "_pool", None)
    with ThreadPoolExecutor(8) as executor:
        pools = list(executor.map(lambda _: _proto.pool(), range(64)))
    assert all(pool is pools[0] for pool in pools)


def test_import_reads_no_descriptors() -> None:
    check = "from tfsrv import _proto; assert _proto._pool is None"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)
