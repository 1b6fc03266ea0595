"""Read random JSON bodies for some time, and compare with json, numpy and a reference in Python.

    python tests/fuzz_json.py --seconds 300 [--seed 1]

A third of the bodies is valid, a third mutated, and a third noise of JSON's own tokens. Valid ones
mean what json and numpy say; of the others the reading or the error is that of
tests/json_reference.py, and what the readers of requests write is what protobuf takes. Under
AddressSanitizer (a build with TFSRV_SANITIZE=address):

    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)" \
        ASAN_OPTIONS=detect_leaks=0 python tests/fuzz_json.py --seconds 300
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import json_reference
from tests.json_bodies import DTYPES, PIECES, BodyMaker, check_body, read_request
from tfsrv._json_document import parse_json
from tfsrv._json_inference_request import read_inference
from tfsrv._proto import message_class
from tfsrv.errors import ServingError

ClassificationRequest = message_class("tensorflow.serving.ClassificationRequest")
WORDS = [
    *PIECES,
    *(b'"instances":', b'"inputs":', b'"x":', b'"examples":', b'"context":', b'"signature_name":'),
    *(b"[", b"]", b"{", b"}", b",", b"1", b"-1.5", b'"a"', b" "),
]


def noise(random: Random) -> bytes:
    """Tokens in any order, as the members of an object."""
    start = random.choice([b"{", b'{"instances":[', b'{"inputs":{"x":', b'{"examples":[{"x":'])
    body = start + b"".join(random.choices(WORDS, k=random.randrange(1, 30)))
    return body + random.choice([b"", b"}", b"]}", b"}}", b"}]}"])


def check_any(body: bytes, inputs: dict[str, int]) -> str:
    """Compare the reading of a body that may be anything. What came of it."""
    try:
        expected = repr(json_reference.read(body))
    except json_reference.Refused as error:
        expected = str(error)
    try:
        found = repr(parse_json(body))
    except ServingError as error:
        found = error.message
    assert found == expected or not body, body
    outcome = "no json" if found.startswith("JSON Parse error") else "refused"
    with suppress(ServingError):
        read_request(body, inputs)
        outcome = "read"
    with suppress(ServingError):
        wire = read_inference(body)
        if is_utf8(body):  # names of features are as they came, and protobuf wants UTF-8
            ClassificationRequest.FromString(wire)
        outcome = "examples"
    return outcome


def is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def check(random: Random, kind: int) -> str:
    maker = BodyMaker(random)
    body, inputs = maker.body()
    if kind == 0:
        check_body(body, inputs)
        return "valid"
    if kind == 1:
        return check_any(maker.mutated(body), inputs)
    return check_any(noise(random), {"x": random.choice(DTYPES)})


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
        try:
            outcomes[check(Random(f"{options.seed} {number}"), number % 3)] += 1
        except Exception:
            print(f"body {number} of seed {options.seed}")
            raise
    print(dict(outcomes))


if __name__ == "__main__":
    main()
