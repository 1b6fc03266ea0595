"""numpy's .npz: a zip (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT) of .npy files."""

from libc.stdint cimport uint32_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._status cimport Status


# Where the directory of a zip stands, and how much of it has been read. A view.
cdef struct NpzReader:
    Bytes file
    size_t start            # of the directory
    size_t at               # in it
    size_t end
    int members             # that are to be read yet


# One member of a zip. A view.
cdef struct NpzMember:
    Bytes name              # of the array: without ".npy"
    int method
    uint32_t crc
    Bytes packed            # the bytes in the file
    size_t size             # of what they hold, if that is true
    size_t start            # in the file, of its header
    size_t end              # behind its last byte


cdef int npz_begin(NpzReader* reader, Bytes file, Status* status) noexcept nogil
cdef int npz_next(NpzReader* reader, NpzMember* member, Status* status) noexcept nogil
cdef int npz_unpack(
    const NpzMember* member, size_t most_bytes, Buffer* scratch, Bytes* content,
    Status* status) noexcept nogil
cdef size_t npz_unpacked_bytes(Bytes file) noexcept nogil
cdef int npz_begin_member(Buffer* into, Bytes name) noexcept nogil
cdef void npz_end_member(Buffer* into, size_t start) noexcept nogil
cdef int npz_end(Buffer* into, size_t start, int members) noexcept nogil
