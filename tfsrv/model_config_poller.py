"""Reads --model_config_file again while the server runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tfsrv.config import ModelConfig
from tfsrv.core.failure import as_serving_error
from tfsrv.model_config_file import model_config_file, read_content

logger = logging.getLogger("tfsrv")


class ModelConfigPoller:
    """Calls `apply` with the models of a file whenever its content has changed.

    A file that cannot be read, or is wrong, changes nothing; that is logged once for each
    content. Thread-safety: start() begins a thread, stop() ends it.
    """

    def __init__(
        self,
        path: str,
        content: bytes,
        period_seconds: float,
        apply: Callable[[tuple[ModelConfig, ...]], object],
    ) -> None:
        """`content` is what the file had when it was read last. `apply` may raise ServingError."""
        self._path = path
        self._content = content
        self._period_seconds = period_seconds
        self._apply = apply
        self._problem = ""
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="tfsrv-model-config", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Read no more. Returns at once, or when the reading of now is over."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(1.0)  # a file server that hangs must not hold up the end

    def poll(self) -> None:
        """Read the file once. Never raises."""
        try:
            content = read_content(self._path)
            if content == self._content:
                self._problem = ""
                return
            self._content = content  # looked at once, whatever is in it
            models = model_config_file(self._path, content).models
            self._problem = ""
            if models is None:
                logger.warning("%s says nothing of models: they stay as they are", self._path)
                return
            self._apply(models)
            logger.info("%s has changed: the models are reloaded", self._path)
        except BaseException as error:  # a platform's package may call sys.exit()
            problem = f"Failed to read ModelServerConfig file: {as_serving_error(error)}"
            if problem != self._problem:
                logger.error("%s. The models stay as they are.", problem)
            self._problem = problem

    def _run(self) -> None:
        while not self._stopped.wait(self._period_seconds):
            self.poll()
