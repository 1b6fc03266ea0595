"""Floats as JSON texts, to and from memory: tfsrv against json and orjson with numpy.

    python benchmarks/bench_json.py      # a few seconds; needs `pip install orjson`

Prints a Markdown table of CPU time and MB/s of JSON, the medians of interleaved runs on one core.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tfsrv._json_numbers import parse_numbers
from tfsrv._json_response import write_json_predict

Floats: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"

FLOATS = 224 * 224 * 3
RUNS = 15


def decoders(text: bytes) -> dict[str, Callable[[], object]]:
    """Ways from `text`, a list in brackets, to the memory of floats."""
    orjson = importlib.import_module("orjson")
    inside = text[1:-1]
    return {
        "tfsrv": lambda: parse_numbers("float", inside, FLOATS),
        "orjson + numpy": lambda: np.array(orjson.loads(text), np.float32),
        "json + numpy": lambda: np.array(json.loads(text), np.float32),
    }


def encoders(values: Floats) -> dict[str, Callable[[], object]]:
    """Ways from the memory of an array to the answer that has it."""
    orjson = importlib.import_module("orjson")
    output = ("y", 1, values.shape, values.tobytes())
    return {
        "tfsrv": lambda: write_json_predict([output], in_rows=True),
        "orjson + numpy": lambda: orjson.dumps({"predictions": values.tolist()}),
        "json + numpy": lambda: json.dumps({"predictions": values.tolist()}),
    }


def medians(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(RUNS):
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(measured) for name, measured in times.items()}


def main() -> None:
    values = np.random.default_rng(1).random(FLOATS, dtype=np.float32)
    texts = {
        "decode 8 digits": ("[" + ", ".join(f"{value:.8f}" for value in values) + "]").encode(),
        "decode json.dumps": json.dumps(values.tolist()).encode(),
        "decode shortest": ("[" + ", ".join(map(str, values)) + "]").encode(),
    }
    cases = {name: (medians(decoders(text)), len(text)) for name, text in texts.items()}
    cases["encode"] = medians(encoders(values.reshape(1, FLOATS))), 0
    cases["encode 1×224×224×3"] = medians(encoders(values.reshape(1, 224, 224, 3))), 0
    ways = list(cases["encode"][0])
    print("| 150,528 floats |", " | ".join(ways), "|")
    print("|---|", "|".join("---:" for _ in ways), "|", sep="")
    for name, (seconds, size) in cases.items():
        cells = [
            f"{seconds[way] * 1e3:.2f} ms"
            + (f", {size / seconds[way] / 1e6:.0f} MB/s" if size else "")
            for way in ways
        ]
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
