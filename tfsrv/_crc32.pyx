"""CRC-32, so fast that it does not count beside a copy: by carry-less multiplication where the
processor can, else by tables.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

cdef extern from "_crc32.h" nogil:
    int tfsrv_crc32_can_fold()
    void tfsrv_crc32_fold(uint32_t crc, const uint8_t* data, size_t size, uint8_t* folded)

cdef enum:
    FOLD_FROM = 64          # bytes

cdef uint32_t POLYNOMIAL = 0xEDB88320  # its bits the other way round

# tables[k][b]: what byte b does to the checksum when k more bytes follow.
cdef uint32_t[8][256] tables
cdef bint can_fold


cdef void fill_tables() noexcept nogil:
    cdef uint32_t crc
    cdef int byte, k, _
    for byte in range(256):
        crc = <uint32_t>byte
        for _ in range(8):
            crc = (crc >> 1) ^ (POLYNOMIAL if crc & 1 else 0)
        tables[0][byte] = crc
    for byte in range(256):
        for k in range(1, 8):
            crc = tables[k - 1][byte]
            tables[k][byte] = (crc >> 8) ^ tables[0][crc & 0xFF]


fill_tables()
can_fold = tfsrv_crc32_can_fold()


cdef uint32_t step_bytes(uint32_t crc, const uint8_t* data, size_t size) noexcept nogil:
    """The state after `size` bytes more, eight looked up side by side."""
    cdef const uint8_t* end = data + size
    cdef uint32_t low
    cdef uint32_t high
    while end - data >= 8:
        memcpy(&low, data, 4)  # our machines are little-endian, as the tables are
        memcpy(&high, data + 4, 4)
        low ^= crc
        crc = (
            tables[7][low & 0xFF]
            ^ tables[6][low >> 8 & 0xFF]
            ^ tables[5][low >> 16 & 0xFF]
            ^ tables[4][low >> 24]
            ^ tables[3][high & 0xFF]
            ^ tables[2][high >> 8 & 0xFF]
            ^ tables[1][high >> 16 & 0xFF]
            ^ tables[0][high >> 24]
        )
        data += 8
    while data < end:
        crc = (crc >> 8) ^ tables[0][(crc ^ data[0]) & 0xFF]
        data += 1
    return crc


cdef uint32_t crc32_with(Bytes data, bint folds) noexcept nogil:
    cdef const uint8_t* at = <const uint8_t*>data.data
    cdef size_t whole = data.size & ~<size_t>15
    cdef uint8_t folded[16]
    cdef uint32_t crc = 0xFFFFFFFF
    if folds and data.size >= FOLD_FROM:
        tfsrv_crc32_fold(crc, at, whole, folded)
        crc = step_bytes(0, folded, sizeof(folded))
        return ~step_bytes(crc, at + whole, data.size - whole)
    return ~step_bytes(crc, at, data.size)


cdef uint32_t crc32_of(Bytes data) noexcept nogil:
    """Any thread."""
    return crc32_with(data, can_fold)


def crc32(data: bytes, by_tables: bool = False) -> int:
    """The CRC-32 of some bytes; `by_tables` as on processors that cannot multiply without carry."""
    return crc32_with(Bytes(PyBytes_AS_STRING(data), <size_t>len(data)), can_fold and not by_tables)
