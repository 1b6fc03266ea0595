"""Where labels point to: wishes from the configuration, and what has come true of them.

A label is part of the wanted state. One whose version is available points to it at once. One
whose version is not points to its old version, if it has one, until the new one is available; a
label that never pointed anywhere is unknown until then. TensorFlow Serving refuses such labels
(model_servers/server_core.cc, UpdateModelVersionLabelMap), so that they can't be set at a start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

Labels = Mapping[str, int]


class VersionLabels:
    """The labels of all models. Any thread may call.

    `is_available(name, version)` tells what requests can reach, `publish` is given all labels
    that work, by model, whenever they change.
    """

    def __init__(
        self,
        is_available: Callable[[str, int], bool],
        publish: Callable[[Mapping[str, Labels]], object],
        *,
        allow_unavailable: bool = False,
    ) -> None:
        """With `allow_unavailable` a label that points nowhere yet may point to a version that
        is not available: requests for it are told so by the number of the version."""
        self._is_available = is_available
        self._publish = publish
        self._allow_unavailable = allow_unavailable
        self._lock = threading.Lock()  # held while publishing: the last one to change wins
        self._wanted: dict[str, dict[str, int]] = {}
        self._effective: dict[str, dict[str, int]] = {}

    def set_wanted(self, wanted: Mapping[str, Labels]) -> None:
        """Replace all wishes. Labels that nobody wishes for any more are gone at once."""
        with self._lock:
            self._wanted = {name: dict(labels) for name, labels in wanted.items() if labels}
            effective = {name: self._follow(name) for name in self._wanted}
            self._show(effective)

    def update(self, name: str) -> None:
        """A version of a model has become available."""
        with self._lock:
            if name in self._wanted:
                self._show({**self._effective, name: self._follow(name)})

    def effective(self, name: str) -> Labels:
        """The labels of a model that work, and what they point to."""
        with self._lock:
            return dict(self._effective.get(name, {}))

    def outstanding(self, name: str) -> Labels:
        """The labels of a model that do not point yet to where they should."""
        with self._lock:
            effective = self._effective.get(name, {})
            return {
                label: version
                for label, version in self._wanted.get(name, {}).items()
                if effective.get(label) != version
                or not (self._allow_unavailable or self._is_available(name, version))
            }

    def _follow(self, name: str) -> dict[str, int]:
        """The labels of a model that can work now."""
        old = self._effective.get(name, {})
        new: dict[str, int] = {}
        for label, version in self._wanted[name].items():
            if self._is_available(name, version):
                new[label] = version
            elif label in old:
                new[label] = old[label]
            elif self._allow_unavailable:
                new[label] = version
        return new

    def _show(self, effective: dict[str, dict[str, int]]) -> None:
        effective = {name: labels for name, labels in effective.items() if labels}
        if effective != self._effective:
            self._effective = effective
            self._publish(effective)
