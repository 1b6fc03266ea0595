"""A SavedModel whose load waits until a test lets it go on, or fail."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tests.functional.launching import until
from tests.graphs import FLOAT, Graph


class GatedModel:
    """x [n] → y = x, in `path`/1. Its init op opens a FIFO, and so waits for the other end.

    The op wants to write into the FIFO, which works; with `fails` to read it as a file, which
    does not.
    """

    def __init__(self, path: Path, *, fails: bool = False) -> None:
        self.path = path
        self._fails = fails
        self._fifo = path.with_name(f"{path.name}.fifo")
        os.mkfifo(self._fifo)
        graph = Graph()
        x = graph.add("x", "Placeholder", dtype=FLOAT)
        graph.sign("serving_default", {"x": x}, {"y": graph.add("y", "Identity", x, T=FLOAT)})
        fifo = graph.constant("fifo", str(self._fifo))
        if fails:
            graph.add("wait", "ReadFile", fifo)
        else:
            graph.add("wait", "WriteFile", fifo, graph.constant("word", "loading"))
        init = graph.meta.signature_def["__saved_model_init_op"]
        init.outputs["__saved_model_init_op"].name = "wait"
        graph.save(path / "1")

    def open(self) -> None:
        """Let the load go on; waits until it does."""
        if self._fails:
            until(self._op_reads)
            return
        reading = os.open(self._fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            until(lambda: _read(reading) == b"loading")
        finally:
            os.close(reading)

    def _op_reads(self) -> bool:
        with suppress(OSError):  # while nobody reads
            os.close(os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK))
            return True
        return False


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 100)
    except BlockingIOError:  # the writer is there, and has not written yet
        return b""
