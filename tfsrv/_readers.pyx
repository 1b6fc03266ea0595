"""Waiting until nobody can still see what was replaced, so that it can be freed.

Readers count themselves in and out around each look (see the .pxd, whose functions are compiled
into the readers); a publisher that has replaced what they look at waits here before it frees the
old one. Readers wait for nobody.
"""

from tfsrv._atomic cimport load_relaxed_int, load_seq_cst_i64, pause, store_relaxed_int
from tfsrv._clock cimport timespec

cdef extern from "<time.h>" nogil:
    int nanosleep(const timespec* duration, timespec* left)

cdef enum:
    SPINS = 100             # looks at a reader before the publisher sleeps; sections take 20-50 ns
    NAP_NANOSECONDS = 50_000    # for a reader that was preempted inside its section


cdef void readers_wait(Readers* self) noexcept nogil:
    """Until every reader that may have seen what was replaced before is gone.

    Each counter has to be seen at 0 once. Newcomers are sent to the other one of the pair
    meanwhile, so that a steady stream of them cannot keep a counter from coming to 0.
    """
    cdef timespec nap
    cdef int _turn, phase, stripe, looks
    nap.tv_sec = 0
    nap.tv_nsec = NAP_NANOSECONDS
    for _turn in range(2):
        phase = load_relaxed_int(&self.phase)
        store_relaxed_int(&self.phase, 1 - phase)  # a hint, see readers_enter
        for stripe in range(STRIPES):
            looks = 0
            # seq_cst: see readers_enter. As an acquire it pairs with the readers' releases.
            while load_seq_cst_i64(&self.stripes[stripe].inside[phase]) != 0:
                looks += 1
                if looks <= SPINS:
                    pause()
                else:
                    nanosleep(&nap, NULL)
