"""zlib, opened at run time.

Building needs no header of it, and its library is on every system, for package managers need it. Its
interface has not changed in 20 years.
"""

cdef extern from "<dlfcn.h>" nogil:
    void* dlopen(const char* path, int flags)
    void* dlsym(void* library, const char* name)
    int RTLD_NOW
    int RTLD_LOCAL

ZLIB_VERSION = b"1.2.11"


cdef int find(void* library, void** slot, const char* name) except -1:
    slot[0] = dlsym(library, name)
    if slot[0] == NULL:
        raise ImportError(f"libz.so.1 has no {name.decode()}")
    return 0


cdef int open_zlib() except -1:
    cdef void* library = dlopen(b"libz.so.1", RTLD_NOW | RTLD_LOCAL)
    if library == NULL:
        raise ImportError("zlib is not installed (Debian: apt-get install zlib1g)")
    find(library, <void**>&zlib.inflateInit2_, b"inflateInit2_")
    find(library, <void**>&zlib.inflate, b"inflate")
    find(library, <void**>&zlib.inflateReset, b"inflateReset")
    find(library, <void**>&zlib.inflateEnd, b"inflateEnd")
    find(library, <void**>&zlib.deflateInit2_, b"deflateInit2_")
    find(library, <void**>&zlib.deflate, b"deflate")
    find(library, <void**>&zlib.deflateEnd, b"deflateEnd")
    return 0


open_zlib()
