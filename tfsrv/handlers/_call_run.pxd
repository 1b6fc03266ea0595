"""One call on its session: tensors in, run, response out."""

from libc.stdint cimport int64_t

from tfsrv._call cimport Call
from tfsrv._session cimport Session
from tfsrv._signature cimport Signature
from tfsrv.handlers._call_plan cimport Plan

cdef enum:
    IN_PLACE_SLICE_NS = 2000000     # of the loop's time at one go; then the other connections' turn

cdef bint run_is_small(const Call* call, size_t size) noexcept nogil
cdef bint run_has_time(const Call* call) noexcept nogil
cdef bint run_is_wanted(Call* call) noexcept nogil
cdef int run_make_feeds(Call* call, Plan* plan) noexcept nogil
cdef void run_drop_feeds(Call* call, Plan* plan) noexcept nogil
cdef int64_t run_timeout_ms(
    Session* session, Signature* signature, int64_t deadline_ns, int64_t now) noexcept nogil
cdef int run_place(const Session* session, bint on_pool, int64_t timeout_ms) noexcept nogil
cdef void run_call(Call* call, bint in_place, bint on_pool) noexcept nogil
cdef void run_write(Call* call, Plan* plan) noexcept nogil
cdef void run_write_outputs(Call* call, Plan* plan) noexcept nogil
