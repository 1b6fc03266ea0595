"""What is told of a model with an op that TensorFlow does not know."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tfsrv.batching_parameters import BatchingParameters
from tfsrv.core.failure import is_permanent
from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.servables.missing_ops import explain_missing_op
from tfsrv.servables.saved_model import SavedModelSourceAdapter, Session

REST = (
    " Make sure the Op and Kernel are registered in the binary running in this process. Note that"
    " if you are loading a saved graph which used ops from tf.contrib (e.g."
    " `tf.contrib.resampler`), accessing should be done before importing the graph, as contrib ops"
    " are lazily registered when the module is first accessed."
)


def first_sentence(op: str, host: str = "host-7") -> str:
    return f"Op type not registered '{op}' in binary running on {host}."


def explained(message: str) -> str:
    error = explain_missing_op(ServingError(Code.NOT_FOUND, message), "/models/m/1")
    assert error is not None
    assert is_permanent(error)
    return error.message


def test_names_op_model_package_and_flag() -> None:
    assert explained(first_sentence("TFText>RoundRobinTrim") + REST) == (
        "Op type not registered 'TFText>RoundRobinTrim' in binary running on host-7. The model in"
        " /models/m/1 needs it. The op likely comes with tensorflow_text: pip install"
        " tensorflow-text, and start the server with --op_libraries=tensorflow_text"
    )


@pytest.mark.parametrize(
    ("op", "package"),
    [
        ("WhitespaceTokenizeWithOffsets", "tensorflow_text"),
        ("TFText>WhitespaceTokenizeWithOffsetsV2", "tensorflow_text"),
        ("WordpieceTokenizeWithOffsets", "tensorflow_text"),
        ("FastWordpieceTokenizeWithOffsets", "tensorflow_text"),
        ("SentencepieceOp", "tensorflow_text"),
        ("NormalizeUTF8", "tensorflow_text"),
        ("CaseFoldUTF8", "tensorflow_text"),
        ("SimpleMLCreateModelResource", "ydf_tf"),
        ("Addons>Resampler", "tensorflow_addons"),
        ("IO>KafkaReadableInit", "tensorflow_io"),
        ("HorovodAllreduce", "horovod"),
    ],
)
def test_knows_whose_ops_these_likely_are(op: str, package: str) -> None:
    text = explained(first_sentence(op) + REST)
    assert f"likely comes with {package}" in text
    assert text.endswith(f"--op_libraries={package}")


def test_names_the_older_package_of_the_same_ops_too() -> None:
    text = explained(first_sentence("SimpleMLInferenceOpWithHandle") + REST)
    assert "likely comes with ydf_tf, or with tensorflow_decision_forests: pip install" in text


@pytest.mark.parametrize("op", ["Mine", "NormalizeUTF8Mine", "TfText"])
def test_guesses_nothing_about_other_ops(op: str) -> None:
    text = explained(first_sentence(op) + REST)
    assert text.startswith(f"{first_sentence(op)} The model in /models/m/1 needs it. If ")
    assert "--op_libraries=/path/to/library.so" in text
    assert "likely" not in text


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        (first_sentence("X", "a.example.org") + REST, first_sentence("X", "a.example.org")),
        (f"{first_sentence('X')}", first_sentence("X")),
        (f"{first_sentence('X')}\n\t [[{{{{node X}}}}]]", first_sentence("X")),
        ("Op type not registered 'X'", "Op type not registered 'X'."),
        (f"While importing: {first_sentence('X')}{REST}", first_sentence("X")),
    ],
)
def test_keeps_tensorflows_own_first_sentence(message: str, kept: str) -> None:
    assert explained(message).startswith(f"{kept} The model in ")


@pytest.mark.parametrize("message", ["", "No such file", "Op type registered 'X'"])
def test_leaves_other_errors_alone(message: str) -> None:
    assert explain_missing_op(ServingError(Code.NOT_FOUND, message), "/models/m/1") is None


def test_the_loader_explains() -> None:
    def load(
        export_dir: str,
        *,
        tags: Sequence[str],
        config: bytes,
        name: str,
        version: int,
        batching: BatchingParameters | None,
    ) -> Session:
        raise ServingError(Code.NOT_FOUND, first_sentence("CaseFoldUTF8") + REST)

    adapter = SavedModelSourceAdapter(load_session=load)
    loader = adapter.convert(ServableData(ServableId("m", 1), StoragePath("/models/m/1")))
    with pytest.raises(ServingError, match="--op_libraries=tensorflow_text") as caught:
        loader.load()
    assert caught.value.code is Code.NOT_FOUND
