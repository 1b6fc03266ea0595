"""TFRecord files: what is written is read, and what is damaged is told as TensorFlow tells it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import tensorflow_version
from tfsrv._tfrecord import MAX_RECORD_BYTES, RecordReader, crc32c, write_records
from tfsrv.errors import Code, ServingError

HEADER = 12  # bytes before a record's data
AROUND = 16  # bytes that a record takes beside its data
RECORDS = [b"", b"a", b"eight by", bytes(range(256)), b"x" * 100_000]
CUT = "' failed with Read less bytes than requested"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records"


def read(path: Path, **options: int) -> list[bytes]:
    with RecordReader(path, **options) as records:
        return list(records)


def read_until_an_error(path: Path) -> tuple[list[bytes], str]:
    """The records that can be read, and what is said of the next one, or ""."""
    found: list[bytes] = []
    with RecordReader(path) as records:
        try:
            found.extend(records)
        except ServingError as error:
            if error.code is Code.DATA_LOSS:
                return found, error.message
            raise
    return found, ""


def framed(*records: bytes) -> bytes:
    """As a file should be, one bit at a time."""
    out = b""
    for record in records:
        length = len(record).to_bytes(8, "little")
        out += length + masked_bytes(length) + record + masked_bytes(record)
    return out


def masked_bytes(data: bytes) -> bytes:
    crc = slow_crc32c(data)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return masked.to_bytes(4, "little")


def slow_crc32c(data: Iterable[int]) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# --- checksums


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksums_are_those_of_the_standard(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@given(st.binary(max_size=100), st.integers(0, 9))
def test_a_checksum_is_that_of_the_definition(data: bytes, start: int) -> None:
    assert crc32c(data[start:]) == slow_crc32c(data[start:])


# --- files


@pytest.mark.parametrize("records", [[], [b""], RECORDS], ids=["none", "empty", "several"])
def test_what_was_written_is_read(path: Path, records: list[bytes]) -> None:
    write_records(path, records)
    assert read(path) == records


def test_a_file_is_as_the_format_says(path: Path) -> None:
    write_records(str(path), iter(RECORDS[:4]))
    assert path.read_bytes() == framed(*RECORDS[:4])


def test_a_file_is_replaced(path: Path) -> None:
    write_records(path, [b"long" * 100])
    write_records(path, [b"short"])
    assert read(path) == [b"short"]


def test_only_bytes_are_records(path: Path) -> None:
    with pytest.raises(TypeError):
        write_records(path, ["text"])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        crc32c(None)  # type: ignore[arg-type]


def test_a_reader_keeps_no_record(path: Path) -> None:
    write_records(path, RECORDS[2:])
    mine_alone = bytes(10)
    with RecordReader(path) as records:
        for record in records:
            assert sys.getrefcount(record) == sys.getrefcount(mine_alone)


def test_each_record_goes_to_one_of_many_threads(path: Path) -> None:
    expected = [f"{number}".encode() * (number % 50) for number in range(5000)]
    write_records(path, expected)
    with RecordReader(path) as records, ThreadPoolExecutor(4) as threads:
        lists = threads.map(lambda _: list(records), range(4))
        assert sorted(record for found in lists for record in found) == sorted(expected)


def test_what_is_appended_after_opening_is_not_read(path: Path) -> None:
    write_records(path, [b"one"])
    with RecordReader(path) as records, path.open("ab") as file:
        assert next(records) == b"one"
        file.write(framed(b"two"))
        file.flush()
        with pytest.raises(ServingError, match="truncated record at 19"):
            next(records)


# --- life


def test_a_closed_reader_is_told(path: Path) -> None:
    write_records(path, [b"one"])
    with RecordReader(path) as records:
        records.close()
        with pytest.raises(ValueError, match="closed"):
            next(records)
    records.close()


def test_no_file_stays_open(path: Path) -> None:
    write_records(path, [b"one"])
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        next(RecordReader(path))
        read(path)
        with pytest.raises(ServingError):
            RecordReader(path.parent)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_file_that_is_missing_is_told(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="records"):
        RecordReader(path)


def test_only_regular_files_are_read(path: Path) -> None:
    os.mkfifo(path)  # nobody will ever write into it
    for other in (path, path.parent):
        with pytest.raises(ServingError, match=f"{other} is no regular file") as caught:
            RecordReader(other)
        assert caught.value.code is Code.FAILED_PRECONDITION


# --- damage


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


FIRST, SECOND = b"first", b"the second"
WHOLE = framed(FIRST, SECOND)
START = AROUND + len(FIRST)  # of the second record


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (b"hello, this is a text", 0, "corrupted record at 0 (Is this even a TFRecord file?)"),
        (changed(WHOLE, 0), 0, "corrupted record at 0 (Is this even a TFRecord file?)"),
        (changed(WHOLE, 8), 0, "corrupted record at 0 (Is this even a TFRecord file?)"),
        (changed(WHOLE, HEADER), 0, "corrupted record at 12"),
        (changed(WHOLE, HEADER + len(FIRST)), 0, "corrupted record at 12"),
        (changed(WHOLE, START), 1, "corrupted record at 21"),
        (changed(WHOLE, START + HEADER), 1, "corrupted record at 33"),
        (changed(WHOLE, len(WHOLE) - 1), 1, "corrupted record at 33"),
        (WHOLE[:HEADER], 0, f"truncated record at 0{CUT}"),
        (WHOLE[: START - 1], 0, f"truncated record at 0{CUT}"),
        (WHOLE[:-1], 1, f"truncated record at 21{CUT}"),
        (WHOLE[:-4], 1, f"truncated record at 21{CUT}"),
        (WHOLE[:-5], 1, f"truncated record at 21{CUT}"),
        # No record has begun where a header is not whole.
        (WHOLE[: HEADER - 1], 0, ""),
        (WHOLE[: START + HEADER - 1], 1, ""),
    ],
)
def test_damage_is_told_with_its_place(path: Path, data: bytes, count: int, message: str) -> None:
    path.write_bytes(data)
    assert read_until_an_error(path) == ([FIRST, SECOND][:count], message)


def test_whoever_goes_on_after_damage_gets_the_same_error(path: Path) -> None:
    path.write_bytes(WHOLE[:-1])
    with RecordReader(path) as records:
        next(records)
        for _ in range(2):
            with pytest.raises(ServingError, match="truncated record at 21"):
                next(records)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (1 << 40, f"truncated record at 0{CUT}"),
        ((1 << 63) - 1, f"truncated record at 0{CUT}"),
        ((1 << 64) - 6, f"truncated record at 0{CUT}"),
        ((1 << 64) - 5, "record size too large"),
        ((1 << 64) - 1, "record size too large"),
    ],
)
def test_no_memory_is_taken_for_what_the_file_cannot_hold(
    path: Path, length: int, message: str
) -> None:
    header = length.to_bytes(8, "little")
    path.write_bytes(header + masked_bytes(header) + bytes(100))
    assert read_until_an_error(path) == ([], message)


def test_larger_records_than_wanted_are_refused(path: Path) -> None:
    write_records(path, [b"12345", b"123456"])
    with RecordReader(path, max_record_bytes=5) as records:
        assert next(records) == b"12345"
        with pytest.raises(ServingError, match="record size too large"):
            next(records)
    assert read(path, max_record_bytes=6) == [b"12345", b"123456"]


def test_a_record_that_protobuf_could_not_read_is_refused(path: Path) -> None:
    assert MAX_RECORD_BYTES == 2**31 - 1
    header = (1 << 31).to_bytes(8, "little")
    with path.open("wb") as file:
        file.write(header + masked_bytes(header))
        file.truncate(AROUND + (1 << 31))  # a hole: it takes no room on the disk
    assert read_until_an_error(path) == ([], "record size too large")


def mutated(data: bytearray, random: Random) -> bytearray:
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(data) + 1)
        kind = random.randrange(4)
        if kind == 0:
            data[at : at + 1] = random.randbytes(1)
        elif kind == 1:
            data[at:at] = random.randbytes(random.randint(1, 20))
        elif kind == 2:
            del data[at : at + random.randint(1, 20)]
        else:
            del data[at:]
    return data


@pytest.mark.parametrize("seed", range(20))
def test_mutated_files_give_right_records_and_an_error(path: Path, seed: int) -> None:
    random = Random(seed)
    for _ in range(50):
        sizes = [random.choice([0, 1, 7, 8, 9, 100]) for _ in range(random.randint(1, 5))]
        records = [random.randbytes(size) for size in sizes]
        data = mutated(bytearray(framed(*records)), random)
        path.write_bytes(data)
        found, message = read_until_an_error(path)
        # What was read is what the file says, up to the end or to what is wrong.
        read_bytes = sum(AROUND + len(record) for record in found)
        assert framed(*found) == data[:read_bytes]
        assert message or len(data) - read_bytes < HEADER


# --- TensorFlow's own files

WITH_TENSORFLOW = """
import sys
import tensorflow as tf

ours, theirs = sys.argv[1:]
records = [record.numpy() for record in tf.data.TFRecordDataset(ours)]
with tf.io.TFRecordWriter(theirs) as writer:
    for record in records:
        writer.write(record)
"""


@pytest.mark.skipif(tensorflow_version() is None, reason="needs TensorFlow")
def test_tensorflow_reads_and_writes_the_same_files(path: Path) -> None:
    write_records(path, RECORDS)
    theirs = path.with_name("theirs")
    subprocess.run(
        [sys.executable, "-c", WITH_TENSORFLOW, path, theirs],
        # No sanitizer is to look at TensorFlow.
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "LD_PRELOAD": ""},
        check=True,
        capture_output=True,
    )
    assert theirs.read_bytes() == path.read_bytes()
    assert read(theirs) == RECORDS
