"""The OpenAPI document of models that are made up, and that its schemas say what is so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.known_models import (
    HALF_PLUS_TWO,
    VECTOR,
    Declares,
    KnownModels,
    Tensors,
    signature_def,
)
from tfsrv.errors import Code, ServingError
from tfsrv.frontends.http_messages import HttpRequest
from tfsrv.frontends.openapi import OpenApi
from tfsrv.frontends.signatures import CLASSIFY, REGRESS, ServedSignatures

BAD = ServingError(Code.NOT_FOUND, "broken")
MATRIX = ("float", [None, 3])


def openapi(models: KnownModels, **options: Any) -> OpenApi:
    return OpenApi(models, ServedSignatures(models.map), **options)


def asked(handler: OpenApi) -> bytes:
    return asyncio.run(handler(HttpRequest("GET", "/openapi.json"))).body


def document(models: KnownModels, **options: Any) -> Any:
    return json.loads(asked(openapi(models, **options)))


def one_model(servable: object, name: str = "m") -> KnownModels:
    models = KnownModels()
    models.add(name, {1: servable})
    return models


def of_signature(inputs: Tensors, outputs: Tensors, name: str = "serving_default") -> Any:
    return document(one_model(Declares(**{name: signature_def(inputs, outputs)})))


def fits(described: Any, value: object, kind: str = "PredictRequest") -> bool:
    """Whether a value is what one of the components describes."""
    schema = {"$ref": f"#/components/schemas/m.1.{kind}", "components": described["components"]}
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def posts(described: Any) -> list[str]:
    return [path for path, item in described["paths"].items() if "post" in item]


@pytest.mark.parametrize("has_management", [False, True])
def test_is_a_valid_document(has_management: bool) -> None:
    models = KnownModels()
    classify = signature_def({"inputs": ("string", [None])}, {"scores": VECTOR}, CLASSIFY)
    shapes = signature_def(
        {"a": ("string", None), "b": ("uint8", [2, None, 0])}, {"c_bytes": ("string", [2])}
    )
    models.add("m", {2: Declares(serving_default=HALF_PLUS_TWO, c=classify), 1: BAD})
    models.add("{odd}/<b>%41", {7: Declares(shapes=shapes)}, labels={"a b": 7})
    models.add("broken", {1: BAD})
    described = document(models, has_management=has_management, metrics_paths=["/metrics", "/m"])
    OpenAPIV31SpecValidator(described).validate()
    assert ("put" in described["paths"]["/v1/models/{model}"]) is has_management
    assert {"/metrics", "/m", "/healthz", "/readyz", "/v1/models"} <= described["paths"].keys()


def test_is_valid_without_models() -> None:
    OpenAPIV31SpecValidator(document(KnownModels())).validate()


def test_describes_each_address_that_runs_a_model() -> None:
    models = KnownModels()
    servable = Declares(serving_default=HALF_PLUS_TWO)
    regress = signature_def({"inputs": ("string", [None])}, {"outputs": VECTOR}, REGRESS)
    labels = {"stable": 1, "gone": 5}
    models.add("a/b", {1: servable, 2: servable, 3: BAD}, labels=labels)
    models.add("r", {1: Declares(r=regress)})
    assert sorted(posts(document(models))) == [
        "/v1/models/a%2Fb/labels/stable:predict",
        "/v1/models/a%2Fb/versions/1:predict",
        "/v1/models/a%2Fb/versions/2:predict",
        "/v1/models/a%2Fb:predict",
        "/v1/models/r/versions/1:predict",
        "/v1/models/r/versions/1:regress",
        "/v1/models/r:predict",
        "/v1/models/r:regress",
    ]


def test_labels_are_described_with_their_models() -> None:
    models = KnownModels()
    models.add("m", {1: Declares(serving_default=HALF_PLUS_TWO)}, labels={"a b": 1})
    models.add("other", {1: Declares(serving_default=HALF_PLUS_TWO)})
    paths = document(models)["paths"]
    assert [path for path in paths if "labels" in path] == [
        "/v1/models/m/labels/a%20b",
        "/v1/models/m/labels/a%20b/metadata",
        "/v1/models/m/labels/a%20b:predict",
    ]


def test_takes_rows_and_columns() -> None:
    described = of_signature({"x": MATRIX}, {"y": VECTOR})
    for good in (
        {"instances": [[1, 2.5, 3]]},
        {"instances": [{"x": [1, 2, 3]}] * 2},
        {"inputs": [[1, 2, 3]]},
        {"inputs": {"x": [[1, 2, 3], [1, 2, 3]]}},
        {"signature_name": "serving_default", "inputs": [[1, 2, 3]]},
        {"instances": [[1, 2, 3]], "what else": None},
    ):
        assert fits(described, good), good
    unfit: list[object] = [
        {},
        [],
        {"instances": []},
        {"instances": [[1, 2]]},
        {"instances": [[1, 2, 3], {"x": [1, 2, 3]}]},
        {"instances": [{"x": [1, 2, 3], "z": 1}]},
        {"instances": [["1", 2, 3]]},
        {"inputs": [1, 2, 3]},
        {"inputs": {}},
        {"inputs": []},
        {"instances": [[1, 2, 3]], "inputs": [[1, 2, 3]]},
        {"instances": [[1, 2, 3]], "signature_name": "other"},
    ]
    for bad in unfit:
        assert not fits(described, bad), bad


def test_other_signatures_must_be_named() -> None:
    described = of_signature({"x": VECTOR}, {"y": VECTOR}, name="other")
    assert fits(described, {"signature_name": "other", "instances": [1]})
    assert not fits(described, {"instances": [1]})


def test_several_inputs_and_outputs_are_objects() -> None:
    described = of_signature({"a": VECTOR, "b": VECTOR}, {"c": VECTOR, "d": ("int32", [None])})
    assert fits(described, {"instances": [{"a": 1, "b": 2}]})
    assert not fits(described, {"instances": [{"a": 1}]})
    assert not fits(described, {"instances": [1]})
    assert not fits(described, {"inputs": {"a": [1]}})
    assert fits(described, {"predictions": [{"c": 0.5, "d": 1}]}, "PredictAnswer")
    assert fits(described, {"outputs": {"c": [0.5], "d": [1]}}, "PredictAnswer")
    assert not fits(described, {"predictions": [{"c": 0.5}]}, "PredictAnswer")


def test_scalars_have_columns_only() -> None:
    described = of_signature({"x": ("float", [])}, {"y": ("float", [])})
    assert fits(described, {"inputs": 1.5})
    assert fits(described, {"inputs": {"x": 1.5}})
    assert not fits(described, {"instances": [1.5]})
    assert fits(described, {"outputs": 2.5}, "PredictAnswer")
    assert not fits(described, {"predictions": [2.5]}, "PredictAnswer")


def test_only_lists_of_values_may_be_empty() -> None:
    described = of_signature({"x": ("float", [None, None])}, {"y": ("float", [None, None])})
    assert fits(described, {"inputs": [[]]})
    assert fits(described, {"instances": [[]]})
    assert not fits(described, {"inputs": []})
    assert fits(described, {"outputs": []}, "PredictAnswer")


def test_a_fixed_number_of_rows_is_said() -> None:
    described = of_signature({"x": ("float", [2])}, {"y": VECTOR})
    assert fits(described, {"instances": [1, 2]})
    assert not fits(described, {"instances": [1]})


def test_without_a_rank_any_lists_are_taken() -> None:
    described = of_signature({"x": ("int64", None)}, {"y": ("int64", None)})
    for value in (1, [1], [[[1]]]):
        assert fits(described, {"inputs": value})
    assert fits(described, {"instances": [[1], [2]]})
    assert not fits(described, {"inputs": "1"})


@pytest.mark.parametrize(
    ("dtype", "good", "bad"),
    [
        ("int8", [-128, 127, 2**31 - 1], [2**31, -(2**31) - 1, 1.5, "1", True, None]),
        ("uint8", [0, 255, 256, -1], [2**31, 1.5]),
        ("int32", [-(2**31), 2**31 - 1], [-(2**31) - 1, 2**31]),
        ("uint16", [0, 65535], [-1, 65536]),
        ("int64", [-(2**63), 2**63 - 1], [2**63]),
        ("uint64", [2**64 - 1], [-1, 2**64]),
        ("bool", [True], [0, "true"]),
        ("half", [1, 1.5], ["1", True]),
        ("string", ["", "ü", {"b64": "AA=="}, {"b64": ""}], [1, {"b64": "A"}, {"b64": 1}, {}]),
    ],
)
def test_values_are_those_of_the_type(dtype: str, good: list[Any], bad: list[Any]) -> None:
    described = of_signature({"x": (dtype, [None])}, {"y": (dtype, [None])})
    for value in good:
        assert fits(described, {"inputs": [value]}), value
    for value in bad:
        assert not fits(described, {"inputs": [value]}), value


def test_integers_of_answers_are_within_their_type() -> None:
    described = of_signature({"x": VECTOR}, {"y": ("uint8", [None])})
    assert fits(described, {"predictions": [0, 255]}, "PredictAnswer")
    assert not fits(described, {"predictions": [256]}, "PredictAnswer")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_answers_may_have_numbers_that_json_schema_has_no_type_for(word: str) -> None:
    described = of_signature({"x": VECTOR}, {"y": VECTOR})
    assert fits(described, json.loads(f'{{"predictions": [1.5, {word}]}}'), "PredictAnswer")
    for other in ('"NaN"', "true", "[]", "{}"):
        assert not fits(described, json.loads(f'{{"predictions": [{other}]}}'), "PredictAnswer")


def test_strings_of_answers_are_bytes_if_their_name_says_so() -> None:
    outputs = {"image_bytes": ("string", [None])}
    described = of_signature({"x": VECTOR}, outputs)
    assert fits(described, {"predictions": [{"b64": "AA=="}]}, "PredictAnswer")
    assert not fits(described, {"predictions": ["a"]}, "PredictAnswer")
    described = of_signature({"x": VECTOR}, {"text": ("string", [None])})
    assert fits(described, {"predictions": ["a"]}, "PredictAnswer")


def test_examples_fit_their_schemas() -> None:
    odd = signature_def({"a": ("string", None), "b": ("bool", [3, 0])}, {"y": VECTOR})
    classify = signature_def({"inputs": ("string", [None])}, {"scores": VECTOR}, CLASSIFY)
    servable = Declares(serving_default=HALF_PLUS_TWO, odd=odd, c=classify)
    described = document(one_model(servable))
    for verb, kind in (("predict", "PredictRequest"), ("classify", "ClassifyRequest")):
        content = described["paths"][f"/v1/models/m:{verb}"]["post"]["requestBody"]["content"]
        examples = content["application/json"]["examples"]
        assert examples
        for name, example in examples.items():
            assert fits(described, example["value"], kind), name


def test_images_are_no_examples() -> None:
    described = of_signature({"x": ("uint8", [None, 224, 224, 3])}, {"y": VECTOR})
    content = described["paths"]["/v1/models/m:predict"]["post"]["requestBody"]["content"]
    assert "examples" not in content["application/json"]


def test_what_json_cannot_say_is_not_described() -> None:
    described = of_signature({"x": ("complex64", [None])}, {"y": VECTOR})
    assert posts(described) == []


def test_a_model_that_does_not_say_what_it_takes_may_take_anything() -> None:
    described = document(one_model(object()))
    assert posts(described) == ["/v1/models/m:predict", "/v1/models/m/versions/1:predict"]
    OpenAPIV31SpecValidator(described).validate()


def test_versions_that_are_alike_share_their_schemas_and_models_do_not() -> None:
    models = KnownModels()
    servable = Declares(serving_default=HALF_PLUS_TWO)
    models.add("a?", {1: servable, 2: servable})
    models.add("a!", {2: servable})
    schemas = document(models)["components"]["schemas"]
    assert sorted(name for name in schemas if "Request" in name) == [
        "a_.2.PredictRequest",
        "a_.2.PredictRequest.2",
    ]


def test_is_made_again_when_a_version_or_a_label_is_another() -> None:
    models = KnownModels()
    servable = Declares(serving_default=HALF_PLUS_TWO)
    models.add("m", {1: servable})
    handler = openapi(models)
    first = asked(handler)
    assert asked(handler) is first
    models.add("m", {1: servable, 2: servable})
    second = asked(handler)
    assert second != first
    models.add("m", {1: servable, 2: servable}, labels={"stable": 1})
    assert b"/labels/stable:predict" in asked(handler)
    models.add("m", {1: BAD})
    assert posts(json.loads(asked(handler))) == []


def test_many_who_ask_at_once_get_one_document() -> None:
    async def test() -> None:
        handler = openapi(one_model(Declares(serving_default=HALF_PLUS_TWO)))
        request = HttpRequest("GET", "/openapi.json")
        responses = await asyncio.gather(*(handler(request) for _ in range(20)))
        assert len({id(response.body) for response in responses}) == 1

    asyncio.run(test())
