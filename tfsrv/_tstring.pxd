"""TensorFlow's string element, TF_TString: 24 bytes in one of four forms.

The layout is that of tensorflow/core/platform/ctstring_internal.h on a little-endian machine.
The two lowest bits of the first byte name the form, the bits above them hold the size:

    small    1 byte of size, up to 22 bytes of text, a zero
    large    size, capacity, pointer to malloc'd text with a zero behind it
    offset   32 bits of size, 32 bits of distance from the TString to its text
    view     size, pointer to text that somebody else owns

Strings that we make are small or large, never views: TensorFlow's kernels copy a view as a
view, and such a copy outlives the request.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from tfsrv._buffer cimport Bytes


cdef enum TStringForm:
    TSTRING_SMALL = 0
    TSTRING_LARGE = 1
    TSTRING_OFFSET = 2
    TSTRING_VIEW = 3

cdef enum:
    TSTRING_SMALL_CAPACITY = 22


cdef struct TString:
    uint64_t size           # form in the two lowest bits; the small form uses the first byte only
    uint64_t capacity       # of the large form; a view's pointer stands here
    char* text              # of the large form


cdef inline int tstring_set(TString* string, const char* data, size_t size) noexcept nogil:
    """Make `string`, whatever memory it was, hold a copy of the bytes.

    0, or -1 when there is no memory; it is an empty string then. Ends with tstring_free.
    """
    cdef char* text
    cdef size_t capacity
    string.size = 0
    string.capacity = 0
    string.text = NULL
    if size <= TSTRING_SMALL_CAPACITY:
        text = <char*>string
        text[0] = <char>(size << 2 | TSTRING_SMALL)
        if size:
            memcpy(text + 1, data, size)
        return 0  # the zero behind the text is there already
    capacity = ((size + 16) & ~<size_t>15) - 1  # what TensorFlow itself would reserve
    text = <char*>malloc(capacity + 1)
    if text == NULL:
        return -1
    memcpy(text, data, size)
    text[size] = 0
    string.size = size << 2 | TSTRING_LARGE
    string.capacity = capacity
    string.text = text
    return 0


cdef inline void tstring_free(TString* string) noexcept nogil:
    """Give back what tstring_set took."""
    if string.size & 3 == TSTRING_LARGE:
        free(string.text)


cdef inline Bytes tstring_get(const TString* string) noexcept nogil:
    """The bytes of a string of any form; they live as long as it does."""
    cdef Bytes view
    cdef int form = string.size & 3
    if form == TSTRING_SMALL:
        view.size = (string.size & 0xff) >> 2
        view.data = <const char*>string + 1
    elif form == TSTRING_LARGE:
        view.size = string.size >> 2
        view.data = string.text
    elif form == TSTRING_VIEW:
        view.size = string.size >> 2
        view.data = <const char*>string.capacity
    else:
        view.size = <uint32_t>string.size >> 2
        view.data = <const char*>string + (string.size >> 32)
    return view
