"""Rows of numpy arrays: stacked to a batch, and taken out of its outputs."""


cdef class Form:
    cdef readonly tuple names   # of a dict
    cdef readonly object kind   # dict, tuple, list, or None: a single array
    cdef bint runs_alone        # an output of such inputs had other rows, see _array_batches

    cdef object build(self, list arrays)

cdef object outputs_of(object value, list arrays)
cdef object stack(list arrays, Py_ssize_t padding_rows, bint pads_inner)
cdef str why_not_rows(list arrays, Py_ssize_t rows)
cdef list rows_of(list arrays, Py_ssize_t first, Py_ssize_t rows)
cdef list joined(list parts)
