"""numpy's files, good and bad, and what they mean to numpy.

`check_reading` compares what tfsrv reads of a .npy or .npz with what numpy reads.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from random import Random
from typing import Any

import numpy as np

from tfsrv._npy_predict import read_predict
from tfsrv._tensor_values import parse_predict_request
from tfsrv.errors import Code, ServingError

Array = np.ndarray[Any, np.dtype[Any]]

# numpy's name of a type, and the number of TensorFlow's.
NUMBERS = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "complex64": 8,
    "int64": 9, "bool": 10, "uint16": 17, "complex128": 18, "float16": 19, "uint32": 22,
    "uint64": 23,
}  # fmt: skip
DT_STRING = 7
DT_BFLOAT16 = 14
MOST_BYTES = 1 << 20
SHAPES = [(), (1,), (0,), (5,), (2, 3), (3, 0, 2), (1, 4, 1), (2, 3, 4, 5), (17, 33), (1,) * 20]


def npy(array: Array, version: tuple[int, int] | None = None) -> bytes:
    """The file that numpy.save writes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of versions that old numpys do not read
        np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def npy_of(header: bytes, data: bytes = b"", version: int = 1) -> bytes:
    """A file with any header."""
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + data


def npz(compressed: bool = False, /, **arrays: Array) -> bytes:
    """The file that numpy.savez or savez_compressed writes."""
    file = io.BytesIO()
    save: Any = np.savez_compressed if compressed else np.savez
    save(file, **arrays)
    return file.getvalue()


def zip_of(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of any members."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice
        with zipfile.ZipFile(file, "w", method) as archive:
            for name, data in members:
                archive.writestr(name, data)
    return file.getvalue()


def random_array(random: Random, dtype: str) -> Array:
    """Any shape, order of dims and order of bytes."""
    shape = random.choice(SHAPES)
    count = int(np.prod(shape, dtype=int))
    if dtype in "SU":
        letters = "aé日\0z" if dtype == "U" else "a\0z"
        texts = ["".join(random.choices(letters, k=random.randrange(6))) for _ in range(count)]
        made = np.array(texts, dtype=dtype) if texts else np.zeros(0, f"{dtype}3")
    elif dtype == "bool":
        made = np.array(random.choices([False, True], k=count), dtype="bool")
    else:
        made = np.frombuffer(random.randbytes(count * np.dtype(dtype).itemsize), dtype)
    made = made.reshape(shape)
    if random.random() < 0.3:
        made = np.asfortranarray(made)
    if random.random() < 0.3:
        made = made.astype(made.dtype.newbyteorder(">"))
    return made


def values_of(array: Array) -> bytes | list[bytes]:
    """What TensorFlow has in memory for an array."""
    if array.dtype.kind == "U":
        return [str(text).encode() for text in array.flatten().tolist()]
    if array.dtype.kind == "S":
        return [bytes(text) for text in array.flatten().tolist()]
    if array.dtype.kind == "b":
        return bytes(flag != 0 for flag in array.view("u1").tobytes())
    memory: bytes = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return memory


def read_inputs(body: bytes, inputs: list[tuple[str, int]], **options: Any) -> dict[str, Any]:
    """Dtype, shape and values of each input of the request that `body` stands for."""
    wire = read_predict(body, inputs, **options)
    read: dict[str, Any] = parse_predict_request(wire)["inputs"]
    return {
        alias: (input["dtype"], input["shape"], input["values"]) for alias, input in read.items()
    }


def mutated(random: Random, data: bytes) -> bytes:
    """Some bytes are others, are gone, or are there twice."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 5])):
        at = random.randrange(len(changed) + 1)
        until = at + random.choice([1, 1, 2, 4, 20])
        match random.randrange(5):
            case 0:
                changed[at:until] = random.randbytes(until - at)
            case 1:
                del changed[at:until]
            case 2:
                changed[at:at] = changed[at:until]
            case 3:
                changed[at : at + 4] = random.choice([b"\xff\xff\xff\xff", b"\0\0\0\0"])
            case _:
                changed[at : at + 1] = random.choice([b"'", b'"', b",", b"(", b")", b" ", b"0"])
    return bytes(changed)


def check_reading(body: bytes, inputs: list[tuple[str, int]], *, is_npz: bool) -> str:
    """What tfsrv reads, numpy reads too: the same. Returns "read" or "refused"."""
    try:
        found = read_inputs(body, inputs, npz=is_npz, most_bytes=MOST_BYTES)
    except ServingError as error:
        if error.code is not Code.INVALID_ARGUMENT:
            raise
        return "refused"
    loaded: Any = np.load(io.BytesIO(body), allow_pickle=False)
    if not is_npz:
        loaded = {inputs[0][0]: loaded}
    expected = {
        alias: (dict(inputs)[alias], loaded[alias].shape, values_of(loaded[alias]))
        for alias in loaded
    }
    assert found == expected, body
    return "read"
