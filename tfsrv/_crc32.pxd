"""CRC-32 as zip and gzip have it (ISO 3309)."""

from libc.stdint cimport uint32_t

from tfsrv._buffer cimport Bytes

cdef uint32_t crc32_of(Bytes data) noexcept nogil
