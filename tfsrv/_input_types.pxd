"""What readers of requests that carry no dtypes know of a signature."""

from tfsrv._buffer cimport Bytes


# One input of a signature. Nothing is owned.
cdef struct InputType:
    Bytes alias
    int dtype               # a number of TensorFlow's DataType
