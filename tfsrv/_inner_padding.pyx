"""Padding the inner dims of a tensor where it lies.

The rule is that of TensorFlow Serving (tensorflow_serving/batching/batching_util.cc): dims grow at
their ends, all but the first, and what is new is the tensor's own first element.
"""

from libc.string cimport memcpy, memmove, memset

from tfsrv._buffer cimport Bytes
from tfsrv._tensor_proto cimport dtype_bytes
from tfsrv._tensor_values cimport repeat_last
from tfsrv._tf cimport DT_STRING
from tfsrv._tstring cimport TString, tstring_get, tstring_set


cdef int pad_inner(
    char* data, int dtype, int rank, const int64_t* dims, const int64_t* wanted
) noexcept nogil:
    """Spread the elements of a tensor of `dims` so that its inner dims are those of `wanted`.

    `rank` is 2 to MOST_PADDED_RANK, no dim is 0, and none of `wanted` is less; its first one is not
    looked at. The elements come one behind the other at `data`, where there is room for the padded
    tensor. What is there of strings behind them is lost without being freed.

    0, or -1 without memory: some strings are empty then.
    """
    cdef size_t unit = dtype_bytes(dtype)
    cdef int64_t runs = dims[0]
    cdef int64_t end = dims[0]      # elements of the padded tensor
    cdef int64_t trailing = 1       # elements that the dims behind `last` span, which stay
    cdef int last = rank - 1        # the last dim that grows
    cdef int64_t run_elements
    cdef int64_t place
    cdef int64_t i
    cdef int j
    while last > 0 and dims[last] == wanted[last]:
        trailing *= dims[last]
        last -= 1
    if last == 0:
        return 0  # nothing grows
    for j in range(1, rank):
        end *= wanted[j]
        runs *= dims[j] if j < last else 1
    run_elements = dims[last] * trailing
    # A run is what stays together. None moves towards the front, so going from the last one to the
    # first, neither a run nor the gap behind it covers what has not been moved yet.
    for i in range(runs - 1, -1, -1):
        place = place_of_run(dims, wanted, last, i) * trailing
        memmove(data + <size_t>place * unit, data + <size_t>(i * run_elements) * unit,
                <size_t>run_elements * unit)
        fill_gap(data, dtype, unit, place + run_elements, end)
        end = place
    return copy_first_string(<TString*>data, rank, dims, wanted) if dtype == DT_STRING else 0


cdef inline int64_t place_of_run(
    const int64_t* dims, const int64_t* wanted, int last, int64_t run
) noexcept nogil:
    """Where a run starts in the padded tensor, counted in what the dims behind `last` span."""
    cdef int64_t place = 0
    cdef int64_t stride = wanted[last]
    cdef int j
    for j in range(last - 1, 0, -1):
        place += run % dims[j] * stride
        run //= dims[j]
        stride *= wanted[j]
    return place + run * stride


cdef inline void fill_gap(
    char* data, int dtype, size_t unit, int64_t start, int64_t end
) noexcept nogil:
    """Elements from `start` to `end` become the first one of all, but strings become empty ones.

    What a moved string leaves behind is a second owner of its text. Making strings can fail, so
    no such thing may be left when the first one is made.
    """
    cdef char* gap = data + <size_t>start * unit
    if start == end:
        return
    if dtype == DT_STRING:
        memset(gap, 0, <size_t>(end - start) * unit)
        return
    memcpy(gap, data, unit)
    repeat_last(gap, unit, 1, end - start)


cdef int copy_first_string(
    TString* strings, int rank, const int64_t* dims, const int64_t* wanted
) noexcept nogil:
    """Fill the gaps between runs of strings, which are empty, with the first string."""
    cdef Bytes text = tstring_get(&strings[0])
    cdef int64_t elements = dims[0]
    cdef int64_t i
    cdef int j
    for j in range(1, rank):
        elements *= wanted[j]
    for i in range(1, elements):
        if not is_padding(i, rank, dims, wanted):
            continue
        if tstring_set(&strings[i], text.data, text.size) != 0:
            return -1
    return 0


cdef inline bint is_padding(
    int64_t index, int rank, const int64_t* dims, const int64_t* wanted
) noexcept nogil:
    """Whether an element of the padded tensor stands beyond `dims`."""
    cdef int j
    for j in range(rank - 1, 0, -1):
        if index % wanted[j] >= dims[j]:
            return True
        index //= wanted[j]
    return False
