"""What Classify, Regress and MultiInference tell of requests and results that do not fit.

Codes and texts are those of TensorFlow Serving's servables/tensorflow/{classifier,regressor,
multi_inference}.cc. Every `tell_` replaces the status and returns its code.
"""

from tfsrv._status cimport (
    INVALID_ARGUMENT,
    INVALID_INPUT,
    RUN_FAILED,
    status_add,
    status_add_bytes,
    status_add_int,
    status_set,
)

cdef extern from *:
    """
    /* Of tensorflow/core/framework/types.proto, by number; there it is "DT_FLOAT", in texts of
       TensorFlow's own "float". */
    enum { TFSRV_NAMED_DTYPES = 32 };
    static const char* const tfsrv_dtype_names[TFSRV_NAMED_DTYPES] = {
        "INVALID", "FLOAT", "DOUBLE", "INT32", "UINT8", "INT16", "INT8", "STRING", "COMPLEX64", "INT64",
        "BOOL", "QINT8", "QUINT8", "QINT32", "BFLOAT16", "QINT16", "QUINT16", "UINT16", "COMPLEX128",
        "HALF", "RESOURCE", "VARIANT", "UINT32", "UINT64", "FLOAT8_E5M2", "FLOAT8_E4M3FN",
        "FLOAT8_E4M3FNUZ", "FLOAT8_E4M3B11FNUZ", "FLOAT8_E5M2FNUZ", "INT4", "UINT4", "INT2",
    };
    """
    enum:
        TFSRV_NAMED_DTYPES
    const char* const* tfsrv_dtype_names


cdef const char* dtype_name(int dtype) noexcept nogil:
    return tfsrv_dtype_names[dtype if 0 <= dtype < TFSRV_NAMED_DTYPES else 0]


cdef int tell_text_and_name(
    Status* status, int code, int reason, const char* text, Bytes name
) noexcept nogil:
    status_set(status, code, text)
    status_add_bytes(status, name)
    status.reason = reason
    return code


cdef int tell_wrong_kind(Status* status, Bytes method_name, bint is_regression) noexcept nogil:
    """With --enable_signature_method_name_check, of a signature with another method name."""
    if is_regression:
        status_set(
            status, INVALID_ARGUMENT,
            "Expected regression signature method_name to be tensorflow/serving/regress. Was: ")
    else:
        status_set(
            status, INVALID_ARGUMENT,
            "Expected classification signature method_name to be tensorflow/serving/classify. Was: ")
    status_add_bytes(status, method_name)
    status.reason = INVALID_INPUT
    return INVALID_ARGUMENT


cdef int tell_not_strings(Status* status, int arg, int dtype) noexcept nogil:
    """Of an input that examples cannot be fed to, as TensorFlow tells it. `arg`: where it is among those fed."""
    cdef const char* name = dtype_name(dtype)
    cdef char letter
    status_set(status, INVALID_ARGUMENT, "Expects arg[")
    status_add_int(status, arg)
    status_add(status, "] to be ")
    while name[0] != 0:
        letter = name[0] | 0x20 if c"A" <= name[0] <= c"Z" else name[0]
        status_add_bytes(status, Bytes(&letter, 1))
        name += 1
    status_add(status, " but string is provided")
    status.reason = INVALID_INPUT
    return INVALID_ARGUMENT


cdef int tell_wrong_dtype(Status* status, const char* text, int dtype) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, text)
    status_add(status, "DT_")
    status_add(status, dtype_name(dtype))
    status.reason = RUN_FAILED
    return INVALID_ARGUMENT


cdef int tell_wrong_shape(Status* status, const char* text, const TensorData* tensor) noexcept nogil:
    cdef int i
    status_set(status, INVALID_ARGUMENT, text)
    status_add(status, "[")
    for i in range(tensor.rank):
        if i > 0:
            status_add(status, ",")
        status_add_int(status, tensor.dims[i])
    status_add(status, "]")
    status.reason = RUN_FAILED
    return INVALID_ARGUMENT


cdef int tell_two_sizes(
    Status* status, const char* text, long long one, const char* between, long long other
) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, text)
    status_add_int(status, one)
    status_add(status, between)
    status_add_int(status, other)
    status.reason = RUN_FAILED
    return INVALID_ARGUMENT
