"""TFRecord files, which hold records of bytes, each with its length and checksums.

    uint64 length
    uint32 masked CRC-32C of the length
    byte   data[length]
    uint32 masked CRC-32C of the data

All numbers are little-endian (https://www.tensorflow.org/tutorials/load_data/tfrecord). Files are
not compressed. What is wrong with a file is told as TensorFlow's xla/tsl/lib/io/record_reader.cc
tells it.
"""

import os
import stat
from threading import Lock

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from tfsrv._crc_tables cimport CrcTables, crc_tables_fill, crc_tables_step

from tfsrv.errors import Code, ServingError

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int file, void* data, size_t size, int64_t offset)
    int close(int file)

cdef enum:
    LENGTH_BYTES = 8
    CHECKSUM_BYTES = 4
    HEADER_BYTES = 12       # a length and its checksum

cdef uint32_t POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits the other way round
cdef uint32_t MASK_DELTA = 0xA282EAD8
cdef uint64_t TOO_LARGE = <uint64_t>-1 - CHECKSUM_BYTES

cdef CrcTables tables

MAX_RECORD_BYTES = 2**31 - 1  # no message of protobuf is larger


crc_tables_fill(tables, POLYNOMIAL)


cdef inline uint32_t load_u32(const uint8_t* data) noexcept nogil:
    return (
        data[0] | <uint32_t>data[1] << 8 | <uint32_t>data[2] << 16 | <uint32_t>data[3] << 24
    )


cdef inline uint64_t load_u64(const uint8_t* data) noexcept nogil:
    return load_u32(data) | <uint64_t>load_u32(data + 4) << 32


cdef uint32_t checksum(const uint8_t* data, size_t size) noexcept nogil:
    """CRC-32C (RFC 3720, B.4)."""
    return ~crc_tables_step(tables, 0xFFFFFFFF, data, size)


cdef uint32_t masked_checksum(const uint8_t* data, size_t size) noexcept nogil:
    """A checksum that can itself be part of data with a checksum (xla/tsl/lib/hash/crc32c.h)."""
    cdef uint32_t crc = checksum(data, size)
    return (crc >> 15 | crc << 17) + MASK_DELTA


cdef ssize_t read_at(int file, uint8_t* data, size_t size, uint64_t offset) noexcept nogil:
    """Read so many bytes, or fewer where the file ends. -1 with errno set if that failed."""
    cdef size_t done = 0
    cdef ssize_t got
    while done < size:
        got = pread(file, data + done, size - done, <int64_t>(offset + done))
        if got < 0:
            if errno == EINTR:
                continue
            return -1
        if got == 0:
            break
        done += <size_t>got
    return <ssize_t>done


def crc32c(data: bytes) -> int:
    """The CRC-32C of some bytes (RFC 3720, B.4), as it is before TFRecord masks it."""
    cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(data)
    cdef uint32_t crc
    with nogil:
        crc = checksum(start, size)
    return crc


def write_records(path, records) -> None:
    """Write a file of records of bytes; what was there before is lost.

    OSError if it cannot be written. TensorFlow's readers take it as one of their own.
    """
    cdef bytes record, length
    with open(path, "wb") as file:
        for record in records:
            length = len(record).to_bytes(LENGTH_BYTES, "little")
            file.write(length + footer(length))
            file.write(record)
            file.write(footer(record))


cdef bytes footer(bytes data):
    """The masked checksum of `data` as it stands in a file."""
    cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(data)
    cdef uint32_t crc
    with nogil:
        crc = masked_checksum(start, size)
    return crc.to_bytes(CHECKSUM_BYTES, "little")


cdef class RecordReader:
    """The records of a file, one after the other: an iterator of bytes, and a context manager.

        with RecordReader(path) as records:
            for record in records:
                ...

    One record is in memory at a time; no memory is taken for one that the file cannot hold or
    that has more than `max_record_bytes`. The file is read as far as it went when it was opened.
    Fewer than 12 bytes at its end are no record and no error, as in TensorFlow.

    OSError if the file cannot be opened or read, ServingError FAILED_PRECONDITION if it is no
    regular file, and DATA_LOSS at a record that is damaged: whoever goes on gets the same error
    again. Any thread may ask for the next record; each goes to one of those who ask.
    """

    cdef:
        object _path
        object _lock            # held while a record is read
        int _file               # owned; -1 when closed
        uint64_t _size          # of the file, when it was opened
        uint64_t _offset        # of the next record
        uint64_t _max_record_bytes

    def __cinit__(self, path, *, max_record_bytes: int = MAX_RECORD_BYTES) -> None:
        self._file = -1
        self._path = path
        self._lock = Lock()
        self._offset = 0
        self._max_record_bytes = max_record_bytes
        # Without O_NONBLOCK a FIFO would be waited for, and without O_NOCTTY a link to a terminal
        # could become ours.
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        status = os.fstat(self._file)
        if not stat.S_ISREG(status.st_mode):
            raise ServingError(Code.FAILED_PRECONDITION, f"{path} is no regular file")
        self._size = status.st_size

    def __dealloc__(self) -> None:
        if self._file >= 0:
            close(self._file)

    def close(self) -> None:
        """Close the file. The next record is a ValueError from now on."""
        with self._lock:
            if self._file >= 0:
                close(self._file)
                self._file = -1

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> RecordReader:
        return self

    def __next__(self) -> bytes:
        with self._lock:
            if self._file < 0:
                raise ValueError("the file of records is closed")
            length = self._read_header()
            if length is None:
                raise StopIteration
            record = self._read_data(length)
            self._offset += HEADER_BYTES + <uint64_t>length + CHECKSUM_BYTES
            return record

    cdef object _read_header(self):
        """The length of the next record; None at the end of the file."""
        cdef uint8_t[HEADER_BYTES] header
        cdef ssize_t got
        with nogil:
            got = read_at(self._file, header, HEADER_BYTES, self._offset)
        if got < 0:
            raise self._os_error()
        if got < HEADER_BYTES:
            return None
        if masked_checksum(header, LENGTH_BYTES) != load_u32(header + LENGTH_BYTES):
            # A file of some other kind fails here.
            hint = "" if self._offset else " (Is this even a TFRecord file?)"
            raise data_loss(f"corrupted record at {self._offset}{hint}")
        return load_u64(header)

    cdef bytes _read_data(self, uint64_t length):
        """The record behind the header that was read."""
        cdef uint64_t start = self._offset + HEADER_BYTES
        cdef uint64_t left = self._size - start if start < self._size else 0
        cdef uint8_t[CHECKSUM_BYTES] expected
        cdef ssize_t got, got_expected = 0
        cdef bint is_right = False
        if length >= TOO_LARGE:
            raise data_loss("record size too large")
        if length + CHECKSUM_BYTES > left:
            raise self._truncated()
        if length > self._max_record_bytes:
            raise data_loss("record size too large")

        record = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>length)
        cdef uint8_t* data = <uint8_t*>PyBytes_AS_STRING(record)
        with nogil:
            got = read_at(self._file, data, length, start)
            if got == <ssize_t>length:
                got_expected = read_at(self._file, expected, CHECKSUM_BYTES, start + length)
            if got_expected == CHECKSUM_BYTES:
                is_right = masked_checksum(data, length) == load_u32(expected)
        if got < 0 or got_expected < 0:
            raise self._os_error()
        if got_expected < CHECKSUM_BYTES:  # the file was cut meanwhile
            raise self._truncated()
        if not is_right:
            raise data_loss(f"corrupted record at {start}")
        return record

    cdef object _truncated(self):
        cause = "Read less bytes than requested"
        return data_loss(f"truncated record at {self._offset}' failed with {cause}")

    cdef object _os_error(self):
        return OSError(errno, os.strerror(errno), os.fspath(self._path))


cdef object data_loss(str message):
    return ServingError(Code.DATA_LOSS, message)
