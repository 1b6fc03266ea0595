"""What to do about a model with an op that TensorFlow does not know.

TensorFlow says only that it is not registered, and speaks of tf.contrib, which is gone. Here the
error names the model, the package that likely has the op, and the flag to type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tfsrv import _tf
from tfsrv.errors import Code, ServingError

# tensorflow/core/framework/op.cc, OpRegistry::LookUp. A host's name may have dots in it.
_NOT_REGISTERED = re.compile(r"Op type not registered '([^']+)'(?:.*?\.(?= Make sure)|[^\n]*)")


@dataclass(frozen=True)
class _Package:
    """A package with custom ops, as it is imported, and as it is installed."""

    name: str
    distribution: str
    other: str = ""  # a package with the same ops, for other versions of TensorFlow


_TEXT = _Package("tensorflow_text", "tensorflow-text")
_FORESTS = _Package("ydf_tf", "ydf-tf", "tensorflow_decision_forests")
_ADDONS = _Package("tensorflow_addons", "tensorflow-addons")
_IO = _Package("tensorflow_io", "tensorflow-io")
_HOROVOD = _Package("horovod", "horovod")

# The ops of a namespace or family, by what their names begin with.
_BY_PREFIX = {
    "TFText>": _TEXT,
    "FastBert": _TEXT,
    "FastWordpiece": _TEXT,
    "Sentencepiece": _TEXT,
    "SentenceFragments": _TEXT,
    "SimpleML": _FORESTS,
    "Addons>": _ADDONS,
    "IO>": _IO,
    "Horovod": _HOROVOD,
}

# Ops of tensorflow_text 2.21 whose names tell nothing.
_BY_NAME = dict.fromkeys(
    (
        "CaseFoldUTF8",
        "ConstrainedSequence",
        "FindSourceOffsets",
        "MaxSpanningTree",
        "NormalizeUTF8",
        "NormalizeUTF8WithOffsetsMap",
        "PhraseTokenize",
        "RegexSplitWithOffsets",
        "RougeL",
        "SplitMergeTokenizeWithOffsets",
        "TokenizerFromLogits",
        "UnicodeScriptTokenizeWithOffsets",
        "WhitespaceTokenizeWithOffsets",
        "WordpieceTokenizeWithOffsets",
    ),
    _TEXT,
)


def explain_missing_op(error: ServingError, path: str) -> ServingError | None:
    """The error to tell instead of `error`, if that says that the model at `path` needs an op.

    It is NOT_FOUND, so that the load is not tried again, and begins with TensorFlow's sentence.
    """
    found = _NOT_REGISTERED.search(error.message)
    if found is None:
        return None
    op = found[1]
    package = _package_of(op)
    if package is None:
        advice = (
            "If it is a custom op, give the library that has it with"
            " --op_libraries=/path/to/library.so, or the name of an installed package; if not, the"
            f" model may come from a newer TensorFlow than {_tf.version()}."
        )
    else:
        other = f", or with {package.other}" if package.other else ""
        advice = (
            f"The op likely comes with {package.name}{other}: pip install {package.distribution},"
            f" and start the server with --op_libraries={package.name}"
        )
    return ServingError(
        Code.NOT_FOUND, f"{found[0].rstrip('.')}. The model in {path} needs it. {advice}"
    )


def _package_of(op: str) -> _Package | None:
    """The package that likely has `op`."""
    for prefix, package in _BY_PREFIX.items():
        if op.startswith(prefix):
            return package
    return _BY_NAME.get(op)
