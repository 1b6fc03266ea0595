"""A source that finds versions as directories: `<base path>/<version>/`.

It looks at each servable in turn (`watched.py` says what a look finds), every few seconds, and
at once when the system tells of a change. A look that hangs, on a file server that is gone, say,
delays no other servable.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Set

from tfsrv.core.executor import SlotExecutor
from tfsrv.core.servable import ServableId
from tfsrv.core.source import Source
from tfsrv.core.storage_path import StoragePath
from tfsrv.sources.notification import Change, DirectoryWatch
from tfsrv.sources.watched import Looked, ServableToMonitor, WatchedServable

RECHECK_SECONDS = 0.25  # until the next look at a version that was being written
SLOW_LOOK_SECONDS = 1.0  # then another thread goes on with the others
MAX_LOOKS = 1024  # at a time; each servable on a file server that is gone may take one for ever
CALM_SECONDS = 0.02  # between two looks that changes ask for: one change seldom comes alone
STOP_SECONDS = 1.0  # for a look to end; one that hangs is left behind

logger = logging.getLogger("tfsrv")


class FileSystemStoragePathSource(Source[StoragePath]):
    """Looks into each base path from time to time and tells the target what is new.

    `poll_wait_seconds` is the time between two looks: 0 looks once at each configuration, a
    negative one never. Either way a version that is still being written is looked at again soon.

    Thread-safety: all methods may be called on any thread. start() begins the threads that look;
    without them, whoever calls poll() looks.
    """

    def __init__(
        self,
        servables: Iterable[ServableToMonitor] = (),
        *,
        poll_wait_seconds: float = 1,
        servable_versions_always_present: bool = True,
        on_looked: Callable[[Looked], object] = lambda looked: None,
        notifies: bool = True,
    ) -> None:
        """`on_looked` hears of each look, after the target has heard of its versions.

        `notifies` says whether the system is asked to tell of changes between two polls.
        """
        self._poll_wait_seconds = poll_wait_seconds
        self._versions_always_present = servable_versions_always_present
        self._on_looked = on_looked
        self._notifies = notifies and poll_wait_seconds > 0
        self._condition = threading.Condition()  # for all below
        self._watched: dict[str, WatchedServable] = {}
        self._by_path: dict[str, list[str]] = {}  # base path: names
        self._due: dict[str, float] = {}  # name: when it is to be looked at
        self._queue: dict[str, None] = {}  # due, and waiting for a thread; in order
        self._has_understudy = False  # a task waits to work off the queue
        self._again: set[str] = set()  # became due while somebody looked at it
        self._looking: dict[str, WatchedServable] = {}
        self._looked_at: dict[str, float] = {}
        self._next_round = 0.0
        self._is_stopped = False
        self._emitting = threading.Lock()  # so that the target hears of looks in their order
        self._executor: SlotExecutor | None = None
        self._thread: threading.Thread | None = None
        self._notification: DirectoryWatch | None = None
        self.update(servables)

    def update(self, servables: Iterable[ServableToMonitor]) -> None:
        """Watch exactly these from now on.

        What is new or has changed is looked at at once; of what is left out, nothing is aspired
        any more. The others stay as they are.
        """
        wanted = {servable.name: servable for servable in servables}
        with self._emitting:
            with self._condition:
                removed = [name for name in self._watched if name not in wanted]
                for name in removed:
                    self._drop(name)
                for servable in wanted.values():
                    self._adopt(servable)
                left = self._index()
                self._condition.notify_all()
            for name in removed:
                self._emit(name, ())
        if self._notification is not None:
            for path in left:
                self._notification.unwatch(path)

    def look_again(self, names: Set[str]) -> None:
        """Look at some servables soon, whatever the period."""
        if self._poll_wait_seconds < 0:
            return
        with self._condition:
            self._due |= dict.fromkeys(names & self._watched.keys(), time.monotonic())
            self._condition.notify_all()

    def note_failed(self, id: ServableId) -> None:
        """A version did not load: it is wanted afresh when its files change."""
        with self._condition:
            watched = self._watched.get(id.name)
        if watched is not None:
            watched.note_failed(id.version)

    def start(self) -> None:
        if self._poll_wait_seconds < 0:
            return
        if self._notifies:
            try:
                self._notification = DirectoryWatch(self._hear)
            except OSError as error:
                logger.warning("No notification of changes (%s): polling only.", error)
        self._executor = SlotExecutor(
            "tfsrv-look", 1, slow_after_seconds=SLOW_LOOK_SECONDS, max_threads=MAX_LOOKS
        )
        self._thread = threading.Thread(
            target=self._run, name="tfsrv-file-system-source", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Look no more. Returns at once, or soon if there is a look under way."""
        with self._condition:
            self._is_stopped = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._executor is not None:
            self._executor.stop(STOP_SECONDS)
        if self._notification is not None:
            self._notification.close()

    def poll(self) -> bool:
        """Look at every servable once. Returns whether some version was still being written."""
        with self._condition:
            names = list(self._watched)
        are_changing = [self._look(name) for name in names]
        return any(are_changing)

    # -- who is to be looked at, and when

    def _adopt(self, servable: ServableToMonitor) -> None:
        known = self._watched.get(servable.name)
        if known is not None and known.servable == servable:
            return
        if known is not None:
            self._drop(servable.name)
        self._watched[servable.name] = WatchedServable(
            servable,
            versions_always_present=self._versions_always_present,
            predecessor=known,
        )
        self._due[servable.name] = 0.0

    def _drop(self, name: str) -> None:
        del self._watched[name]
        self._due.pop(name, None)
        self._looked_at.pop(name, None)

    def _index(self) -> set[str]:
        """Sort the names by base path; the base paths that nobody has any more."""
        old = self._by_path
        self._by_path = {}
        for name, watched in self._watched.items():
            self._by_path.setdefault(watched.base_path, []).append(name)
        return old.keys() - self._by_path.keys()

    def _hear(self, change: Change) -> None:
        """The system tells of a change in a base path."""
        with self._condition:
            for name in self._by_path.get(change.path, ()):
                if change.arrived:
                    self._watched[name].note_arrived(change.arrived)
                soon = self._looked_at.get(name, 0.0) + CALM_SECONDS
                self._due[name] = min(self._due.get(name, soon), soon)
            self._condition.notify_all()

    def _run(self) -> None:
        self._next_round = time.monotonic()
        with self._condition:
            while not self._is_stopped:
                now = time.monotonic()
                if self._next_round <= now:
                    self._due |= dict.fromkeys(self._watched, now)
                    period = self._poll_wait_seconds
                    self._next_round = now + period if period > 0 else float("inf")
                self._give_out(now)
                left = min([self._next_round, *self._due.values()]) - time.monotonic()
                self._condition.wait(min(max(left, 0.0), threading.TIMEOUT_MAX))

    def _give_out(self, now: float) -> None:
        """Queue those that are due, and have a thread look at them."""
        due = [name for name, at in self._due.items() if at <= now]
        for name in due:
            del self._due[name]
            self._queue[name] = None
        self._provide_understudy()

    def _provide_understudy(self) -> None:
        """See to it that somebody works off the queue, also if whoever does so now hangs."""
        if self._queue and not self._has_understudy and self._executor is not None:
            self._has_understudy = True
            self._executor.submit(self._work_off)

    def _work_off(self) -> None:
        """Look at all that are queued."""
        with self._condition:
            self._has_understudy = False
        while True:
            with self._condition:
                if self._is_stopped or not self._queue:
                    return
                name = next(iter(self._queue))
                del self._queue[name]
                self._provide_understudy()
            self._look(name)

    # -- looking

    def _look(self, name: str) -> bool:
        """Look at one servable, unless somebody does; whether some version was being written."""
        with self._condition:
            watched = self._watched.get(name)
            if watched is None:
                return False
            if self._looking.get(name) is watched:
                self._again.add(name)
                return False
            self._looking[name] = watched
        try:
            if self._notification is not None:
                self._notification.watch(watched.base_path)
            looked = watched.look()
        finally:
            with self._condition:
                if self._looking.get(name) is watched:
                    del self._looking[name]
                    if name in self._again:
                        self._again.discard(name)
                        self._due[name] = time.monotonic()
                        self._condition.notify_all()
        self._tell(watched, looked)
        return looked.is_changing

    def _tell(self, watched: WatchedServable, looked: Looked) -> None:
        name = watched.servable.name
        with self._emitting:
            with self._condition:
                if self._is_stopped or self._watched.get(name) is not watched:
                    return  # it looked for so long that its configuration has changed
                self._looked_at[name] = time.monotonic()
                if looked.is_changing:
                    self._due[name] = time.monotonic() + RECHECK_SECONDS
                    self._condition.notify_all()
            if looked.versions is not None and looked.versions != watched.emitted:
                watched.emitted = looked.versions
                self._emit(name, looked.versions)
            self._on_looked(looked)
