"""The same as client.py with tfsrv's own client: no TensorFlow, no tensorflow-serving-api.

    python examples/mnist/client_light.py --server=127.0.0.1:8500 --concurrency=10
    python examples/mnist/client_light.py --server=127.0.0.1:8500 --classify

Needs tfsrv and scikit-learn. Each call is a coroutine, so that no callback, no lock and no
condition is needed to have many of them under way.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Sequence

from digits import Images, held_out_digits
from tfsrv.client import AsyncClient, ClientError

SECONDS = 5.0  # for each call


async def predict(client: AsyncClient, model: str, images: Images) -> int:
    """Read one image, which is sent as a tensor."""
    answer = await client.predict(model, {"images": images}, signature="predict_images")
    return int(answer["scores"][0].argmax())


async def classify(client: AsyncClient, model: str, images: Images) -> int:
    """Read one image, which is sent as a tf.Example."""
    (classes,) = await client.classify(model, [{"image": images[0]}], signature="classify")
    return int(max(classes, key=lambda each: each.score).label)


async def send_digits(options: argparse.Namespace) -> tuple[int, Counter[str]]:
    """Send so many images, one a call; how many were read wrong, and why calls failed."""
    images, labels = held_out_digits()
    read = classify if options.classify else predict
    numbers = iter(range(options.num_tests))
    wrong = 0
    failures: Counter[str] = Counter()

    async def send_one_after_the_other(client: AsyncClient) -> None:
        nonlocal wrong
        for number in numbers:  # all senders take from the same ones
            which = number % len(images)
            try:
                digit = await read(client, options.model, images[which : which + 1])
            except ClientError as error:
                failures[str(error)] += 1
            else:
                wrong += int(digit != labels[which])

    async with AsyncClient(options.server, timeout=SECONDS, retries=0) as client:
        senders = [send_one_after_the_other(client) for _ in range(options.concurrency)]
        await asyncio.gather(*senders)
    return wrong, failures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Send digits to a server, count the errors.")
    parser.add_argument("--server", required=True, help="HOST:PORT")
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--num_tests", type=int, default=360, help="images to send")
    parser.add_argument("--concurrency", type=int, default=4, help="calls under way at once")
    parser.add_argument("--classify", action="store_true", help="tf.Examples to Classify")
    options = parser.parse_args(arguments)
    if options.num_tests < 1 or options.concurrency < 1:
        parser.error("--num_tests and --concurrency must be at least 1")

    wrong, failures = asyncio.run(send_digits(options))
    for failure, times in failures.most_common():
        print(f"{times} × {failure}", file=sys.stderr)
    print(f"Inference error rate: {(wrong + failures.total()) / options.num_tests:.1%}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
