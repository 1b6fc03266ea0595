"""Hears from the system when something comes into a directory, or leaves it.

With inotify(7), for directories on this machine's own file systems. Notification only makes looks
come sooner: what it misses (links that change, changes made by other machines, a queue that
overflows) is seen at the next poll.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass

import inotify_simple  # type: ignore[import-untyped]
from inotify_simple import flags

# The library looks for the C library by running ldconfig or a compiler; a process with TensorFlow
# open must not fork, and this one has the C library open.
inotify_simple._libc = ctypes.CDLL(None, use_errno=True)

MASK = (
    flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
)
GONE = flags.DELETE_SELF | flags.MOVE_SELF | flags.IGNORED | flags.UNMOUNT

logger = logging.getLogger("tfsrv")


@dataclass(frozen=True)
class Change:
    """Something happened in the directory `path`.

    `arrived` is the name of a directory that was renamed into it, whole, and else "".
    """

    path: str
    arrived: str = ""


class DirectoryWatch:
    """Calls `on_change`, on a thread of its own, when directories that it watches change.

    Thread-safety: any thread may call watch() and unwatch(), which may block on the file system.
    """

    def __init__(self, on_change: Callable[[Change], object]) -> None:
        """Raises OSError when the system has no inotify, or no more of it."""
        self._on_change = on_change
        self._inotify = inotify_simple.INotify()
        self._wakeup_read, self._wakeup_write = os.pipe()
        self._poll = select.poll()
        for descriptor in (self._inotify.fileno(), self._wakeup_read):
            self._poll.register(descriptor, select.POLLIN)
        self._lock = threading.Lock()
        self._paths: dict[int, set[str]] = {}  # by watch; links may lead to the same directory
        self._watches: dict[str, tuple[int, tuple[int, int]]] = {}  # path: watch, device and inode
        self._is_closed = False
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="tfsrv-notify", daemon=True)
        self._thread.start()

    def watch(self, path: str) -> None:
        """Hear of changes in `path`, if it is a directory now. Again: see that it is the same."""
        try:
            stat = os.stat(path)
        except OSError:
            self.unwatch(path)
            return
        identity = (stat.st_dev, stat.st_ino)
        with self._lock:
            watched = self._watches.get(path)
            if self._is_closed or (watched is not None and watched[1] == identity):
                return
            self._forget(path)
        try:
            watch = self._inotify.add_watch(path, MASK)  # not under the lock: it may hang
        except (OSError, ValueError) as error:  # ValueError: it was closed meanwhile
            self._complain(error)
            return
        with self._lock:
            if not self._is_closed:
                self._watches[path] = (watch, identity)
                self._paths.setdefault(watch, set()).add(path)

    def unwatch(self, path: str) -> None:
        with self._lock:
            if not self._is_closed:
                self._forget(path)

    def close(self) -> None:
        """End the thread, and hear no more."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        os.close(self._wakeup_write)
        self._thread.join()
        os.close(self._wakeup_read)
        self._inotify.close()

    def _forget(self, path: str) -> None:
        watched = self._watches.pop(path, None)
        if watched is None:
            return
        paths = self._paths[watched[0]]
        paths.discard(path)
        if not paths:
            del self._paths[watched[0]]
            with contextlib.suppress(OSError):  # the directory has gone, and its watch with it
                self._inotify.rm_watch(watched[0])

    def _complain(self, error: OSError | ValueError) -> None:
        """Say that there will be no notification, if that is not the fault of the path."""
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.ENOMEM) and not self._complained:
            self._complained = True
            logger.warning(
                "No notification of changes for some models (%s): they are only polled."
                " fs.inotify.max_user_watches may be too low.",
                error,
            )

    def _run(self) -> None:
        while True:
            self._poll.poll()
            if self._is_closed:
                return
            for change in self._changes(self._inotify.read(timeout=0)):
                try:
                    self._on_change(change)
                except Exception:
                    logger.exception("a change of %s was lost", change.path)

    def _changes(self, events: list[inotify_simple.Event]) -> list[Change]:
        changes: dict[Change, None] = {}  # in order, each once
        with self._lock:
            for event in events:
                if event.mask & flags.Q_OVERFLOW:
                    changes.update((Change(path), None) for path in self._watches)
                    continue
                arrived = event.name if event.mask & flags.MOVED_TO else ""
                for path in sorted(self._paths.get(event.wd, ())):
                    changes[Change(path, arrived)] = None
                    if event.mask & GONE:
                        self._forget(path)
        return list(changes)
