"""Header blocks in, after RFC 7541 (HPACK), with its dynamic table and its Huffman code.

Only what a client reads: requests are written without a table, by _http2. A block that is not
valid is a ValueError; the connection is of no use then.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t

from tfsrv.client import hpack_tables

cdef enum:
    ENTRY_BYTES = 32        # that the RFC counts for an entry beside its texts
    LONGEST_CODE = 30       # bits
    END_OF_STRING = 256
    MOST_BYTES = 1 << 20    # of all names and values of a block: a few bytes may name a large entry

ctypedef const unsigned char* Cursor

cdef list _static = list(hpack_tables.STATIC_TABLE)


cdef struct HuffmanCode:
    uint32_t first[LONGEST_CODE + 1]    # the first code of a length
    int count[LONGEST_CODE + 1]         # how many have it
    int start[LONGEST_CODE + 1]         # where their symbols begin
    short symbols[257]                  # by length, then by value


cdef HuffmanCode _code


cdef int make_code() except -1:
    cdef uint32_t code = 0
    cdef int filled = 0
    cdef int length, symbol
    for length in range(1, LONGEST_CODE + 1):
        code <<= 1
        _code.first[length] = code
        _code.start[length] = filled
        for symbol in range(257):
            if <int>hpack_tables.CODE_LENGTHS[symbol] == length:
                _code.symbols[filled] = <short>symbol
                filled += 1
        _code.count[length] = filled - _code.start[length]
        code += <uint32_t>_code.count[length]
    return 0


make_code()


cdef class HeaderDecoder:
    """One connection's decoder. Not for two threads at once."""

    def __cinit__(self, table_size: int = 4096):
        self._table = []
        self._size = 0
        self._limit = <size_t>table_size
        self._largest = <size_t>table_size

    cdef list decode_block(self, Bytes block):
        """The fields of a whole block, in its order. ValueError."""
        cdef Cursor at = <Cursor>block.data
        cdef Cursor end = at + block.size
        cdef list fields = []
        cdef size_t total = 0
        cdef uint64_t index
        cdef bytes name, value
        cdef bint is_kept, is_coded
        cdef Bytes text
        while at < end:
            if at[0] & 0x80:  # an entry of the tables
                at = read_integer(at, end, 7, &index)
                name, value = self._entry(index)
                is_kept = False
            elif at[0] & 0xe0 == 0x20:  # another size of the table
                at = read_integer(at, end, 5, &index)
                if fields or index > self._largest:
                    raise ValueError("a table size that is not allowed")
                self._shrink(index)
                continue
            else:
                is_kept = at[0] & 0x40 != 0
                at = read_integer(at, end, 6 if is_kept else 4, &index)
                if index:
                    name = (<tuple>self._entry(index))[0]
                else:
                    at = find_text(at, end, &text, &is_coded)
                    name = text_of(text, is_coded)
                at = find_text(at, end, &text, &is_coded)
                value = text_of(text, is_coded)
            total += <size_t>len(name) + <size_t>len(value) + ENTRY_BYTES
            if total > MOST_BYTES:
                raise ValueError("too many header fields")
            fields.append((name, value))
            if is_kept:
                self._add(name, value)
        return fields

    cdef object _entry(self, size_t index):
        cdef size_t known = <size_t>len(_static)
        if index == 0 or index > known + <size_t>len(self._table):
            raise ValueError(f"there is no header field {index}")
        if index <= known:
            return _static[index - 1]
        return self._table[<size_t>len(self._table) - (index - known)]

    cdef int _add(self, bytes name, bytes value) except -1:
        cdef size_t size = <size_t>len(name) + <size_t>len(value) + ENTRY_BYTES
        cdef size_t limit = self._limit
        if size > limit:
            self._shrink(0)
            self._limit = limit
            return 0
        self._shrink(limit - size)
        self._limit = limit
        self._table.append((name, value))
        self._size += size
        return 0

    cdef int _shrink(self, size_t limit) except -1:
        """Drop the oldest entries until the rest fits."""
        cdef Py_ssize_t dropped = 0
        self._limit = limit
        while self._size > limit:
            name, value = self._table[dropped]
            self._size -= <size_t>len(name) + <size_t>len(value) + ENTRY_BYTES
            dropped += 1
        if dropped:
            del self._table[:dropped]
        return 0

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """The fields of a whole header block, for tests."""
        return self.decode_block(Bytes(PyBytes_AS_STRING(block), <size_t>len(block)))


cdef Cursor read_integer(Cursor at, Cursor end, int bits, uint64_t* value) except NULL:
    """An integer that begins with so many bits of the byte at `at`, which is there."""
    cdef uint64_t mask = (<uint64_t>1 << bits) - 1
    cdef unsigned char byte
    cdef int shift = 0
    value[0] = at[0] & mask
    at += 1
    if value[0] < mask:
        return at
    while at < end and shift < 28:
        byte = at[0]
        value[0] += <uint64_t>(byte & 0x7f) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            return at
    raise ValueError("an integer that has no end")


cdef Cursor find_text(Cursor at, Cursor end, Bytes* text, bint* is_coded) except NULL:
    cdef uint64_t size
    if at == end:
        raise ValueError("a text that is cut off")
    is_coded[0] = at[0] & 0x80 != 0
    at = read_integer(at, end, 7, &size)
    if size > <uint64_t>(end - at):
        raise ValueError("a text that is cut off")
    text.data = <const char*>at
    text.size = <size_t>size
    return at + size


cdef bytes text_of(Bytes text, bint is_coded):
    if is_coded:
        return decode_text(<Cursor>text.data, text.size)
    return PyBytes_FromStringAndSize(text.data, <Py_ssize_t>text.size)


cdef bytes decode_text(Cursor at, size_t size):
    """A text in Huffman code."""
    cdef bytearray text = bytearray()
    cdef uint32_t code = 0
    cdef int length = 0
    cdef int symbol
    cdef size_t i
    cdef int bit
    for i in range(size):
        for bit in range(7, -1, -1):
            code = code << 1 | (at[i] >> bit & 1)
            length += 1
            if length > LONGEST_CODE:
                raise ValueError("a text that is no Huffman code")
            if code - _code.first[length] < <uint32_t>_code.count[length]:
                symbol = _code.symbols[_code.start[length] + <int>(code - _code.first[length])]
                if symbol == END_OF_STRING:
                    raise ValueError("a text with an end inside")
                text.append(symbol)
                code = 0
                length = 0
    if length > 7 or code != (<uint32_t>1 << length) - 1:  # padding is ones
        raise ValueError("a text that is no Huffman code")
    return bytes(text)
