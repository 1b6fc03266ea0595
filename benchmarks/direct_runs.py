"""Threads that call TF_SessionRun and do nothing else: what the machine can do with a model.

Loads a SavedModel through TensorFlow's C API (ctypes, which lets go of the GIL during a call), runs
it from some threads at once for a while, and prints one line of JSON.

    python benchmarks/direct_runs.py MODEL/1 INPUT:0 OUTPUT:0 --threads=2 --seconds=5

The input is a vector of one float.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import statistics
import threading
import time
from pathlib import Path
from typing import Any

DT_FLOAT = 1  # tensorflow/core/framework/types.proto
# A serialized RunOptions with inter_op_thread_pool (field 3) = -1: run in the caller's thread.
IN_CALLERS_THREAD = b"\x18" + b"\xff" * 9 + b"\x01"


class Buffer(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("data_deallocator", ctypes.c_void_p),
    ]


class Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


def open_tensorflow() -> Any:
    """The library from the installed package, which is found but not imported."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        raise SystemExit("TensorFlow is not installed: pip install tensorflow-cpu")
    library = ctypes.CDLL(str(Path(spec.origin).with_name("libtensorflow_cc.so.2")))
    for name in (
        "TF_NewStatus",
        "TF_NewGraph",
        "TF_NewSessionOptions",
        "TF_LoadSessionFromSavedModel",
        "TF_GraphOperationByName",
        "TF_AllocateTensor",
        "TF_TensorData",
    ):
        getattr(library, name).restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    return library


def check(library: Any, status: ctypes.c_void_p) -> None:
    if library.TF_GetCode(status) != 0:
        raise RuntimeError(library.TF_Message(status).decode())


class Model:
    """A loaded SavedModel. Its pointers live as long as the process; any thread may call run()."""

    def __init__(self, directory: str, input_name: str, output_name: str) -> None:
        self.library = open_tensorflow()
        self.graph = ctypes.c_void_p(self.library.TF_NewGraph())
        status = ctypes.c_void_p(self.library.TF_NewStatus())
        tags = (ctypes.c_char_p * 1)(b"serve")
        self.session = ctypes.c_void_p(
            self.library.TF_LoadSessionFromSavedModel(
                ctypes.c_void_p(self.library.TF_NewSessionOptions()),
                None,
                directory.encode(),
                tags,
                1,
                self.graph,
                None,
                status,
            )
        )
        check(self.library, status)
        self.input = self.find(input_name)
        self.output = self.find(output_name)
        self.options_text = ctypes.create_string_buffer(IN_CALLERS_THREAD, len(IN_CALLERS_THREAD))
        address = ctypes.addressof(self.options_text)
        self.options = Buffer(address, len(IN_CALLERS_THREAD), None)

    def find(self, tensor_name: str) -> Output:
        name, _, index = tensor_name.rpartition(":")
        operation = self.library.TF_GraphOperationByName(self.graph, name.encode())
        if not operation:
            raise SystemExit(f"The model has no op {name}")
        return Output(operation, int(index))

    def run(self, value: float) -> float:
        """Run once in this thread; answer the first float of the output."""
        library = self.library
        status = ctypes.c_void_p(library.TF_NewStatus())
        size = (ctypes.c_int64 * 1)(1)
        given = ctypes.c_void_p(library.TF_AllocateTensor(DT_FLOAT, size, 1, ctypes.c_size_t(4)))
        ctypes.c_float.from_address(library.TF_TensorData(given)).value = value
        answers = (ctypes.c_void_p * 1)()
        library.TF_SessionRun(
            self.session,
            ctypes.byref(self.options),
            ctypes.byref(self.input),
            (ctypes.c_void_p * 1)(given.value),
            1,
            ctypes.byref(self.output),
            answers,
            1,
            None,
            0,
            None,
            status,
        )
        check(library, status)
        answer = ctypes.c_void_p(answers[0])
        number: float = ctypes.c_float.from_address(library.TF_TensorData(answer)).value
        library.TF_DeleteTensor(answer)
        library.TF_DeleteTensor(given)
        library.TF_DeleteStatus(status)
        return number


def run_for(model: Model, value: float, until: float, durations: list[float]) -> None:
    """Run until time.perf_counter() says `until`; note how long each run took."""
    while (start := time.perf_counter()) < until:
        model.run(value)
        durations.append(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="the version's directory")
    parser.add_argument("input", help="tensor name, such as serving_default_x:0")
    parser.add_argument("output", help="tensor name, such as StatefulPartitionedCall:0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--value", type=float, default=1.0)
    arguments = parser.parse_args()
    model = Model(arguments.model, arguments.input, arguments.output)
    for _ in range(3):
        model.run(arguments.value)  # the first runs build the executor and fill the allocator
    durations: list[float] = []
    start = time.perf_counter()
    threads = [
        threading.Thread(
            target=run_for, args=(model, arguments.value, start + arguments.seconds, durations)
        )
        for _ in range(arguments.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    report = {
        "runs": len(durations),
        "seconds": seconds,
        "runs_per_second": len(durations) / seconds,
        "median_run_seconds": statistics.median(durations),
        "answer": model.run(arguments.value),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
