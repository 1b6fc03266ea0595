"""Message classes of TensorFlow's and TensorFlow Serving's protocols.

They come from `_descriptors.binpb` (made by protos/compile.py) and live in a descriptor pool of
their own, so that the process may import tensorflow or tensorflow_serving as well: the default
pool refuses a second definition of the same message.

    PredictRequest = message_class("tensorflow.serving.PredictRequest")
    config = parse_text("tensorflow.serving.ModelServerConfig", text, "models.config")

Pass `descriptor_pool=pool()` to json_format and text_format, or they look for the types of an
Any in the default pool.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

if TYPE_CHECKING:
    from google.protobuf.message import Message

_DESCRIPTORS = Path(__file__).with_name("_descriptors.binpb")

_pool_lock = threading.Lock()  # two first callers must get the same pool
_pool: descriptor_pool.DescriptorPool | None = None


def pool() -> descriptor_pool.DescriptorPool:
    """The pool that holds every message of the protocols; filled by the first call."""
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = _load_pool()
        return _pool


def _load_pool() -> descriptor_pool.DescriptorPool:
    filled = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes())
    for file in files.file:  # each comes after those that it imports
        filled.AddSerializedFile(file.SerializeToString())
    return filled


def message_class(full_name: str) -> type[Message]:
    """The class of a message, such as "tensorflow.serving.PredictRequest".

    KeyError if there is no message of that name.
    """
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(full_name))


def parse_text(full_name: str, text: str | bytes, file_name: str) -> Message:
    """Read a message in text format. `file_name` is for the error only.

    A ValueError tells what is wrong and where, as `FILE:LINE:COLUMN: ...`.
    """
    message = message_class(full_name)()
    try:
        decoded = text if isinstance(text, str) else text.decode()
        text_format.Parse(decoded, message, descriptor_pool=pool())
    except UnicodeDecodeError as error:
        line, column = _place(error.object, error.start)
        raise ValueError(f"{file_name}:{line}:{column}: not UTF-8: {error.reason}") from None
    except text_format.ParseError as error:
        raise ValueError(_explain(error, file_name)) from None
    except RecursionError:
        raise ValueError(f"{file_name}:1:1: messages are nested too deeply") from None
    return message


def _explain(error: text_format.ParseError, file_name: str) -> str:
    line, column = error.GetLine(), error.GetColumn()
    text = str(error)
    if line is None:  # found wrong as a whole, not at one place
        return f"{file_name}:1:1: {text}"
    return f"{file_name}:{line}:{column}: {text.removeprefix(f'{line}:{column} : ')}"


def _place(text: bytes, offset: int) -> tuple[int, int]:
    """Line and column, from 1, of a byte."""
    line_start = text.rfind(b"\n", 0, offset) + 1
    return text.count(b"\n", 0, offset) + 1, offset - line_start + 1
