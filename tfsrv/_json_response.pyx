cdef int json_write_predict(Buffer* into, const TensorData* outputs, int size, bint in_rows, bint pretty, const JsonSpec* spec, Status* status) noexcept nogil:
    return -1
cdef int json_write_classify(Buffer* into, const InferenceAnswer* answer, bint pretty, const JsonSpec* spec, Status* status) noexcept nogil:
    return -1
cdef int json_write_regress(Buffer* into, const InferenceAnswer* answer, bint pretty, const JsonSpec* spec, Status* status) noexcept nogil:
    return -1
