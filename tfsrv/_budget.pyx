"""The in-flight budget: bytes that requests and answers of all connections may hold together.

Whoever is about to keep bytes that came from outside takes them from the budget first, and is
refused when it has run out; a Call's share is given back with the call (`call_charge`). One
budget for the process, counted without a lock: any thread may take and give.
"""

from libc.stdint cimport int64_t

from tfsrv._atomic cimport (
    add_relaxed_i64,
    exchange_int,
    load_relaxed_i64,
    load_relaxed_int,
    store_relaxed_i64,
    store_relaxed_int,
)

# Bytes that requests and answers of all connections hold now, against what they may hold.
cdef int64_t budget_used = 0
cdef int64_t budget_limit = 0x7FFFFFFFFFFFFFFF
cdef int budget_short = 0   # atomic; 1: somebody was refused since budget_ran_out() was asked


cdef bint budget_take(int64_t bytes) noexcept nogil:
    """Count `bytes` more as in flight; False, and nothing changed, when that is over the limit."""
    return take_up_to(bytes, load_relaxed_i64(&budget_limit))


cdef bint budget_take_low(int64_t bytes) noexcept nogil:
    """The same for what is of low priority: it leaves half of the budget to the rest."""
    return take_up_to(bytes, load_relaxed_i64(&budget_limit) // 2)


cdef inline bint take_up_to(int64_t bytes, int64_t limit) noexcept nogil:
    # Looked at first: what is far too much must not, even for a moment, take the room of others.
    if bytes <= limit - load_relaxed_i64(&budget_used):
        if add_relaxed_i64(&budget_used, bytes) + bytes <= limit:
            return True
        add_relaxed_i64(&budget_used, -bytes)
    store_relaxed_int(&budget_short, 1)
    return False


cdef void budget_give(int64_t bytes) noexcept nogil:
    add_relaxed_i64(&budget_used, -bytes)


cdef bint budget_ran_out() noexcept nogil:
    """Whether somebody was refused since this was asked the last time."""
    return load_relaxed_int(&budget_short) != 0 and exchange_int(&budget_short, 0) != 0


def set_max_in_flight_bytes(limit: int) -> None:
    """Requests and answers of all connections together may hold `limit` bytes."""
    store_relaxed_i64(&budget_limit, limit)


def take_in_flight_bytes(size: int, low: bool = False) -> bool:
    """Count `size` bytes more as in flight; False, and nothing changed, when that is over the limit.

    Of what is `low` the limit is the half.
    """
    return budget_take_low(size) if low else budget_take(size)


def give_in_flight_bytes(size: int) -> None:
    """Count `size` bytes less as in flight."""
    budget_give(size)


def in_flight_bytes() -> int:
    """Bytes that requests and answers hold now."""
    return load_relaxed_i64(&budget_used)


def max_in_flight_bytes() -> int:
    """What they may hold at the most."""
    return load_relaxed_i64(&budget_limit)
