"""Makes what is loaded follow what is wanted.

Sources say which versions of a servable they aspire to; the manager compares this wish with
what it has, asks its policy for the next step, and lets BasicManager carry it out. It acts when
something happens, a new wish or the end of a load, and sleeps otherwise.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tfsrv.core.aspired_version_policy import (
    Action,
    AspiredServableStateSnapshot,
    AspiredVersionPolicy,
    AvailabilityPreservingPolicy,
)
from tfsrv.core.control_thread import ControlThread
from tfsrv.core.event_bus import EventBus
from tfsrv.core.executor import Executor
from tfsrv.core.loader import Loader
from tfsrv.core.loader_harness import BEFORE_READY, LoaderHarness, State
from tfsrv.core.manager import LoadRetryOptions, Publisher
from tfsrv.core.reservations import Tracker
from tfsrv.core.servable import ServableData, ServableId, ServableState
from tfsrv.errors import Code, ServingError

Outcome = Mapping[int, ServingError | None]  # by version: why it failed, None if it is available

logger = logging.getLogger("tfsrv")


@dataclass(frozen=True)
class AspiredVersionsManagerOptions:
    policy: AspiredVersionPolicy = field(default_factory=AvailabilityPreservingPolicy)
    retry: LoadRetryOptions = field(default_factory=LoadRetryOptions)
    num_load_threads: int = 0  # 0: half of the processors, two at least
    num_unload_threads: int = 0
    tracker: Tracker | None = None  # is asked for room before each load; None: there is always room
    load_thread_niceness: int = 0  # serving goes before loading
    # Versions that are available, wanted no more, and needed until their successors are: a label
    # points to them, say. Only a policy that loads before it unloads heeds this.
    keeps: Callable[[ServableId], bool] = lambda id: False


class AspiredVersionsManager:
    """A target for loaders: loads the versions that are aspired to, unloads the others.

    Thread-safety: any thread may call set_aspired_versions, set_num_load_threads and stop. All
    else happens on the control thread, which start() begins; without it, whoever calls step()
    is the control thread.
    """

    def __init__(
        self,
        publisher: Publisher,
        event_bus: EventBus[ServableState],
        options: AspiredVersionsManagerOptions | None = None,
        *,
        load_executor: Executor | None = None,
        unload_executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_memory_freed: Callable[[], None] = lambda: None,
    ) -> None:
        options = options or AspiredVersionsManagerOptions()
        self._policy = options.policy
        self._keeps = options.keeps
        self._control = ControlThread(
            publisher,
            event_bus,
            self.step,
            retry=options.retry,
            num_load_threads=options.num_load_threads,
            num_unload_threads=options.num_unload_threads,
            load_thread_niceness=options.load_thread_niceness,
            tracker=options.tracker,
            load_executor=load_executor,
            unload_executor=unload_executor,
            clock=clock,
            on_memory_freed=on_memory_freed,
        )
        self._basic_manager = self._control.basic_manager
        self._lock = threading.Lock()  # for what others than the control thread change
        self._new_wishes: dict[str, dict[int, ServableData[Loader]]] = {}  # not looked at yet
        self._wishes: dict[str, dict[int, ServableData[Loader]]] = {}  # the control thread's
        self._waiting: dict[str, list[Callable[[Outcome], object]]] = {}
        self._new_names: set[str] = set()  # to be looked at for those who wait

    def set_aspired_versions(self, name: str, versions: Sequence[ServableData[Loader]]) -> None:
        """Replace the set of versions wanted of `name`. Loaders passed in belong to the manager.

        set_aspired_versions("a", [a1])        # load a1
        set_aspired_versions("a", [a2])        # load a2, then unload a1
        set_aspired_versions("a", [])          # unload everything of a

        A version that is there, or failed to load, stays as it is, and its new loader is dropped,
        if that has the same origin. With another origin it is loaded afresh: what is available
        stays so until then, unless the policy wants the room first.
        A version that is on its way out is loaded again when it has gone.
        """
        for version in versions:
            if version.id.name != name:
                raise ServingError(
                    Code.INVALID_ARGUMENT, f"{version.id} is no version of servable {name}"
                )
        with self._lock:
            if self._control.is_stopping:
                return
            self._new_wishes[name] = {version.id.version: version for version in versions}
        self._control.wake()

    def when_settled(self, name: str, callback: Callable[[Outcome], object]) -> None:
        """Call `callback` once, on the control thread, when the wish for `name` is settled.

        It is when each version of it is available, from where it is wanted, or has failed for
        good. A wish for nothing is settled when nothing is left. A later wish is waited for too.
        """
        with self._lock:
            self._waiting.setdefault(name, []).append(callback)
            self._new_names.add(name)
        self._control.wake()

    def set_num_load_threads(self, num_load_threads: int) -> None:
        """How many loads may run at a time from now on; 0 as in the options."""
        self._control.set_num_load_threads(num_load_threads)

    def start(self) -> None:
        self._control.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Unload everything and end all threads, as ControlThread.stop says."""
        self.begin_stop()
        return self._control.stop(timeout_seconds)

    def begin_stop(self) -> None:
        """Want nothing any more, and ignore later wishes."""
        with self._lock:
            self._control.begin_stop()
            self._new_wishes = {name: {} for name in {*self._wishes, *self._new_wishes}}

    def step(self) -> None:
        """Do all that can be done now. Called by the control thread when it was woken."""
        names = self._basic_manager.take_in()
        names |= self._give_second_chances()
        with self._lock:
            new_wishes, self._new_wishes = self._new_wishes, {}
            self._wishes |= new_wishes  # at once: begin_stop() looks at both
            new_names, self._new_names = self._new_names, set()
        for name in names | new_wishes.keys():
            try:
                self._reconcile(name)
            except Exception:
                # A policy's fault in one servable must not end the care for the others.
                logger.exception("the manager failed on servable %s", name)
        self._basic_manager.push_out()
        for name in names | new_wishes.keys() | new_names:
            self._tell_if_settled(name)
        self._control.end_round()

    def _give_second_chances(self) -> set[str]:
        """Forget that there was no room for some versions; the names of their servables."""
        names = set()
        for harness in self._basic_manager.with_room_by_now():
            names.add(harness.id.name)
            if harness.predecessor is not None:
                self._basic_manager.drop_successor(harness.predecessor)
            else:
                self._basic_manager.forget(harness)
        return names

    def _reconcile(self, name: str) -> None:
        """Bring one servable nearer to its wish."""
        wish = self._wishes.get(name, {})
        for version, harness in list(self._basic_manager.harnesses(name).items()):
            self._compare(harness, wish.get(version))
        for version, data in wish.items():
            if version not in self._basic_manager.harnesses(name):
                self._basic_manager.manage(data)
        self._follow_policy(name)
        if not wish and not self._basic_manager.harnesses(name):
            self._wishes.pop(name, None)

    def _compare(self, harness: LoaderHarness, wanted: ServableData[Loader] | None) -> None:
        """Mark, replace, give up or forget a version, as is wanted of it."""
        is_same = wanted is not None and _has_same_origin(harness, wanted)
        is_stale = wanted is not None and not is_same
        is_ready = harness.state is State.READY
        # One that has to go first, to come back from elsewhere, counts as wanted meanwhile: the
        # policy must not take it for a wish for nothing, and unload what else there is.
        goes_first = is_stale and is_ready and not self._policy.replaces_in_place
        harness.is_aspired = wanted is not None and not goes_first
        if wanted is not None and is_ready and not goes_first:
            self._replace_unless_same(harness, wanted, is_same)
        if not is_same and harness.state in BEFORE_READY:
            self._basic_manager.cancel_load(harness)
        if wanted is not None and harness.cancelled and not harness.ended:
            # Wanted again, and a load may hang for ever: another one need not wait for its end.
            self._basic_manager.abandon(harness)
        elif harness.ended and not _stays_failed(harness, wanted):
            self._basic_manager.forget(harness)

    def _replace_unless_same(
        self, harness: LoaderHarness, wanted: ServableData[Loader], is_same: bool
    ) -> None:
        successor = self._basic_manager.successor(harness)
        if successor is not None and (is_same or not _has_same_origin(successor, wanted)):
            self._basic_manager.drop_successor(harness)
            successor = self._basic_manager.successor(harness)
        if successor is not None and successor.cancelled:
            self._basic_manager.abandon(successor)
            successor = None
        if successor is None and not is_same:
            self._basic_manager.replace(harness, wanted)

    def _is_kept(self, harness: LoaderHarness) -> bool:
        in_place = self._policy.replaces_in_place
        return in_place and harness.state is State.READY and self._keeps(harness.id)

    def _tell_if_settled(self, name: str) -> None:
        with self._lock:
            if name not in self._waiting or name in self._new_wishes:
                return
        outcome = self._outcome(name)
        if outcome is None:
            return
        with self._lock:
            callbacks = self._waiting.pop(name, [])
        for callback in callbacks:
            try:
                callback(outcome)
            except Exception:
                # The fault of one who waited must not end the care for others.
                logger.exception("who waited for servable %s failed", name)

    def _outcome(self, name: str) -> Outcome | None:
        """What became of each version of the wish; None while some are on their way."""
        wish = self._wishes.get(name, {})
        harnesses = self._basic_manager.harnesses(name)
        if not wish and harnesses:
            return None
        outcome: dict[int, ServingError | None] = {}
        for version, wanted in wish.items():
            harness = harnesses.get(version)
            if harness is None:
                return None
            if harness.state is State.READY and not _has_same_origin(harness, wanted):
                successor = self._basic_manager.successor(harness)
                if successor is None or not successor.ended:
                    return None
                outcome[version] = successor.error
            elif harness.state in (State.READY, State.ERROR):
                outcome[version] = harness.error
            else:
                return None
        return outcome

    def _follow_policy(self, name: str) -> None:
        harnesses = self._basic_manager.harnesses(name)
        while harnesses:
            snapshots = [
                AspiredServableStateSnapshot(
                    harness.id, harness.state, harness.is_aspired or self._is_kept(harness)
                )
                for harness in harnesses.values()
            ]
            action = self._policy.get_next_action(snapshots)
            if action is None:
                return
            harness = harnesses[action.id.version]
            if action.action is Action.LOAD:
                self._basic_manager.load(harness)
            else:
                self._basic_manager.unload(harness)


def _has_same_origin(harness: LoaderHarness, wanted: ServableData[Loader]) -> bool:
    """Whether what is there is what is wanted. A source that has no loader now changes nothing."""
    if wanted.error is not None:
        return True
    if harness.version.error is not None:
        return False
    return harness.origin == wanted.data.origin


def _stays_failed(harness: LoaderHarness, wanted: ServableData[Loader] | None) -> bool:
    """Whether a version that ended keeps its place, so that it is not loaded again.

    One that failed to load would only fail again, unless it comes from elsewhere now. One whose
    source had no loader for it gets another chance when the source has news.
    """
    if wanted is None or harness.state is not State.ERROR:
        return False
    if harness.cancelled or harness.was_loaded:
        return False
    if harness.version.error is not None:
        return harness.version == wanted
    return _has_same_origin(harness, wanted)
