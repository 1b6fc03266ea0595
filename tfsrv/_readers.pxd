"""Who looks at something that may be replaced: counters, entered and left without a lock."""

from libc.stdint cimport int64_t, uint64_t

from tfsrv._atomic cimport add_acq_rel_i64, add_seq_cst_i64, load_relaxed_int


cdef extern from "<pthread.h>" nogil:
    uint64_t thread_number "pthread_self"()     # the address of the thread's control block

cdef enum:
    STRIPES = 16            # reader counters; more than loops and decoders on most machines


cdef struct Stripe:
    int64_t inside[2]       # atomic: readers inside their section, by the phase they came in
    char pad[48]            # one cache line for each stripe


cdef struct Readers:
    # Aligned to cache lines by its owner; zeroed memory is without readers.
    Stripe stripes[16]
    int phase               # atomic; 0 or 1: which counter of a stripe newcomers use


cdef inline int64_t* readers_enter(Readers* self) noexcept nogil:
    """Begin a section, in any thread; what this returns is for readers_leave.

    The pointer to what may be replaced has to be loaded after it, seq_cst.
    """
    # Relaxed: which of the two counters is used matters only for how soon a publisher gets by.
    cdef int phase = load_relaxed_int(&self.phase)
    cdef int64_t* inside = &self.stripes[stripe_index()].inside[phase]
    # Both seq_cst, this and the load behind it, as the publisher's store of the pointer and its
    # look at the counters: either this reader sees what is new, or the publisher sees this
    # reader and waits for it.
    add_seq_cst_i64(inside, 1)
    return inside


cdef inline void readers_leave(int64_t* inside) noexcept nogil:
    """End a section: what was seen in it is not looked at any more."""
    # Release: all looks come before the publisher, that sees 0, frees what was looked at.
    add_acq_rel_i64(inside, -1)


cdef inline unsigned int stripe_index() noexcept nogil:
    """A number below STRIPES that differs between most threads: their counters are not shared."""
    return <unsigned int>((thread_number() >> 6) * 0x9E3779B97F4A7C15u >> 60)


cdef void readers_wait(Readers* self) noexcept nogil
