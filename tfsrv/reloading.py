"""What becomes of a change of the configuration, model by model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from tfsrv.errors import Code, ServingError

Results = Mapping[str, ServingError | None]  # by model: why it did not become available


class LabelError(ServingError):
    """A label of a model does not point to where it should; the model itself is available."""

    def __init__(self, name: str, version: int) -> None:
        # As in TensorFlow Serving's model_servers/server_core.cc, UpdateModelVersionLabelMap.
        super().__init__(
            Code.FAILED_PRECONDITION,
            f"Request to assign label to version {version} of model {name}, "
            "which is not currently available for inference",
        )


class Reloading:
    """A change that was accepted, and is being carried out. Any thread may call.

    A model's result comes when its versions are available or have failed; it is final.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """`names` are the models that there is a result to wait for."""
        self._condition = threading.Condition()
        self._open = set(names)
        self._results: dict[str, ServingError | None] = {}
        self._callbacks: list[Callable[[], object]] = []

    def set_result(self, name: str, error: ServingError | None) -> None:
        """Say what became of a model. A second word on it is not heard."""
        with self._condition:
            if name not in self._open:
                return
            self._open.discard(name)
            self._results[name] = error
            if self._open:
                return
            callbacks, self._callbacks = self._callbacks, []
            self._condition.notify_all()
        for callback in callbacks:
            callback()

    def add_result(self, name: str, error: ServingError) -> None:
        """Say what is wrong with a model that nobody has to wait for."""
        with self._condition:
            if name not in self._open:
                self._results.setdefault(name, error)

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call `callback` when all results are there, on the thread that has brought the last."""
        with self._condition:
            if self._open:
                self._callbacks.append(callback)
                return
        callback()

    def remove_done_callback(self, callback: Callable[[], object]) -> None:
        """Do not call it any more."""
        with self._condition:
            self._callbacks = [each for each in self._callbacks if each is not callback]

    def is_open(self, name: str) -> bool:
        """Whether a model's result is still to come."""
        with self._condition:
            return name in self._open

    def wait(self, timeout_seconds: float | None) -> bool:
        """Wait for all results; False when the time was too short."""
        with self._condition:
            return self._condition.wait_for(lambda: not self._open, timeout_seconds)

    def results(self) -> Results:
        """What is known by now, by name; a model whose result is to come has DEADLINE_EXCEEDED."""
        with self._condition:
            late = ServingError(
                Code.DEADLINE_EXCEEDED,
                "not all of it is available yet: it is being worked on",
            )
            return dict(sorted({**dict.fromkeys(self._open, late), **self._results}.items()))


def summary(results: Results) -> ServingError | None:
    """One error for all models that did not become available, None if all have.

    It begins as the text of TensorFlow Serving's model_servers/server_core.cc does
    (WaitUntilModelsAvailable).
    """
    failed = {name: error for name, error in results.items() if error is not None}
    if not failed:
        return None
    first = next(iter(failed.values()))
    if all(isinstance(error, LabelError) for error in failed.values()):
        return first  # what TensorFlow Serving says
    codes = {error.code for error in failed.values()}
    code = Code.DEADLINE_EXCEEDED if codes == {Code.DEADLINE_EXCEEDED} else Code.UNKNOWN
    return not_available(code, failed)


def not_available(code: Code, failed: Mapping[str, ServingError], when: str = "") -> ServingError:
    """The error that names models that did not become available, and why."""
    each = ", ".join(f"{{{name} due to error: {error}}}" for name, error in failed.items())
    return ServingError(code, f"{len(failed)} model(s) did not become available{when}: {{{each}}}")
