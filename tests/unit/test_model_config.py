"""ModelServerConfig: from text and messages to models, and back."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsrv import model_config
from tfsrv._proto import message_class
from tfsrv.config import AllVersions, LatestVersions, ModelConfig, SpecificVersions, VersionPolicy
from tfsrv.errors import Code, ServingError
from tfsrv.model_config import check_model, models_of, parse_model_server_config, to_message

HEAD = "Error parsing text-format tensorflow.serving.ModelServerConfig: "
MINIMAL = 'name: "m" base_path: "/m" model_platform: "tensorflow" '


def read(text: str | bytes, root_dir: str | None = "/configs") -> tuple[ModelConfig, ...] | None:
    """The models of a text, as a server reads it."""
    content = text if isinstance(text, bytes) else text.encode()
    return models_of(
        parse_model_server_config(content, "models.config"),
        root_dir=root_dir,
        platforms={"tensorflow", "lookup_table"},
        file_name="models.config",
        text=content,
    )


def read_one(fields: str, root_dir: str | None = "/configs") -> ModelConfig:
    models = read(f"model_config_list {{ config {{ {fields} }} }}", root_dir)
    assert models is not None
    (model,) = models
    return model


def refusal(text: str | bytes, root_dir: str | None = "/configs") -> str:
    with pytest.raises(ServingError) as caught:
        read(text, root_dir)
    assert caught.value.code == Code.INVALID_ARGUMENT
    return caught.value.message


def refusal_of_one(fields: str, root_dir: str | None = "/configs") -> str:
    message = refusal(f"model_config_list {{\n\nconfig {{ {fields} }} }}", root_dir)
    place = " (models.config:3)"
    assert message.endswith(place)
    return message.removesuffix(place)


# -- text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("model_config_list {\n  config { nme: 'a' }\n}", "models.config:2:12: Message type"),
        ("model_config_list { config { name: 3 } }", "models.config:1:36: "),
        ("model_config_list {\n config {", "models.config:2:"),
        ("model_config_list { config { name: 'a' name: 'b' } }", "models.config:1:"),
        ("model_config_list {} custom_model_config {}", "models.config:1:22: "),
        ("model_config_list {} model_config_list {}", "models.config:1:"),
        ("model_config_list { config { model_type: TENSOR } }", "models.config:1:42: "),
        ("{ 'model_config_list': [] }", "models.config:1:1: "),
        ("model_config_list { config { name: 'a } }", "models.config:1:36: "),
        (
            "model_config_list { config { version_labels { value: 9223372036854775808 } } }",
            "models.config:1:54: ",
        ),
        (
            "model_config_list { config { model_version_policy { specific { versions: 1.5 } } } }",
            "models.config:1:74: ",
        ),
        (
            "model_config_list { config { model_version_policy { latest {} all {} } } }",
            "models.config:1:63: ",
        ),
        ("custom_model_config { [a.b/no.Such] { } }", "models.config:1:"),
        (b"model_config_list {\n# \xff\n}", "models.config:2:3: not UTF-8"),
        (b"\x0a\x04\x0a\x02", "models.config:2:1: "),
        ("model_config_list { config { name: '\\ud800' } }", "models.config:1:"),
        ("model_config_list { config { name: '\\xff' } }", "models.config:1:"),
    ],
)
def test_tells_file_line_and_column_of_a_text_that_is_no_config(
    text: str | bytes, error: str
) -> None:
    message = refusal(text)
    assert message.startswith(f"{HEAD}{error}"), message


def test_refuses_a_text_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_config.MAX_TEXT_BYTES == 64 * 2**20
    monkeypatch.setattr(model_config, "MAX_TEXT_BYTES", 2**20)
    assert parse_model_server_config(b" " * 2**20, "f")
    with pytest.raises(ServingError, match="f is larger than the 1 MiB") as caught:
        parse_model_server_config(b" " * (2**20 + 1), "f")
    assert caught.value.code == Code.INVALID_ARGUMENT


# -- what is read


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_a_text_that_says_nothing_of_models_is_not_an_empty_list(text: str) -> None:
    assert read(text) is None
    assert read("model_config_list {}") == ()


def test_reads_every_field() -> None:
    model = read_one(
        """
        name: "m" base_path: "/models/m" model_platform: "lookup_table"
        model_version_policy { specific { versions: [7, 3] versions: 3 } }
        version_labels { key: "stable" value: 3 } version_labels { key: "canary" value: 7 }
        """
    )
    assert model == ModelConfig(
        "m",
        "/models/m",
        platform="lookup_table",
        version_policy=SpecificVersions(frozenset({3, 7})),
        version_labels=(("canary", 7), ("stable", 3)),
    )
    assert model.place == "models.config:2"


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", LatestVersions(1)),
        ("model_version_policy {}", LatestVersions(1)),
        ("model_version_policy { latest {} }", LatestVersions(1)),
        ("model_version_policy { latest { num_versions: 0 } }", LatestVersions(1)),
        ("model_version_policy { latest { num_versions: 3 } }", LatestVersions(3)),
        (
            "model_version_policy { latest { num_versions: 4294967295 } }",
            LatestVersions(2**32 - 1),
        ),
        ("model_version_policy { all {} }", AllVersions()),
        (
            "model_version_policy { specific { versions: 9223372036854775807 versions: 0 } }",
            SpecificVersions(frozenset({2**63 - 1, 0})),
        ),
    ],
)
def test_reads_every_version_policy(text: str, policy: VersionPolicy) -> None:
    assert read_one(MINIMAL + text).version_policy == policy


def test_the_old_model_type_names_the_platform() -> None:
    assert read_one('name: "m" base_path: "/m" model_type: TENSORFLOW').platform == "tensorflow"


@pytest.mark.parametrize(
    ("base_path", "read_path"),
    [
        ("/models/m/", "/models/m/"),
        ("m", "/configs/m"),
        ("./m", "/configs/m"),
        ("../models/m", "/configs/../models/m"),  # /configs may be a link
        (".", "/configs"),
        ("gs://bucket/m", "gs://bucket/m"),
        ("a:/m", "/configs/a:/m"),
    ],
)
def test_relative_base_paths_start_at_the_root(base_path: str, read_path: str) -> None:
    fields = f'name: "m" base_path: "{base_path}" model_platform: "tensorflow"'
    assert read_one(fields).base_path == read_path


# -- what is refused


def test_refuses_a_config_of_another_kind() -> None:
    assert refusal("custom_model_config {}") == (
        "Missing custom_model_config_loader in ServerCore Options: this server reads"
        " model_config_list (models.config)"
    )


def test_a_name_listed_twice_is_told_at_its_second_place() -> None:
    block = f"config {{ {MINIMAL} }}\n"
    assert refusal(f"model_config_list {{\n{block}\n\n{block} }}") == (
        "Illegal to list model m multiple times in config list (models.config:5)"
    )


@pytest.mark.parametrize("path", ["", "m", "./m", "bucket:/m", "1s://m"])
def test_refuses_a_relative_base_path_where_there_is_no_root(path: str) -> None:
    fields = f'name: "m" base_path: "{path}" model_platform: "tensorflow"'
    assert refusal_of_one(fields, root_dir=None) == (
        f"Expected model m to have an absolute path or URI; got base_path()={path}"
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            'name: "m" model_platform: "tensorflow"',
            "Expected model m to have an absolute path or URI; got base_path()=",
        ),
        (
            'name: "" base_path: "/m" model_platform: "tensorflow"',
            "Expected a model to have a name; got none for base_path()=/m",
        ),
        (
            r'name: "m" base_path: "/m\0" model_platform: "tensorflow"',
            "The base_path of model m has a NUL in it, which no path can have",
        ),
        (
            'name: "m" base_path: "/m"',
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor"
            " ModelServerConfig::model_platform, model name is m",
        ),
        (
            f"{MINIMAL} model_type: TENSORFLOW",
            "Illegal setting both ModelServerConfig::model_type (deprecated) and"
            " ModelServerConfig::model_platform, model name is m",
        ),
        (
            'name: "m" base_path: "/m" model_type: OTHER',
            "ModelServerConfig::model_type choice 2 not supported, model name is m",
        ),
        (
            'name: "m" base_path: "/m" model_platform: "onnx"',
            "Model m requests unsupported platform onnx",
        ),
        (
            f"{MINIMAL} model_version_policy {{ specific {{}} }}",
            "Model m asks for specific versions and lists none: list them, or leave the model out",
        ),
        (
            f"{MINIMAL} model_version_policy {{ specific {{ versions: [1, -2] }} }}",
            "Model m asks for version -2: versions are not negative",
        ),
        (
            f"{MINIMAL} version_labels {{ value: 1 }}",
            "Model m has a label without a name, for version 1",
        ),
        (
            f'{MINIMAL} version_labels {{ key: "a" value: -1 }}',
            "Label a of model m points to version -1: versions are not negative",
        ),
        (
            f"{MINIMAL} model_version_policy {{ specific {{ versions: 1 }} }}"
            ' version_labels { key: "a" value: 1 } version_labels { key: "b" value: 2 }',
            "Label b of model m points to version 2, which is not among the specific versions"
            " of the model",
        ),
        (
            f"{MINIMAL} logging_config {{}}",
            "No request-logger-creator provided. This server does not log requests: leave out"
            " the logging_config of model m",
        ),
    ],
)
def test_refuses_what_it_cannot_serve_in_a_sentence_with_the_place(
    fields: str, sentence: str
) -> None:
    assert refusal_of_one(fields) == sentence


def test_checks_all_models_for_one_thing_before_the_next_as_tensorflow_serving_does() -> None:
    no_platform = 'config { name: "a" base_path: "/a" }'
    no_path = 'config { name: "b" }'
    assert "model b to have an absolute path" in refusal(
        f"model_config_list {{ {no_platform} {no_path} }}"
    )


def test_without_platforms_any_will_do() -> None:
    text = b'model_config_list { config { name: "m" base_path: "/m" model_platform: "x" } }'
    models = models_of(parse_model_server_config(text, "f"), root_dir=None)
    assert models is not None
    assert models[0].platform == "x"
    assert models[0].place == ""


def test_an_error_in_a_message_that_came_without_text_names_no_line() -> None:
    message: Any = message_class("tensorflow.serving.ModelServerConfig")()
    message.model_config_list.config.add(name="m")
    with pytest.raises(ServingError, match=r"got base_path\(\)=$"):
        models_of(message, root_dir=None)
    with pytest.raises(ServingError, match=r"got base_path\(\)= \(somewhere\)$"):
        models_of(message, root_dir=None, file_name="somewhere")


def test_one_model_goes_through_the_same_checks() -> None:
    message: Any = message_class("tensorflow.serving.ModelConfig")()
    message.name, message.base_path, message.model_platform = "m", "m", "tensorflow"
    model = check_model(message, root_dir="/r", place="a call")
    assert model == ModelConfig("m", "/r/m")
    assert model.place == "a call"
    with pytest.raises(ServingError, match=r"absolute path or URI.*=m \(a call\)$"):
        check_model(message, root_dir=None, place="a call")
    with pytest.raises(ServingError, match="unsupported platform tensorflow"):
        check_model(message, root_dir="/r", platforms=())


# -- properties

NAMES = st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20
)  # UTF-8 has no surrogates
VERSIONS = st.integers(0, 2**63 - 1)


@st.composite
def models(draw: st.DrawFn, name: str) -> ModelConfig:
    policy: VersionPolicy = draw(
        st.builds(LatestVersions, st.integers(1, 2**32 - 1))
        | st.builds(AllVersions)
        | st.builds(SpecificVersions, st.frozensets(VERSIONS, min_size=1))
    )
    targets = (
        st.sampled_from(sorted(policy.versions))
        if isinstance(policy, SpecificVersions)
        else VERSIONS
    )
    return ModelConfig(
        name,
        "/" + draw(NAMES).replace("\0", ""),
        platform=draw(NAMES),
        version_policy=policy,
        version_labels=tuple(sorted(draw(st.dictionaries(NAMES, targets)).items())),
    )


@given(st.data(), st.lists(NAMES, unique=True, max_size=5))
def test_models_become_a_message_and_the_same_models_again(
    data: st.DataObject, names: list[str]
) -> None:
    wanted = tuple(data.draw(models(name)) for name in names)
    message = to_message(wanted)
    assert models_of(message, root_dir=None) == wanted
    text = str(message).encode()
    assert read_unchecked(text) == wanted


def read_unchecked(text: bytes) -> tuple[ModelConfig, ...] | None:
    return models_of(parse_model_server_config(text, "f"), root_dir=None, text=text, file_name="f")


WORDS = st.sampled_from(
    [
        *("model_config_list", "custom_model_config", "config", "name", "base_path"),
        *("model_type", "model_platform", "model_version_policy", "version_labels", "key"),
        *("value", "latest", "all", "specific", "versions", "num_versions", "logging_config"),
        *("TENSORFLOW", "OTHER", '"m"', "'/m'", '"tensorflow"', "'", '"', "\\", "#", "\n"),
        *("{", "}", "<", ">", "[", "]", ":", ",", ";", "/", "0", "-1", "1e9", "9" * 5000, "nan"),
        *("'\\ud800'", "'\\xff'", "'\\u'", "'\\'", "[a.b/tensorflow.serving.ModelConfig]", "%"),
    ]
)


@settings(max_examples=500)
@given(
    st.binary()
    | st.text().map(lambda text: text.encode(errors="surrogatepass"))
    | st.lists(WORDS, max_size=30).map(lambda words: " ".join(words).encode())
)
def test_no_text_does_anything_but_give_models_or_a_serving_error(text: bytes) -> None:
    error: ServingError | None = None
    try:
        found = read_unchecked(text)
    except ServingError as raised:
        error = raised
    if error is None:
        assert found is None or all(model.name for model in found)
        return
    assert error.code == Code.INVALID_ARGUMENT
    assert error.message.startswith(HEAD + "f:") or "(f" in error.message


@settings(max_examples=200)
@given(st.binary(max_size=100))
def test_no_message_does_anything_but_give_models_or_a_serving_error(data: bytes) -> None:
    message = message_class("tensorflow.serving.ModelServerConfig")()
    try:
        message.MergeFromString(data)
    except DecodeError:  # there is no message
        return
    with suppress(ServingError):
        models_of(message, root_dir=None)
