"""What REST paths name."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rest_requests import requests
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.rest_paths import (
    ModelPath,
    Verb,
    is_below_root,
    methods_of,
    parse,
    query_flag,
    query_text,
    query_value,
)

MODELS = "/v1/models"
LARGEST = 2**63 - 1


def refusal(method: str, path: str, query: str = "") -> str:
    with pytest.raises(ServingError) as caught:
        parse(method, path, query)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


def read(method: str, path: str) -> ModelPath | str:
    """What a path names, or why it is refused."""
    try:
        return parse(method, path)
    except ServingError as error:
        return error.message if error.code is Code.INVALID_ARGUMENT else ""


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/models", ModelPath(Verb.LIST)),
        ("GET", "/v1/models/m", ModelPath(Verb.STATUS, "m")),
        ("HEAD", "/v1/models/m", ModelPath(Verb.STATUS, "m")),
        ("GET", "/v1/models/m/versions/3", ModelPath(Verb.STATUS, "m", 3)),
        ("GET", "/v1/models/m/labels/a b", ModelPath(Verb.STATUS, "m", label="a b")),
        ("GET", "/v1/models/m/metadata", ModelPath(Verb.METADATA, "m")),
        ("GET", "/v1/models/m/versions/0/metadata", ModelPath(Verb.METADATA, "m", 0)),
        ("GET", "/v1/models/m/labels/x/metadata", ModelPath(Verb.METADATA, "m", label="x")),
        ("POST", "/v1/models/m:predict", ModelPath(Verb.PREDICT, "m")),
        ("POST", "/v1/models/m/versions/3:classify", ModelPath(Verb.CLASSIFY, "m", 3)),
        ("POST", "/v1/models/m/labels/x:regress", ModelPath(Verb.REGRESS, "m", label="x")),
        ("PUT", "/v1/models/m", ModelPath(Verb.SET, "m")),
        ("DELETE", "/v1/models/m", ModelPath(Verb.REMOVE, "m")),
        # The words of the path are names where the grammar needs one.
        ("GET", "/v1/models/metadata", ModelPath(Verb.STATUS, "metadata")),
        ("GET", "/v1/models/versions", ModelPath(Verb.STATUS, "versions")),
        ("GET", "/v1/models/labels/metadata", ModelPath(Verb.METADATA, "labels")),
        ("GET", "/v1/models/versions/versions/5", ModelPath(Verb.STATUS, "versions", 5)),
        # Words in any case; but what they ask for is told in one.
        ("GET", "/V1/Models/M/Versions/3", ModelPath(Verb.STATUS, "M", 3)),
        ("GET", "/v1/models/m/METADATA", ModelPath(Verb.STATUS, "m")),
        ("POST", "/V1/MODELS/m/LABELS/X:predict", ModelPath(Verb.PREDICT, "m", label="X")),
    ],
)
def test_reads(method: str, path: str, expected: ModelPath) -> None:
    assert parse(method, path) == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/m/"),
        ("GET", "/v1/models//metadata"),
        ("GET", "/v1/models/a/b"),
        ("GET", "/v1/models/m/labels/"),
        ("GET", "/v1/models/m/versions/"),
        ("GET", "/v1/models/m/versions/-1"),
        ("GET", "/v1/models/m/versions/1.0"),
        ("GET", "/v1/models/m/versions/٣"),
        ("GET", "/v1/models/m/versions/1/labels/x"),
        ("GET", "/v1/models/m:predict"),
        ("GET", "/v1/modelſ/m"),
        ("GET", "/v1/x"),
        ("GET", "/v1/"),
        ("get", "/v1/models/m"),
        ("POST", "/v1/models"),
        ("POST", "/v1/models/m"),
        ("POST", "/v1/models/:predict"),
        ("POST", "/v1/models/m:PREDICT"),
        ("POST", "/v1/models/m:multi"),
        ("POST", "/v1/models/m/metadata:predict"),
        ("PUT", "/v1/models"),
        ("PUT", "/v1/models/m:predict"),
        ("PUT", "/v1/models/m/versions/1"),
        ("DELETE", "/v1/models/m/labels/x"),
        ("PATCH", "/v1/models/m"),
        ("OPTIONS", "/v1/models/m"),
    ],
)
def test_what_no_rule_knows_is_malformed(method: str, path: str) -> None:
    assert refusal(method, path) == f"Malformed request: {method} {path}"


def test_a_malformed_request_is_told_with_its_query() -> None:
    assert refusal("GET", "/v1/x", "a=1") == "Malformed request: GET /v1/x?a=1"


@pytest.mark.parametrize("path", ["versions/5", "labels/x", "labels/x/metadata"])
def test_a_path_without_a_model_misses_its_name(path: str) -> None:
    assert refusal("GET", f"{MODELS}/{path}") == "Missing model name in request."


@pytest.mark.parametrize("zeros", [0, 1, 5000])
def test_versions_are_int64(zeros: int) -> None:
    digits = "0" * zeros + str(LARGEST)
    assert parse("GET", f"{MODELS}/m/versions/{digits}").version == LARGEST
    assert parse("POST", f"{MODELS}/m/versions/{digits}:predict").version == LARGEST


@pytest.mark.parametrize("digits", [str(LARGEST + 1), "9" * 19 + "0", "1" + "0" * 5000])
@pytest.mark.parametrize(
    ("method", "verb"), [("GET", ""), ("POST", ":predict"), ("POST", ":Predict")]
)
def test_larger_versions_are_refused(method: str, verb: str, digits: str) -> None:
    assert refusal(method, f"{MODELS}/m/versions/{digits}{verb}") == (
        f"Failed to convert version: {digits} to numeric."
    )


@pytest.mark.parametrize(
    ("encoded", "name"), [("%", "%"), ("%2", "%2"), ("a%zz", "a%zz"), ("%%41", "%A"), ("é%", "é%")]
)
def test_a_percent_sign_without_two_digits_is_one(encoded: str, name: str) -> None:
    path = f"{MODELS}/{encoded}/labels/{encoded}"
    assert parse("GET", path) == ModelPath(Verb.STATUS, name, label=name)


@pytest.mark.parametrize("encoded", ["%FF", "%ed%a0%80", "\udcff", "é\udcff", "%FF%"])
def test_names_and_labels_that_do_not_decode_are_refused(encoded: str) -> None:
    assert refusal("GET", f"{MODELS}/{encoded}") == f"Failed to decode model name:{encoded}"
    assert refusal("POST", f"{MODELS}/m/labels/{encoded}:predict") == (
        f"Failed to decode model version label:{encoded}"
    )


def test_what_is_wrong_first_is_told() -> None:
    too_large = str(LARGEST + 1)
    assert refusal("GET", f"{MODELS}/%ff/versions/{too_large}") == (
        "Failed to decode model name:%ff"
    )


@given(st.text(min_size=1), st.text(min_size=1))
def test_names_and_labels_may_be_any_text(name: str, label: str) -> None:
    path = f"{MODELS}/{quote(name, safe='')}/labels/{quote(label, safe='')}"
    assert parse("GET", path) == ModelPath(Verb.STATUS, name, label=label)
    assert parse("POST", f"{path}:predict") == ModelPath(Verb.PREDICT, name, label=label)


@given(st.text(min_size=1).filter(lambda name: not set("/:%") & set(name)))
def test_names_need_no_encoding_where_they_are_unambiguous(name: str) -> None:
    assert parse("GET", f"{MODELS}/{name}") == ModelPath(Verb.STATUS, name)


@given(requests())
def test_every_path_is_read_or_refused_in_one_of_four_ways(request: tuple[str, str]) -> None:
    method, path = request
    found = read(method, path)
    if isinstance(found, ModelPath):
        assert found.version is None or found.label is None
        assert bool(found.name) == (found.verb is not Verb.LIST)
    else:
        assert found == f"Malformed request: {method} {path}" or found.startswith(
            ("Failed to decode model ", "Failed to convert version: ", "Missing model name")
        )


@given(st.sampled_from(["GET", "POST", "PUT", "X"]), st.text())
def test_so_is_any_text(method: str, path: str) -> None:
    read(method, path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/v1/", True), ("/V1/x", True), ("/v1", False), ("/v10/", False), ("/", False)],
)
def test_what_is_below_the_root_is_tensorflow_servings(path: str, expected: bool) -> None:
    assert is_below_root(path) is expected


# --- queries


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", False),
        ("pretty", True),
        ("pretty=", True),
        ("pretty=1", True),
        ("pretty=true", True),
        ("pretty=0", False),
        ("pretty=false", False),
        ("a=b&pretty&%zz", True),
        ("pretty=0&pretty=1", True),
        ("pretty=FALSE", False),
        ("Pretty", False),
        ("prettyx", False),
        ("x=pretty", False),
    ],
)
def test_flags_of_a_query(query: str, expected: bool) -> None:
    assert query_flag(query, "pretty") is expected


def test_values_of_a_query() -> None:
    query = "a=1=2&b&model=half+plus%2Btwo%C3%A9&model=other&=x"
    assert query_value(query, "a") == "1=2"
    assert query_value(query, "b") == ""
    assert query_value(query, "c") is None
    assert query_text(query, "model") == "other"
    assert query_text("model=half+plus%2Btwo%C3%A9", "model") == "half plus+twoé"
    assert query_text(query, "c") is None


def test_a_value_that_does_not_decode_is_refused_if_somebody_wants_it() -> None:
    with pytest.raises(ServingError, match="Failed to decode model:%ff") as caught:
        query_text("model=%ff", "model")
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (MODELS, "GET HEAD"),
        (f"{MODELS}/m", "GET HEAD"),
        (f"{MODELS}/m/labels/x/metadata", "GET HEAD"),
        (f"{MODELS}/m/versions/1:predict", "POST"),
        ("/v1/x", ""),
        ("/anything", "GET HEAD"),
    ],
)
def test_knows_which_methods_a_path_takes(path: str, methods: str) -> None:
    assert " ".join(methods_of(path, False)) == methods
    changes = " PUT DELETE" if path == f"{MODELS}/m" else ""
    assert " ".join(methods_of(path, True)) == methods + changes
