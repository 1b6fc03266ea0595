"""npz bodies: what numpy saves is read, tricks that a zip can play are refused, and what is written
numpy loads.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.npy_files import (
    DT_STRING,
    NUMBERS,
    SHAPES,
    check_reading,
    mutated,
    npy,
    npz,
    random_array,
    read_inputs,
    values_of,
    zip_of,
)
from tfsrv._npy_predict import read_predict, write_predict
from tfsrv._tensor_values import parse_predict_request
from tfsrv.errors import Code, ServingError

A = np.arange(6, dtype="<f4").reshape(2, 3)
B = np.array([1, 2], dtype="<i8")
INPUTS = [("a", 1), ("b", 9)]
BOTH = {"a": (1, (2, 3), A.tobytes()), "b": (9, (2,), B.tobytes())}
LOCAL = 30  # bytes of the header before a member
CENTRAL = 46  # bytes of an entry of the directory
END = 22  # bytes of the record behind the directory


def read(body: bytes, inputs: list[tuple[str, int]] = INPUTS, **options: Any) -> dict[str, Any]:
    return read_inputs(body, inputs, npz=True, **options)


def refusal(body: bytes, inputs: list[tuple[str, int]] = INPUTS, **options: Any) -> str:
    with pytest.raises(ServingError) as caught:
        read_predict(body, inputs, npz=True, **options)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value.message


def changed(body: bytes, at: int, data: bytes) -> bytes:
    """`body` with other bytes; a negative place counts from the end."""
    at %= len(body)
    return body[:at] + data + body[at + len(data) :]


def directory(body: bytes) -> int:
    """Where the directory begins."""
    (place,) = struct.unpack("<I", body[-6:-2])
    assert isinstance(place, int)
    return place


class Unseekable(io.RawIOBase):
    """A file that is only appended to: zipfile writes sizes behind members then."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)


# ---- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_reads_what_numpy_saves(compressed: bool) -> None:
    assert read(npz(compressed, a=A, b=B)) == BOTH
    assert read(npz(compressed, b=B, a=A)) == BOTH


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_reads_every_type_and_shape(dtype: str, shape: tuple[int, ...], compressed: bool) -> None:
    array = np.arange(int(np.prod(shape, dtype=int))).astype(dtype).reshape(shape)
    found = read(npz(compressed, x=array), [("x", NUMBERS[dtype])])
    assert found == {"x": (NUMBERS[dtype], shape, array.tobytes())}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_reads_members_with_their_sizes_behind_them(method: int) -> None:
    file = Unseekable()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, array in (("a.npy", A), ("b.npy", B)):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(npy(array))
    assert read(file.data) == BOTH


def test_reads_a_zip_with_a_comment() -> None:
    file = io.BytesIO(npz(a=A, b=B))
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = b"PK\x05\x06 made by hand"
    assert read(file.getvalue()) == BOTH


def test_reads_names_that_are_not_ascii() -> None:
    assert list(read(npz(日本=A), [("日本", 1)])) == ["日本"]


def test_leaves_it_to_others_which_inputs_have_to_be_there() -> None:
    assert read(npz(b=B)) == {"b": BOTH["b"]}
    assert read(npz()) == {}


def test_names_the_model() -> None:
    body = npz(a=A)
    request = parse_predict_request(read_predict(body, INPUTS, "model", 7, "", "other", npz=True))
    assert (request["name"], request["version"]) == ("model", 7)
    assert request["signature_name"] == "other"


def test_refuses_arrays_that_are_no_inputs() -> None:
    assert refusal(npz(a=A, c=B)) == (
        'The npz has the array "c", but the signature has no input of that name; its inputs are '
        '"a", "b"'
    )
    said = 'The npz has the array "c", but the signature has no input of that name'
    assert refusal(npz(c=B), []) == said


def test_refuses_an_array_that_comes_twice() -> None:
    body = zip_of(("a.npy", npy(A)), ("a.npy", npy(A)))
    assert refusal(body) == 'The npz has the array "a" twice'


@pytest.mark.parametrize("name", ["a", "a.txt", "npy", "a.npy/", "a.NPY"])
def test_refuses_members_that_are_no_arrays(name: str) -> None:
    said = refusal(zip_of((name, npy(A))))
    rest = "of the npz is not an array: its name does not end in .npy"
    assert said == f'The member "{name}" {rest}'


def test_says_which_array_is_wrong() -> None:
    said = refusal(npz(a=A, b=B.astype("f8")))
    assert said == (
        'The npy array "b" is of float64, but its input takes int64: use .astype("int64")'
    )
    assert refusal(zip_of(("a.npy", b""))) == 'The npy array "a" is not in numpy\'s npy format'


# ---- limits -------------------------------------------------------------------------------------


def test_limits_what_is_unpacked_for_all_arrays_together() -> None:
    body = npz(True, a=A, b=B)
    whole = len(npy(A)) + len(npy(B))
    assert read(body, most_bytes=whole) == BOTH
    said = f'The member "b" of the npz holds more than {len(npy(B)) - 1} bytes'
    assert refusal(body, most_bytes=whole - 1) == said


def test_limits_the_request() -> None:
    body = npz(a=np.array([f"{i:02}" for i in range(60)], "S2"))
    said = refusal(body, [("a", DT_STRING)], most_bytes=250)
    assert said == 'The npy array "a" makes the request longer than 250 bytes'


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    body = npz(True, a=np.zeros(1 << 20, "f4"))
    assert len(body) < 10_000
    said = 'The member "a" of the npz holds more than 1000000 bytes'
    assert refusal(body, most_bytes=1_000_000) == said


def test_a_size_that_cannot_be_true_takes_no_memory() -> None:
    body = npz(True, a=A)
    body = changed(body, 22, b"\xff\xff\xff\xff")
    body = changed(body, directory(body) + 24, b"\xfe\xff\xff\xff")
    said = 'The member "a" of the npz does not hold as much as its directory says'
    assert refusal(body, most_bytes=1 << 40) == said


@pytest.mark.parametrize("more", [-1, 1])
def test_a_size_that_is_not_true_is_refused(more: int) -> None:
    body = npz(True, a=A)
    size = struct.pack("<I", len(npy(A)) + more)
    body = changed(body, directory(body) + 24, size)
    said = 'The member "a" of the npz is damaged, or of another size than is said'
    assert refusal(body) == said


# ---- tricks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_refuses_a_member_with_another_checksum(compressed: bool) -> None:
    body = npz(compressed, a=A)
    wrong = struct.pack("<I", zlib.crc32(npy(A)) ^ 1)
    body = changed(changed(body, 14, wrong), directory(body) + 16, wrong)
    assert refusal(body) == 'The member "a" of the npz is damaged: its checksum is another'


def test_refuses_members_that_overlap() -> None:
    # The second entry is of the same bytes, under a header within the first member.
    inner = npz(b=A)
    array = npy(A)
    local = inner[: inner.index(b"\x93NUMPY")]
    outer = npy(np.frombuffer(local + array, "u1"))
    body = zip_of(("a.npy", outer))
    place = body.index(local + array)
    first = body[directory(body) : -END]
    second = inner[directory(inner) : -END]
    second = changed(second, 42, struct.pack("<I", place))
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, len(first + second), directory(body), 0)
    body = body[: directory(body)] + first + second + end
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.namelist() == ["a.npy", "b.npy"]
    said = refusal(body, [("a", 4), ("b", 1)])
    assert said == 'The npz has the array "b" in bytes that are another array\'s too'


@pytest.mark.parametrize("trick", ["place", "packed", "name", "method", "flags", "crc", "size"])
def test_refuses_headers_that_say_something_else_than_the_directory(trick: str) -> None:
    body = zip_of(("a.npy", npy(A)))
    entry = directory(body)
    assert read(body) == {"a": BOTH["a"]}
    wrong = {
        "place": changed(body, entry + 42, b"\1"),
        "packed": changed(body, entry + 20, struct.pack("<II", 100_000, 100_000)),
        "name": changed(body, LOCAL, b"b"),
        "method": changed(body, 8, b"\x08"),
        "flags": changed(body, 6, b"\x02"),
        "crc": changed(body, 14, b"1234"),
        "size": changed(body, 22, b"1234"),
    }[trick]
    assert refusal(wrong) == 'The member "a.npy" of the npz is not where the directory says'


def test_refuses_a_stored_member_of_two_sizes() -> None:
    body = npz(a=A)
    body = changed(body, directory(body) + 24, b"\1\0\0\0")
    said = 'The member "a.npy" of the npz is stored, and its two sizes differ'
    assert refusal(body) == said


@pytest.mark.parametrize(
    ("at", "data", "said"),
    [
        (8, b"\1\0", "is encrypted"),
        (8, b"\x40\0", "is encrypted"),
        (8, b"\0\x20", "is encrypted"),
        (34, b"\1\0", "is on another disk"),
        (20, b"\xff\xff\xff\xff", "has 64-bit sizes, which are not read"),
        (24, b"\xff\xff\xff\xff", "has 64-bit sizes, which are not read"),
        (42, b"\xff\xff\xff\xff", "has 64-bit sizes, which are not read"),
        (10, b"\x0c\0", "is packed in a way that is not read: store it or deflate it"),
        (10, b"\x09\0", "is packed in a way that is not read: store it or deflate it"),
        (8, b"\x20\0", "is packed in a way that is not read: store it or deflate it"),
        (6, b"\x3f\0", "is packed in a way that is not read: store it or deflate it"),
    ],
)
def test_refuses_what_numpys_files_do_not_use(at: int, data: bytes, said: str) -> None:
    body = npz(a=A)
    body = changed(body, directory(body) + at, data)
    assert refusal(body) == f'The member "a.npy" of the npz {said}'


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_refuses_other_methods(method: int) -> None:
    said = "is packed in a way that is not read: store it or deflate it"
    body = zip_of(("a.npy", npy(A)), method=method)
    assert refusal(body) == f'The member "a.npy" of the npz {said}'


@pytest.mark.parametrize(
    ("at", "data", "said"),
    [
        (4, b"\1", "is a part of a zip of several disks"),
        (6, b"\1", "is a part of a zip of several disks"),
        (8, b"\1", "is a part of a zip of several disks"),
        (8, b"\xff\xff\xff\xff", "is a zip64, which is not read"),
        (12, b"\xff\xff\xff\xff", "is a zip64, which is not read"),
        (16, b"\xff\xff\xff\xff", "is a zip64, which is not read"),
        (12, b"\1", "is damaged: its directory is not where it should be"),
        (16, b"\1", "is damaged: its directory is not where it should be"),
        (8, b"\0\0\0\0", "is damaged: its directory goes on behind its last member"),
        (8, b"\1\0\1\0", "is damaged: its directory goes on behind its last member"),
        (8, b"\3\0\3\0", "is damaged: its directory ends before its last member"),
        (20, b"\1", "is not a whole zip file: its directory was not found"),
        (0, b"\0", "is not a whole zip file: its directory was not found"),
    ],
)
def test_refuses_an_end_that_is_not_of_the_directory(at: int, data: bytes, said: str) -> None:
    body = npz(a=A, b=B)
    assert refusal(changed(body, len(body) - END + at, data)) == f"The npz {said}"


def test_refuses_an_entry_that_is_longer_than_the_directory() -> None:
    body = npz(a=A)
    body = changed(body, directory(body) + 30, b"\xff\xff")
    assert refusal(body) == "The npz is damaged: its directory ends before its last member"


def test_refuses_bytes_before_and_behind() -> None:
    body = npz(a=A)
    before = "The npz is damaged: its directory is not where it should be"
    assert refusal(b"#!/bin/sh\n" + body) == before
    assert refusal(body + b"\0") == "The npz is not a whole zip file: its directory was not found"


@pytest.mark.parametrize("body", [b"", b"PK", b"[1]", npy(A), b"PK\5\6", bytes(100_000)])
def test_refuses_what_is_no_zip(body: bytes) -> None:
    assert refusal(body) == "The npz is not a whole zip file: its directory was not found"


@pytest.mark.parametrize("data", [b"", b"\3", b"\xff\xff", b"\3\0more"])
def test_refuses_damaged_deflate(data: bytes) -> None:
    whole = npz(True, a=A)
    start = LOCAL + len("a.npy") + 20  # the extra field with 64-bit sizes
    packed = whole[start : directory(whole)]
    body = whole[:start] + data + whole[directory(whole) :]
    body = changed(body, -6, struct.pack("<I", directory(whole) + len(data) - len(packed)))
    body = changed(body, directory(body) + 20, struct.pack("<I", len(data)))
    assert "of the npz " in refusal(body)


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_refuses_a_file_cut_off_anywhere(compressed: bool) -> None:
    body = npz(compressed, a=A, b=B)
    for size in range(len(body)):
        refusal(body[:size])


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_every_byte_may_be_another(compressed: bool) -> None:
    body = npz(compressed, a=A, b=B)
    outcomes = {
        check_reading(changed(body, at, bytes([byte])), INPUTS, is_npz=True)
        for at in range(len(body))
        for byte in (0, 1, 2, 8, 0x7F, 0x80, 0xFF, body[at] ^ 1, body[at] ^ 0x20)
    }
    assert outcomes == {"read", "refused"}


@given(st.integers(), st.booleans(), st.booleans())
def test_means_what_it_means_to_numpy(seed: int, compressed: bool, damaged: bool) -> None:
    random = Random(seed)
    dtypes = {name: random.choice([*NUMBERS, "S", "U"]) for name in "abc"[: random.randrange(4)]}
    inputs = [(name, NUMBERS.get(dtype, DT_STRING)) for name, dtype in dtypes.items()]
    arrays = {name: random_array(random, dtype) for name, dtype in dtypes.items()}
    body = npz(compressed, **arrays)
    assert check_reading(body, inputs, is_npz=True) == "read"
    if damaged:
        check_reading(mutated(random, body), inputs, is_npz=True)


@given(st.integers())
def test_damaged_arrays_in_a_good_zip_mean_what_they_mean_to_numpy(seed: int) -> None:
    random = Random(seed)
    dtype = random.choice([*NUMBERS, "S", "U"])
    body = zip_of(("x.npy", mutated(random, npy(random_array(random, dtype)))))
    check_reading(body, [("x", NUMBERS.get(dtype, DT_STRING))], is_npz=True)


# ---- answers ------------------------------------------------------------------------------------


def loaded(*outputs: Any) -> dict[str, Any]:
    body = write_predict(list(outputs), npz=True)
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
    with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_numpy_loads_every_type_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape, dtype=int))).astype(dtype).reshape(shape)
    found = loaded(("y", NUMBERS[dtype], shape, values_of(array)))
    assert list(found) == ["y"]
    assert (found["y"].dtype, found["y"].shape) == (array.dtype, shape)
    assert np.array_equal(found["y"], array)


def test_numpy_loads_several_outputs_in_their_order() -> None:
    large = np.arange(200_000, dtype="f4")
    found = loaded(
        ("scores", 1, large.shape, large.tobytes()),
        ("日本", DT_STRING, (2,), [b"a", b"bc"]),
        ("output:0", 9, (), b"\1\0\0\0\0\0\0\0"),
    )
    assert list(found) == ["scores", "日本", "output:0"]
    assert np.array_equal(found["scores"], large)
    assert found["日本"].tolist() == [b"a", b"bc"]
    assert found["output:0"] == 1


def test_numpy_loads_an_answer_without_outputs() -> None:
    assert loaded() == {}


def test_what_is_written_can_be_read() -> None:
    outputs: list[Any] = [("a", 1, (2, 3), A.tobytes()), ("b", 9, (2,), B.tobytes())]
    assert read(write_predict(outputs, npz=True)) == BOTH


def test_refuses_names_that_no_zip_can_hold() -> None:
    output = ("y" * 65531, 1, (), b"1234")
    assert list(loaded(output)) == [output[0]]
    with pytest.raises(ServingError, match="has a name that is too long for an npz"):
        write_predict([("y" + output[0], *output[1:])], npz=True)


def test_says_which_output_cannot_be_written() -> None:
    with pytest.raises(ServingError) as caught:
        write_predict([("a", 1, (), b"1234"), ("b", 20, (), b"")], npz=True)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == 'The output "b" is of a type that numpy does not have'
