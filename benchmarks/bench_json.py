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

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tfsrv._json_numbers import parse_numbers, print_numbers

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


def encoders(
    values: np.ndarray[tuple[int], np.dtype[np.float32]],
) -> dict[str, Callable[[], object]]:
    """Ways from the memory of floats to a text."""
    orjson = importlib.import_module("orjson")
    memory = values.tobytes()
    return {
        "tfsrv": lambda: print_numbers("float", memory),
        "orjson + numpy": lambda: orjson.dumps(values.tolist()),
        "json + numpy": lambda: json.dumps(values.tolist()),
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
    cases["encode"] = medians(encoders(values)), 0
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
