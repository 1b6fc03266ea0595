"""GetModelMetadata, from a server's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format

from tests.functional.conftest import serving
from tests.functional.gated_model import GatedModel
from tests.functional.launching import SECONDS, Client, Launched, client, until
from tests.functional.managing import call_future, refusal_of
from tests.functional.serving_api import ServingApi
from tests.functional.sites import AVAILABLE, Site
from tfsrv._proto import message_class, pool

METHOD = "/tensorflow.serving.PredictionService/GetModelMetadata"
Request: Any = message_class("tensorflow.serving.GetModelMetadataRequest")
Response: Any = message_class("tensorflow.serving.GetModelMetadataResponse")
SignatureDefMap: Any = message_class("tensorflow.serving.SignatureDefMap")
SavedModel: Any = message_class("tensorflow.SavedModel")


def metadata(ask: Client, name: str, timeout: float = SECONDS, **spec: Any) -> Any:
    """The call for a model, its version or its label."""
    request = Request(metadata_field=["signature_def"])
    request.model_spec.name = name
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    return call_future(ask, METHOD, request.SerializeToString(), Response, timeout)


def signatures_of(response: Any) -> dict[str, Any]:
    found = SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    return dict(found.signature_def)


def declared(path: Path) -> dict[str, Any]:
    """The signatures in the files of a version."""
    (meta_graph,) = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs
    return dict(meta_graph.signature_def)


def test_every_model_tells_what_its_files_declare(
    server: Launched, ask: Client, models: Path
) -> None:
    for path in sorted(models.iterdir()):
        response = metadata(ask, path.name).result()
        version = response.model_spec.version.value
        assert signatures_of(response) == declared(path / str(version))
        assert response.model_spec.name == path.name


def test_tensorflow_serving_api_reads_it(
    server: Launched, serving_api: ServingApi, ask: Client
) -> None:
    version, signatures = serving_api.model_metadata(server.address(), "several_signatures")
    assert version == 1
    told = signatures_of(metadata(ask, "several_signatures").result())
    assert {
        name: text_format.MessageToString(signature, descriptor_pool=pool())
        for name, signature in told.items()
    } == signatures
    assert 'name: "serving_default_x:0"' in signatures["serving_default"]


def test_answers_for_the_version_and_the_label(site: Site, transport: str) -> None:
    for version in (1, 2, 3):
        site.link(version)
    labels = "model_version_policy { all {} } version_labels { key: 'stable' value: 2 }"
    with (
        serving({"m": site.base()}, f"--grpc_transport={transport}", texts={"m": labels}) as server,
        client(server.address()) as ask,
    ):

        def version_of(**spec: Any) -> int:
            number: int = metadata(ask, "m", **spec).result().model_spec.version.value
            return number

        until(lambda: ask.states("m") == [AVAILABLE] * 3)
        assert (version_of(version=1), version_of(label="stable"), version_of()) == (1, 2, 3)
        assert refusal_of(metadata(ask, "m", label="nosuch")) == (
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: nosuch",
        )
        assert refusal_of(metadata(ask, "m", version=9)) == (
            "NOT_FOUND",
            "Servable not found for request: Specific(m, 9)",
        )


def test_waits_for_a_model_that_is_loading(tmp_path: Path, transport: str) -> None:
    gated = GatedModel(tmp_path / "gated")
    flags = (f"--grpc_transport={transport}",)
    with (
        serving({"gated": gated.path}, *flags, ready=False) as server,
        client(server.address()) as ask,
    ):
        waiting = metadata(ask, "gated")
        assert refusal_of(metadata(ask, "gated", 0.2)) == (
            "DEADLINE_EXCEEDED",
            "Deadline Exceeded",
        )
        left = metadata(ask, "gated")
        left.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            left.result()
        assert not waiting.done()
        gated.open()
        assert signatures_of(waiting.result()).keys() >= {"serving_default"}


def test_a_table_tells_its_signature(tmp_path: Path, transport: str) -> None:
    folder = tmp_path / "table" / "1"
    folder.mkdir(parents=True)
    (folder / "table.tsv").write_text("key:string\tvalue:float\ncat\t4\n")
    with (
        serving({"t@lookup_table": tmp_path / "table"}, f"--grpc_transport={transport}") as server,
        client(server.address()) as ask,
    ):
        told = signatures_of(metadata(ask, "t").result())
        assert set(told["serving_default"].inputs) == {"keys"}  # the default may be left out
