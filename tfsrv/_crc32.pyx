"""CRC-32, so fast that it does not count beside a copy: by carry-less multiplication where the
processor can, else by tables.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from tfsrv._crc_tables cimport CrcTables, crc_tables_fill, crc_tables_step

cdef extern from "_crc32.h" nogil:
    int tfsrv_crc32_can_fold()
    void tfsrv_crc32_fold(uint32_t crc, const uint8_t* data, size_t size, uint8_t* folded)

cdef enum:
    FOLD_FROM = 64          # bytes

cdef uint32_t POLYNOMIAL = 0xEDB88320  # its bits the other way round

cdef CrcTables tables
cdef bint can_fold


crc_tables_fill(tables, POLYNOMIAL)
can_fold = tfsrv_crc32_can_fold()


cdef uint32_t crc32_with(Bytes data, bint folds) noexcept nogil:
    cdef const uint8_t* at = <const uint8_t*>data.data
    cdef size_t whole = data.size & ~<size_t>15
    cdef uint8_t folded[16]
    cdef uint32_t crc = 0xFFFFFFFF
    if folds and data.size >= FOLD_FROM:
        tfsrv_crc32_fold(crc, at, whole, folded)
        crc = crc_tables_step(tables, 0, folded, sizeof(folded))
        return ~crc_tables_step(tables, crc, at + whole, data.size - whole)
    return ~crc_tables_step(tables, crc, at, data.size)


cdef uint32_t crc32_of(Bytes data) noexcept nogil:
    """Any thread."""
    return crc32_with(data, can_fold)


def crc32(data: bytes, by_tables: bool = False) -> int:
    """The CRC-32 of some bytes; `by_tables` as on processors that cannot multiply without carry."""
    return crc32_with(Bytes(PyBytes_AS_STRING(data), <size_t>len(data)), can_fold and not by_tables)
