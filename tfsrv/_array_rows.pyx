"""Rows of numpy arrays: stacked to a batch, and taken out of its outputs.

Everything that is made here is a copy: neither side sees what the other does to its arrays.
"""

import numpy

cdef object asarray = numpy.asarray
cdef object broadcast_to = numpy.broadcast_to
cdef object concatenate = numpy.concatenate
cdef object empty = numpy.empty
cdef type ndarray = numpy.ndarray


cdef class Form:
    """How arrays are given: a single one, or several in a dict, a tuple or a list."""

    def __cinit__(self, object kind, tuple names = ()) -> None:
        self.kind = kind
        self.names = names

    cdef object build(self, list arrays):
        """The arrays in this form; a list is taken over."""
        if self.kind is None:
            return arrays[0]
        if self.kind is dict:
            return dict(zip(self.names, arrays))
        return arrays if self.kind is list else tuple(arrays)


cdef Form SINGLE = Form(None)
cdef Form TUPLE = Form(tuple)
cdef Form LIST = Form(list)


cdef object outputs_of(object value, list arrays):
    """Put what a callable returned into `arrays`, an empty list; the form of it.

    A list is several arrays only if it starts with one: else it is what numpy.asarray makes of it.
    """
    if type(value) is ndarray:
        arrays.append(value)
        return SINGLE
    if isinstance(value, dict):
        arrays.extend([asarray(array) for array in value.values()])
        return Form(dict, tuple(value))
    if isinstance(value, tuple) or (isinstance(value, list) and value and isinstance(value[0], ndarray)):
        arrays.extend([asarray(array) for array in value])
        return TUPLE if isinstance(value, tuple) else LIST
    arrays.append(asarray(value))
    return SINGLE


cdef object stack(list arrays, Py_ssize_t padding_rows, bint pads_inner):
    """The rows of all arrays, and copies of the first row of the last one; of the same dtype.

    With `pads_inner` inner dims may differ: they become the largest of each, see stack_padded().
    """
    last = arrays[len(arrays) - 1]
    if pads_inner and have_other_inner_dims(arrays):
        return stack_padded(arrays, padding_rows)
    if padding_rows:
        arrays = [*arrays, broadcast_to(last[:1], (padding_rows, *last.shape[1:]))]
    # The dtype is told, or another byte order than the machine's would be lost.
    return concatenate(arrays, dtype=last.dtype)


cdef bint have_other_inner_dims(list arrays):
    inner = arrays[0].shape[1:]
    for array in arrays:
        if array.shape[1:] != inner:
            return True
    return False


cdef object stack_padded(list arrays, Py_ssize_t padding_rows):
    """Inner dims grow at their ends; what is new is the array's own first element.

    The rule of TensorFlow Serving (tensorflow_serving/batching/batching_util.cc). No array is empty.
    """
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t rows = sum([array.shape[0] for array in arrays])
    inner = tuple([max(sizes) for sizes in zip(*[array.shape[1:] for array in arrays])])
    whole = empty((rows + padding_rows, *inner), arrays[0].dtype)
    for array in arrays:
        shape = array.shape
        rows = shape[0]
        block = whole[at : at + rows]
        if shape[1:] != inner:
            block[...] = array[(slice(1),) * len(shape)]
            block = block[tuple([slice(size) for size in shape])]
        block[...] = array
        at += rows
    if padding_rows:
        whole[at:] = whole[at - rows : at - rows + 1]
    return whole


cdef str why_not_rows(list arrays, Py_ssize_t rows):
    """Why outputs cannot be divided among the requests of a batch; None: they can.

    The texts are TensorFlow Serving's (tensorflow_serving/batching/batching_session.cc).
    """
    for array in arrays:
        shape = array.shape
        if not shape:
            return "Batched output tensor has 0 dimensions"
        if shape[0] != rows:
            return (
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension "
                "sizes of the input tensors"
            )
    return None


cdef list rows_of(list arrays, Py_ssize_t first, Py_ssize_t rows):
    """Copies of some rows: a view would keep the whole batch, and show what becomes of its memory."""
    cdef object which = slice(first, first + rows)
    return [array[which].copy() for array in arrays]


cdef list joined(list parts):
    """Of lists of arrays, each with some rows, one list with all rows. ValueError: they do not fit."""
    return [stack(list(arrays), 0, False) for arrays in zip(*parts)]
