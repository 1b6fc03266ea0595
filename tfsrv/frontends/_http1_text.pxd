"""Words and lists in HTTP's header fields."""

from tfsrv._buffer cimport Bytes


cdef inline bint same_word(Bytes text, const char* lower, size_t size) noexcept nogil:
    """Whether `text` is the word `lower`, whatever its case. `lower` has letters, digits and "-/:"."""
    cdef size_t i
    if text.size != size:
        return False
    for i in range(size):
        if text.data[i] != lower[i] and not (c"A" <= text.data[i] <= c"Z" and (text.data[i] | 0x20) == lower[i]):
            return False
    return True


cdef inline Bytes trimmed(Bytes text) noexcept nogil:
    """Without the spaces and tabs around it."""
    while text.size and (text.data[0] == c" " or text.data[0] == c"\t"):
        text = Bytes(text.data + 1, text.size - 1)
    while text.size and (text.data[text.size - 1] == c" " or text.data[text.size - 1] == c"\t"):
        text.size -= 1
    return text


cdef inline bint next_element(Bytes* rest, Bytes* element) noexcept nogil:
    """Take the next element off a comma-separated list; empty ones do not count (RFC 9110, 5.6.1)."""
    cdef size_t end
    while rest.size:
        end = 0
        while end < rest.size and rest.data[end] != c",":
            end += 1
        element[0] = trimmed(Bytes(rest.data, end))
        if end < rest.size:
            end += 1
        rest[0] = Bytes(rest.data + end, rest.size - end)
        if element.size:
            return True
    return False
