"""What TensorFlow ran and what batches held, counted over all models."""

from libc.stdint cimport int64_t, uint64_t

from tfsrv._tf cimport TF_Tensor

cdef enum:
    RUN_TIME_BUCKETS = 21   # 20 upper bounds of 1 ms * 2^n, and the overflow
    RUN_BYTES_BUCKETS = 15  # 14 upper bounds of 4^n bytes, and the overflow
    QUEUING_BUCKETS = 53    # 52 upper bounds of 100 µs * 1.2^n, and the overflow
    ROWS_BUCKETS = 15       # 14 upper bounds of 2^n rows, and the overflow


cdef void graph_run_add(
    int64_t run_ns, TF_Tensor* const* inputs, int inputs_size, TF_Tensor* const* outputs, int outputs_size
) noexcept nogil
cdef void batch_run_add(int64_t rows, int64_t padding_rows) noexcept nogil
cdef void batch_part_add(int64_t queuing_ns) noexcept nogil
cdef void batch_input_add(int64_t rows, int64_t inputs) noexcept nogil
