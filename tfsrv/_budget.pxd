"""The in-flight budget: bytes that requests and answers of all connections may hold together."""

from libc.stdint cimport int64_t

cdef bint budget_take(int64_t bytes) noexcept nogil
cdef bint budget_take_low(int64_t bytes) noexcept nogil
cdef void budget_give(int64_t bytes) noexcept nogil
cdef bint budget_ran_out() noexcept nogil
