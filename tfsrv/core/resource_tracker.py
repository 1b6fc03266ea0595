"""Who has reserved how much of what there is.

tracker = ResourceTracker({RAM: 1000})
tracker.reserve("a", {RAM: 400})    # True
tracker.reserve("b", {RAM: 700})    # False: only 600 are left
tracker.correct("a", {RAM: 900})    # it took more than it had said
tracker.release("a")
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from types import MappingProxyType

from tfsrv.core.resources import Resource, ResourceAllocation, add, fits, subtract
from tfsrv.errors import Code, ServingError


class ResourceTracker:
    """Keeps the sum of what is reserved within a total.

    reserve() never lets the sum of a resource rise above the total. correct() may: what is in
    memory is there, whatever had been estimated. Then there is too much in use, free() is 0,
    and every reserve() that asks for some of that resource fails until enough is released.

    Thread-safety: any thread may call.
    """

    def __init__(self, total: ResourceAllocation) -> None:
        """What there is. A resource that is not named is without limit."""
        _check_amounts(total)
        self._total = MappingProxyType(dict(total))
        self._lock = threading.Lock()
        self._reserved: dict[Hashable, ResourceAllocation] = {}
        self._used: dict[Resource, int] = {}  # their sum

    @property
    def total(self) -> ResourceAllocation:
        return self._total

    def reserve(self, key: Hashable, allocation: ResourceAllocation) -> bool:
        """Set `allocation` aside for `key` if it fits into what is free; else change nothing.

        A key that has a reservation exchanges it. Raises INVALID_ARGUMENT for amounts below 0.
        """
        _check_amounts(allocation)
        with self._lock:
            used_by_others = subtract(self._used, self._reserved.get(key, {}))
            if not fits(allocation, subtract(self._total, used_by_others)):
                return False
            self._exchange(key, allocation)
            return True

    def could_fit(self, allocation: ResourceAllocation) -> bool:
        """Whether there would be room if nobody else had anything."""
        return fits(allocation, self._total)

    def correct(self, key: Hashable, allocation: ResourceAllocation) -> None:
        """Note what `key` really takes, in place of what was reserved, if anything was.

        Never refused, see above. Raises INVALID_ARGUMENT for amounts below 0.
        """
        _check_amounts(allocation)
        with self._lock:
            self._exchange(key, allocation)

    def release(self, key: Hashable) -> None:
        """Give back all that `key` has. Nothing happens if it has nothing."""
        with self._lock:
            self._exchange(key, {})

    def used(self) -> dict[Resource, int]:
        """The sum of what is reserved; may be above the total, see above."""
        with self._lock:
            return dict(self._used)

    def free(self) -> dict[Resource, int]:
        """What can still be reserved of each limited resource."""
        with self._lock:
            return subtract(self._total, self._used)

    def _exchange(self, key: Hashable, allocation: ResourceAllocation) -> None:
        """Under the lock."""
        others = subtract(self._used, self._reserved.pop(key, {}))
        if allocation:
            self._reserved[key] = dict(allocation)
        self._used = {
            resource: amount for resource, amount in add(others, allocation).items() if amount
        }


def _check_amounts(allocation: ResourceAllocation) -> None:
    for resource, amount in allocation.items():
        if amount < 0:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"{amount} of {resource.kind} on {resource.device} is no amount",
            )
