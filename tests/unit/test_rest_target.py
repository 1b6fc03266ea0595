"""What the head of a request to run a model says."""

from __future__ import annotations

import pytest

from tfsrv.frontends._rest_target import read_target

PLAIN = {
    "verb": "predict",
    "name": b"m",
    "version": None,
    "label": b"",
    "signature_name": b"",
    "pretty": False,
    "model_spec": False,
    "body_form": "json",
    "answer_form": "json",
    "any_form": True,
}


@pytest.mark.parametrize(
    ("path", "difference"),
    [
        (b"/v1/models/m:predict", {}),
        (b"/V1/Models/m:predict", {}),
        (b"/v1/models/m:classify", {"verb": "classify"}),
        (b"/v1/models/m:regress", {"verb": "regress"}),
        (b"/v1/models/M:predict", {"name": b"M"}),
        (b"/v1/models/m/versions/12:predict", {"version": 12}),
        (b"/v1/models/m/VERSIONS/007:predict", {"version": 7}),
        (b"/v1/models/m/versions/9223372036854775807:predict", {"version": 2**63 - 1}),
        (b"/v1/models/m/labels/stable:predict", {"label": b"stable"}),
        (b"/v1/models/m/labels/a%20b:predict", {"label": b"a b"}),
        (b"/v1/models/a%2Fb%3ac:predict", {"name": b"a/b:c"}),
        (b"/v1/models/%:predict", {"name": b"%"}),
        (b"/v1/models/%4%zz%%41%a:predict", {"name": b"%4%zz%A%a"}),
        (b"/v1/models/%C3%A4:predict", {"name": "ä".encode()}),
        (b"/v1/models/a+b:predict", {"name": b"a+b"}),
    ],
)
def test_reads_paths(path: bytes, difference: dict[str, object]) -> None:
    assert read_target(path) == {**PLAIN, **difference}


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"/v1/models/m",
        b"/v1/models/:predict",
        b"/v1/models/m:",
        b"/v1/models/m:PREDICT",
        b"/v1/models/m:predictx",
        b"/v1/models/m:predict/",
        b"/v1/models/m:predict:predict",
        b"/v1/models/m/versions/:predict",
        b"/v1/models/m/versions/-1:predict",
        b"/v1/models/m/versions/+1:predict",
        b"/v1/models/m/versions/1a:predict",
        b"/v1/models/m/versions/9223372036854775808:predict",
        b"/v1/models/m/versions/99999999999999999999999999:predict",
        b"/v1/models/m/versions/1/labels/a:predict",
        b"/v1/models/m/labels/:predict",
        b"/v1/models/m/labels/a/:predict",
        b"/v1/models/m/other/1:predict",
        b"/v1/models/%ff:predict",
        b"/v2/models/m:predict",
        b"v1/models/m:predict",
    ],
)
def test_leaves_other_paths_to_others(path: bytes) -> None:
    assert read_target(path) is None


@pytest.mark.parametrize(
    ("query", "difference"),
    [
        (b"pretty", {"pretty": True}),
        (b"pretty=", {"pretty": True}),
        (b"pretty=1&model_spec=true", {"pretty": True, "model_spec": True}),
        (b"pretty=0&model_spec=False", {}),
        (b"x=1&&pretty", {"pretty": True}),
        (b"prettyish=1&PRETTY=1", {}),
        (b"signature_name=a%26b+c", {"signature_name": b"a&b c"}),
        (b"signature_name=long&signature_name=b", {"signature_name": b"b"}),
    ],
)
def test_reads_queries(query: bytes, difference: dict[str, object]) -> None:
    assert read_target(b"/v1/models/m:predict", query) == {**PLAIN, **difference}


def test_leaves_a_query_that_is_not_encoded_well_to_others() -> None:
    assert read_target(b"/v1/models/m:predict", b"signature_name=%ff") is None


@pytest.mark.parametrize(
    ("content_type", "accept", "body_form", "answer_form", "any_form"),
    [
        (b"", b"", "json", "json", True),
        (b"application/json; charset=utf-8", b"*/*", "json", "json", True),
        (b"application/x-www-form-urlencoded", b"", "json", "json", True),
        (b"application/x-protobuf", b"", "protobuf", "protobuf", True),
        (b"Application/Protobuf ;v=1", b"*/*", "protobuf", "protobuf", True),
        (b"application/x-npy", b"", "npy", "npy", True),
        (b"application/x-npy", b"application/x-npz", "npy", "npz", False),
        (b"application/x-npz", b"text/html, application/json;q=0.5", "npz", "json", False),
        (b"", b"application/x-protobuf", "json", "protobuf", False),
    ],
)
def test_reads_forms(
    content_type: bytes, accept: bytes, body_form: str, answer_form: str, any_form: bool
) -> None:
    read = read_target(b"/v1/models/m:predict", b"", content_type, accept)
    assert read == {
        **PLAIN,
        "body_form": body_form,
        "answer_form": answer_form,
        "any_form": any_form,
    }


@pytest.mark.parametrize(
    ("content_type", "accept"),
    [(b"application/x-npy", b""), (b"", b"application/x-npz")],
)
def test_has_no_arrays_for_examples(content_type: bytes, accept: bytes) -> None:
    assert read_target(b"/v1/models/m:classify", b"", content_type, accept) is None
