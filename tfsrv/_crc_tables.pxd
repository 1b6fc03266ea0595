"""Checksums by tables that look eight bytes up side by side, for whatever polynomial of 32 bits."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy


# [k][b]: what byte b does to the checksum when k more bytes follow.
ctypedef uint32_t[8][256] CrcTables


cdef inline void crc_tables_fill(CrcTables tables, uint32_t polynomial) noexcept nogil:
    """`polynomial` has its bits the other way round."""
    cdef uint32_t crc
    cdef int byte, k, _
    for byte in range(256):
        crc = <uint32_t>byte
        for _ in range(8):
            crc = (crc >> 1) ^ (polynomial if crc & 1 else 0)
        tables[0][byte] = crc
    for byte in range(256):
        for k in range(1, 8):
            crc = tables[k - 1][byte]
            tables[k][byte] = (crc >> 8) ^ tables[0][crc & 0xFF]


cdef inline uint32_t crc_tables_step(
    CrcTables tables, uint32_t crc, const uint8_t* data, size_t size
) noexcept nogil:
    """The state after `size` bytes more."""
    cdef const uint8_t* end = data + size
    cdef uint32_t low = 0
    cdef uint32_t high = 0
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
