"""What putting requests together, and taking a batch apart, costs beside memcpy of the bytes.

    python benchmarks/bench_batch_tensors.py

64 requests of 150,528 floats (an image of 224 × 224 × 3) become one batch, and a batch 64 tensors.
memcpy moves the same bytes in one call, and in 64; both its source and its target were touched
before. All take turns; for each the best of all rounds counts. The aim: at least 80 % of the
faster memcpy. Compiles its loops (_bench_batch_tensors.pyx) into a temporary folder first.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _loops import compile_loops
from _report import machine, machine_line, table, verdict
from tfsrv._proto import message_class
from tfsrv._tf import open_library

if TYPE_CHECKING:
    from collections.abc import Callable

REQUESTS = 64
FLOATS = 150_528
TURN = 5  # runs in a row: the first finds the caches full of other bytes
AIM = 0.8  # of memcpy's speed
MEMCPY = ("memcpy, one call", "memcpy, 64 calls")


def request(*, as_content: bool) -> bytes:
    """A PredictRequest of one image, all its bytes touched."""
    message: Any = message_class("tensorflow.serving.PredictRequest")()
    message.model_spec.name = "images"
    tensor = message.inputs["x"]
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=1)
    tensor.tensor_shape.dim.add(size=FLOATS)
    if as_content:
        tensor.tensor_content = b"\0\0\xc0\x3f" * FLOATS
    else:
        tensor.float_val.extend([1.5] * FLOATS)
    return bytes(message.SerializeToString())


def own_copies(data: bytes) -> list[bytes]:
    """The same request in memory of its own each time: one in the cache would be too fast."""
    return [bytes(bytearray(data)) for _ in range(REQUESTS)]


def measure(loops: Any, rounds: int) -> dict[str, int]:
    """The best nanoseconds of each case, by its name."""
    content = loops.Batch(own_copies(request(as_content=True)))
    packed = loops.Batch(own_copies(request(as_content=False)))
    copies = loops.Copies(REQUESTS, 4 * FLOATS)
    cases: dict[str, Callable[[], int]] = {
        MEMCPY[0]: copies.whole_ns,
        MEMCPY[1]: copies.pieces_ns,
        "merge of tensor_content": content.merge_ns,
        "merge of float_val": packed.merge_ns,
        "split into 64": content.split_ns,
    }
    best = {name: run() for name, run in cases.items()}
    for _ in range(rounds):
        for name, run in cases.items():
            best[name] = min(best[name], *(run() for _ in range(TURN)))
    return best


def report(best: dict[str, int]) -> str:
    """A Markdown table, each case compared with the faster memcpy."""
    size = 4 * FLOATS * REQUESTS
    reference = min(best[name] for name in MEMCPY)
    rows = []
    for name, nanoseconds in best.items():
        ratio = reference / nanoseconds
        judged = "" if name in MEMCPY else verdict(ratio >= AIM)
        speed = f"{size / nanoseconds:.1f}"
        rows.append([name, f"{nanoseconds / 1e6:.2f}", speed, f"{ratio:.0%}", judged])
    return table(["what", "ms", "GB/s", "of memcpy", f"{AIM:.0%} of it"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Merging and splitting batches beside memcpy.")
    parser.add_argument("--rounds", type=int, default=100, help="how often each takes its turn")
    arguments = parser.parse_args()
    open_library()
    with tempfile.TemporaryDirectory() as folder:
        loops = compile_loops("_bench_batch_tensors", folder)
        print(f"{REQUESTS} × {FLOATS} floats, best of {arguments.rounds} rounds:\n")
        facts = machine()
        print(report(measure(loops, arguments.rounds)))
        print(f"\n{machine_line(facts)}")


if __name__ == "__main__":
    main()
