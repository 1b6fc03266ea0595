"""How one version gets into memory and out of it again.

A loader is made cheaply, for every version that is wanted; nothing happens before load().
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from tfsrv.core.resources import ResourceAllocation


class Loader(ABC):
    """The life of one version's servable. Methods are called on threads that may block.

    The order is: load, warm_up, servable (any number of times), quiesce, unload. A load that
    raised has cleaned up after itself, and may be called again; unload follows each load that did
    not raise, exactly once, and never while a request still holds the servable.
    """

    @property
    def origin(self) -> object:
        """What the servable is made of, such as a path.

        Two loaders of one version are interchangeable when their origins are equal. When a wish
        names a version with another origin than what is there, it is loaded afresh.
        """
        return None

    def estimate_resources(self) -> ResourceAllocation:
        """What the servable will take, before it is loaded; once it is, what it takes.

        Nothing is reserved for a servable that does not tell. May look at files.
        """
        return {}

    @abstractmethod
    def load(self) -> None:
        """Build the servable, or raise; `tfsrv.core.failure` tells what is tried again."""

    def warm_up(self) -> None:  # noqa: B027 - a hook: most servables need nothing here
        """Called after load and before the first request. Raising makes the load a failure."""

    @abstractmethod
    def servable(self) -> object:
        """What requests get; the same object from load to unload."""

    def quiesce(self) -> None:  # noqa: B027 - a hook: where requests do not wait for each other
        """No new request comes: let none of those that hold the servable wait for others.

        Called before the wait for their end; some may have found the servable and begin only now.
        """

    @abstractmethod
    def unload(self) -> None:
        """Free all that load took."""

    def cancel(self) -> None:  # noqa: B027 - optional: not all servables can
        """End what still runs on the servable, with CANCELLED.

        The last resort at a stop, and the end of the warm-up of a version that was given up. May
        come on any thread, more than once, beside load, warm_up and unload; without a servable it
        does nothing.
        """
