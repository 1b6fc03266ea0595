"""TensorFlow's thread pools for runs that must stop at their deadline."""

cdef int run_pool_take() noexcept nogil
cdef void run_pool_give(int pool) noexcept nogil
