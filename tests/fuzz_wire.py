"""Compare tfsrv's reading of random requests with Python protobuf's, for some time.

    python tests/fuzz_wire.py --seconds 300 [--seed 1] [--tensors | --responses | --inference]

PredictRequests, or with --inference requests for Classify, Regress and MultiInference. Half of the
messages are valid but odd, half are mutated. With --tensors those that can be read
are made into tensors of TensorFlow as well, and echoed. With --responses the client reads random
PredictResponses instead. Under AddressSanitizer (a build with
TFSRV_SANITIZE=address):

    LD_PRELOAD=$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \
        python tests/fuzz_wire.py --seconds 300
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import inference_wire
from tests.wire_messages import WireMaker, check_reading, check_response
from tfsrv._tensor_values import parse_predict_request


def check_tensors(data: bytes) -> None:
    """The tensors hold what was read, and their echo says the same."""
    from tfsrv._memory import live_blocks
    from tfsrv._tensor import echo_request, tensors_of_request

    inputs = parse_predict_request(data)["inputs"]
    if any(input["values"] is None for input in inputs.values()):
        return
    tensors = tensors_of_request(data)
    for alias, input in inputs.items():
        made = (tensors[alias].dtype, tensors[alias].shape, tensors[alias].values())
        assert made == (input["dtype"], input["shape"], input["values"]), data.hex()
    del tensors
    for as_content in (False, True):
        echo_request(data, as_content, splice_from=16)
    assert live_blocks() == 0, data.hex()


def check_inference(random: Random, *, odd: bool) -> str:
    """Compare the reading of one request for Classify, Regress or MultiInference."""
    maker = inference_wire.InferenceMaker(random, odd=odd)
    multi = random.random() < 0.5
    data = maker.inference_request(multi=multi)
    return inference_wire.check_reading(maker.mutated(data) if odd else data, multi=multi)


def check_predict(random: Random, *, odd: bool, with_tensors: bool) -> str:
    """Compare the reading of one PredictRequest."""
    maker = WireMaker(random, odd=odd)
    data = maker.request()
    if odd:
        data = maker.mutated(data)
    outcome = check_reading(data)
    if outcome == "read" and with_tensors:
        check_tensors(data)
    return outcome


def check_responses(random: Random, *, odd: bool) -> str:
    """Compare the client's reading of one PredictResponse."""
    maker = WireMaker(random, odd=odd)
    data = maker.response()
    return check_response(maker.mutated(data) if odd else data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--tensors", action="store_true")
    parser.add_argument("--responses", action="store_true")
    parser.add_argument("--inference", action="store_true")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    outcomes: collections.Counter[str] = collections.Counter()
    end = time.monotonic() + options.seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        random = Random(f"{options.seed} {number}")
        odd = number % 2 == 0
        try:
            if options.inference:
                outcome = check_inference(random, odd=odd)
            elif options.responses:
                outcome = check_responses(random, odd=odd)
            else:
                outcome = check_predict(random, odd=odd, with_tensors=options.tensors)
            outcomes[outcome] += 1
        except AssertionError:
            print(f"message {number} of seed {options.seed}")
            raise
    print(dict(outcomes))


if __name__ == "__main__":
    main()
