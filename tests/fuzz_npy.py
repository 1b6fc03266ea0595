"""Compare tfsrv's reading of random .npy and .npz files with numpy's, for some time.

    python tests/fuzz_npy.py --seconds 300 [--seed 1]

Half of the files are good, half are mutated: those have to be refused, or mean the same to both.
Under AddressSanitizer as fuzz_wire.py.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import npy_files


def check_one(random: Random, *, odd: bool) -> str:
    """Compare the reading of one file."""
    types = {**npy_files.NUMBERS, "S": npy_files.DT_STRING, "U": npy_files.DT_STRING}
    names = [f"input{number}" for number in range(random.choice([1, 1, 2, 3]))]
    dtypes = [random.choice(list(types)) for _ in names]
    arrays = [npy_files.random_array(random, dtype) for dtype in dtypes]
    inputs = [(name, types[dtype]) for name, dtype in zip(names, dtypes, strict=True)]
    is_npz = len(names) > 1 or random.random() < 0.5
    if is_npz:
        body = npy_files.npz(random.random() < 0.5, **dict(zip(names, arrays, strict=True)))
    else:
        body = npy_files.npy(arrays[0], random.choice([(1, 0), (2, 0), (3, 0)]))
    if odd:
        body = npy_files.mutated(random, body)
    outcome = npy_files.check_reading(body, inputs, is_npz=is_npz)
    assert odd or outcome == "read", body
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    outcomes: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + options.seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        odd = number % 2 == 0
        try:
            outcome = check_one(Random(f"{options.seed} {number}"), odd=odd)
        except Exception:
            print(f"file {number} of seed {options.seed}")
            raise
        outcomes[f"{'mutated' if odd else 'good'} {outcome}"] += 1
    print(dict(outcomes))


if __name__ == "__main__":
    main()
