"""SavedModels whose load, or whose runs, wait until a test lets them go on."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path

from tests.functional.launching import until
from tests.graphs import FLOAT, STRING, Graph, gated_graph


class GatedModel:
    """x [n] → y = x, in `path`/1, whose load waits for open() (tests/graphs.py, gated_graph)."""

    def __init__(self, path: Path, *, fails: bool = False) -> None:
        self.path = path
        self._fails = fails
        self._fifo = path.with_name(f"{path.name}.fifo")
        os.mkfifo(self._fifo)
        gated_graph(self._fifo, fails=fails).save(path / "1")

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


class GatedRuns:
    """A model whose runs wait until a test lets them go on, or leave a trace.

    `serving_default`: path [] string → y [] string, the same, after "ran" was written into the
    file of that path. `fast`: x [n] → y = x, of the same model.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = itertools.count()
        graph = Graph()
        file = graph.add("path", "Placeholder", dtype=STRING)
        graph.add("write", "WriteFile", file, graph.constant("word", "ran"))
        y = graph.add("y", "Identity", file, "^write", T=STRING)
        signature = graph.sign("serving_default", {"path": file}, {"y": y})
        signature.inputs["path"].dtype = signature.outputs["y"].dtype = STRING
        x = graph.add("x", "Placeholder", dtype=FLOAT)
        graph.sign("fast", {"x": x}, {"y": graph.add("z", "Identity", x, T=FLOAT)})
        graph.save(path / "1")

    def gate(self) -> Gate:
        """For a run that waits until the gate is opened."""
        return Gate(self._new("gate"))

    def witness(self) -> Path:
        """For a run that does not wait: there will be a file."""
        return self._new("witness")

    def _new(self, kind: str) -> Path:
        return self.path.with_name(f"{self.path.name}-{kind}-{next(self._count)}")


class Gate:
    """A FIFO that a run writes into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    def open(self) -> None:
        """Let the run go on, as soon as it is here; waits until it does."""
        reading = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            until(lambda: _read(reading) == b"ran")
        finally:
            os.close(reading)


class NeedsRoom:
    """x [n] → y = x, in `path`/1. Its load writes a word into a file, for which there may be room.

    A full disk is an error that may go away by itself, so that the load is tried again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.with_name(f"{path.name}.file")
        self._file.symlink_to("/dev/full")
        graph = Graph()
        x = graph.add("x", "Placeholder", dtype=FLOAT)
        graph.sign("serving_default", {"x": x}, {"y": graph.add("y", "Identity", x, T=FLOAT)})
        graph.add(
            "write",
            "WriteFile",
            graph.constant("file", str(self._file)),
            graph.constant("word", "loading"),
        )
        init = graph.meta.signature_def["__saved_model_init_op"]
        init.outputs["__saved_model_init_op"].name = "write"
        graph.save(path / "1")

    def make_room(self) -> None:
        other = self._file.with_suffix(".other")
        other.symlink_to("/dev/null")
        other.rename(self._file)
