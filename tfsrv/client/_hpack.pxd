"""Header blocks in, after RFC 7541."""

from tfsrv._buffer cimport Bytes


cdef class HeaderDecoder:
    """One connection's decoder. Not for two threads at once."""

    cdef:
        list _table             # (name, value), the newest last
        size_t _size            # of the entries, as the RFC counts it
        size_t _limit           # that the other side has set
        size_t _largest         # that it may set

    cdef list decode_block(self, Bytes block)
    cdef object _entry(self, size_t index)
    cdef int _add(self, bytes name, bytes value) except -1
    cdef int _shrink(self, size_t limit) except -1
