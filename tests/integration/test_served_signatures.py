"""The signatures of SavedModels that are loaded."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import tensorflow_version
from tfsrv._serving_map import ServingMap
from tfsrv._session import SavedModelSession
from tfsrv.frontends.signatures import PREDICT, REGRESS, ServedSignatures, Signature, TensorSpec

pytestmark = pytest.mark.skipif(tensorflow_version() is None, reason="needs TensorFlow")


@pytest.fixture
def session(models: Path) -> Iterator[SavedModelSession]:
    loaded = SavedModelSession.load(str(models / "half_plus_two_v1" / "1"))
    yield loaded
    loaded.close()


def test_tells_what_a_model_declares(session: SavedModelSession) -> None:
    serving_map = ServingMap()
    serving_map.publish({"m": {1: session}})
    signatures = ServedSignatures(serving_map).of("m", 1)
    assert signatures is not None
    assert list(signatures) == ["serving_default", "classify_x_to_y", "regress_x_to_y"]
    vector = TensorSpec("float", (None,))
    assert signatures["serving_default"] == Signature(PREDICT, {"x": vector}, {"y": vector})
    assert signatures["regress_x_to_y"].method == REGRESS
    assert signatures["regress_x_to_y"].inputs == {"inputs": TensorSpec("string", (None,))}


def test_knows_nothing_of_what_is_not_loaded(session: SavedModelSession) -> None:
    serving_map = ServingMap()
    serving_map.publish({"m": {1: session}})
    served = ServedSignatures(serving_map)
    assert served.of("m", 2) is None
    assert served.of("other", 1) is None


def test_reads_them_once_and_holds_no_model_back(models: Path) -> None:
    session = SavedModelSession.load(str(models / "half_plus_two" / "1"))
    serving_map = ServingMap()
    serving_map.publish({"m": {1: session}})
    served = ServedSignatures(serving_map)
    assert served.of("m", 1) is served.of("m", 1)
    assert serving_map.in_use("m", 1) == 0
    serving_map.publish({})
    assert serving_map.drain("m", 1, 10)
    session.close()
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
