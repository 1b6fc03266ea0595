"""BatchingParameters as the batch scheduler reads them."""

from libc.limits cimport INT_MAX
from libc.stdint cimport INT64_MAX, int64_t

from tfsrv._batching cimport MAX_ALLOWED_SIZES
from tfsrv._run_arms cimport ARM_CALLER

from tfsrv.errors import Code, ServingError

cdef int64_t MAX_BATCH_BYTES = 64 << 20  # of a batch's inputs, unless somebody has set max_batch_size


cdef int batch_settings_read(BatchSettings* settings, object parameters) except -1:
    """Fill in zeroed settings from checked BatchingParameters."""
    cdef int i
    allowed = parameters.allowed_batch_sizes
    if len(allowed) > MAX_ALLOWED_SIZES:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"There may be {MAX_ALLOWED_SIZES} allowed_batch_sizes at most; there are {len(allowed)}")
    settings.max_request_rows = parameters.max_batch_size
    settings.max_rows = parameters.max_execution_batch_size
    settings.max_batches = parameters.max_enqueued_batches
    settings.max_waiting_rows = max(
        settings.max_request_rows, settings.max_batches * settings.max_rows)
    settings.max_bytes = INT64_MAX if parameters.explicit_max_batch_size else MAX_BATCH_BYTES
    settings.wait_ns = parameters.batch_timeout_micros * 1000
    settings.target_ns = <int64_t>(parameters.target_latency_ms * 1e6)
    settings.max_runs = min(parameters.max_concurrent_runs, INT_MAX)
    settings.arm = ARM_CALLER  # there is one way to run; a session has more
    settings.splits = parameters.enable_large_batch_splitting
    settings.pads_inner = parameters.pad_variable_length_inputs
    settings.allowed_size = len(allowed)
    for i in range(settings.allowed_size):
        settings.allowed[i] = allowed[i]
    return 0
