"""What reading, tensors and writing cost, in nanoseconds: the median of interleaved runs.

    python benchmarks/bench_wire.py

Compiles its loops (_bench_wire.pyx) into a temporary folder first.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _loops import compile_loops
from tfsrv._proto import message_class
from tfsrv._tf import open_library

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 9
SPLICE_FROM = 65536  # bytes
RUN_NS = 30_000_000  # about as long is one run


def request(inputs: int, floats: int, *, content: bool = False, texts: int = 0) -> bytes:
    message: Any = message_class("tensorflow.serving.PredictRequest")()
    message.model_spec.name = "half_plus_two"
    message.model_spec.signature_name = "serving_default"
    for i in range(inputs):
        tensor = message.inputs["x" if inputs == 1 else f"input_{i}"]
        tensor.dtype = 7 if texts else 1
        tensor.tensor_shape.dim.add(size=1)
        tensor.tensor_shape.dim.add(size=texts or floats)
        if texts:
            tensor.string_val.extend([b"a text of thirty-two characters."] * texts)
        elif content:
            tensor.tensor_content = bytes(4 * floats)
        else:
            tensor.float_val.extend([1.5] * floats)
    return bytes(message.SerializeToString())


def main() -> None:
    open_library()
    with tempfile.TemporaryDirectory() as folder:
        loops = compile_loops("_bench_wire", folder)
        requests = {
            "half_plus_two": request(1, 1),
            "4 × 100 floats": request(4, 100),
            "8 strings": request(1, 0, texts=8),
            "150,528 floats, content": request(1, 150_528, content=True),
        }
        cases: dict[str, Callable[[int], float]] = {}
        for name, data in requests.items():
            cases[f"parse {name}"] = partial(loops.parse_ns, data)
            cases[f"tensors {name}"] = partial(loops.tensors_ns, data)
        for outputs, floats in ((1, 1), (4, 100), (1, 150_528)):
            cases[f"write {outputs} × {floats} floats"] = partial(
                loops.write_ns, outputs, bytes(4 * floats), SPLICE_FROM
            )
        times = {name: max(10, int(RUN_NS / max(1.0, run(100)))) for name, run in cases.items()}
        results: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(RUNS):
            for name, run in cases.items():
                results[name].append(run(times[name]))
        for name, measured in results.items():
            print(f"{name:36} {statistics.median(measured):10.0f} ns   (least {min(measured):.0f})")


if __name__ == "__main__":
    main()
