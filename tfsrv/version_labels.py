"""Where labels point to: wishes from the configuration, and what has come true of them.

A label is part of the wanted state. One whose version is available points to it at once. One
whose version is not points to its old version, if it has one, until the new one is available; a
label that never pointed anywhere is unknown until then. TensorFlow Serving refuses such labels
(model_servers/server_core.cc, UpdateModelVersionLabelMap), so that they can't be set at a start.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType

Labels = Mapping[str, int]
Servables = Mapping[str, Mapping[int, object]]

_NOTHING: Mapping[int, object] = MappingProxyType({})


class VersionLabels:
    """The labels of all models. Any thread may call.

    resolve() is asked by whoever publishes servables, so that a label and the version that it
    points to are shown at the same moment.
    """

    def __init__(self, *, allow_unavailable: bool = False) -> None:
        """With `allow_unavailable` a label that points nowhere yet may point to a version that
        is not available: requests for it are told so by the number of the version."""
        self._allow_unavailable = allow_unavailable
        self._lock = threading.Lock()
        self._wanted: dict[str, dict[str, int]] = {}
        self._effective: dict[str, dict[str, int]] = {}
        self._seen: dict[str, Mapping[int, object]] = {}  # what _effective was made for
        self._servables: Servables = {}

    def set_wanted(self, wanted: Mapping[str, Labels]) -> None:
        """Replace all wishes; they hold from the next resolve() on."""
        with self._lock:
            self._wanted = {name: dict(labels) for name, labels in wanted.items() if labels}
            self._seen.clear()

    def resolve(self, servables: Servables) -> Mapping[str, Labels]:
        """The labels that work, by model, when these versions are available.

        The mappings of versions must not change: one that was seen before means no news.
        """
        with self._lock:
            effective = {}
            for name, wanted in self._wanted.items():
                versions = servables.get(name, _NOTHING)
                old = self._effective.get(name, {})
                is_news = self._seen.get(name) is not versions
                effective[name] = self._follow(wanted, old, versions) if is_news else old
                self._seen[name] = versions
            self._effective = effective
            self._servables = servables
            return {name: labels for name, labels in effective.items() if labels}

    def effective(self, name: str) -> Labels:
        """The labels of a model that work, and what they point to."""
        with self._lock:
            return dict(self._effective.get(name, {}))

    def outstanding(self, name: str) -> Labels:
        """The labels of a model that do not point yet to where they should."""
        with self._lock:
            effective = self._effective.get(name, {})
            available = self._servables.get(name, {})
            return {
                label: version
                for label, version in self._wanted.get(name, {}).items()
                if effective.get(label) != version
                or not (self._allow_unavailable or version in available)
            }

    def is_needed(self, name: str, version: int) -> bool:
        """Whether a label that should point elsewhere still points to that version."""
        with self._lock:
            wanted = self._wanted.get(name, {})
            return any(
                target == version and wanted.get(label, version) != version
                for label, target in self._effective.get(name, {}).items()
            )

    def _follow(
        self, wanted: Labels, old: Labels, versions: Mapping[int, object]
    ) -> dict[str, int]:
        """The labels of a model that can work now."""
        new: dict[str, int] = {}
        for label, version in wanted.items():
            if version in versions:
                new[label] = version
            elif label in old:
                new[label] = old[label]
            elif self._allow_unavailable:
                new[label] = version
        return new
