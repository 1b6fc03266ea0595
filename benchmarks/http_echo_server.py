"""The yardstick of REST: the least that Python needs to answer HTTP, or to serve a model over it.

An asyncio.Protocol on uvloop that looks for the end of the head and for Content-Length, and nothing
else of HTTP. It sends each body back as it came; with --model_base_path it serves that model as
people do who write a server in an afternoon: json.loads, tf.saved_model.load, json.dumps.

    python benchmarks/http_echo_server.py --port=0
    python benchmarks/http_echo_server.py --model_base_path=DIR --port=0
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvloop

VERSION = 1
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

Answerer = Callable[[bytes], bytes]


class Connection(asyncio.Protocol):
    """Whole requests only; what is wrong with one is not looked at."""

    def __init__(self, answer: Answerer) -> None:
        self.answer = answer
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's has another base

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self.received, 0, end + 2)
            last = end + 4 + (int(length[1]) if length else 0)
            if len(self.received) < last:
                return
            body = self.answer(bytes(self.received[end + 4 : last]))
            self.transport.write(HEAD % len(body) + body)
            del self.received[:last]


def echo(body: bytes) -> bytes:
    return body


def model(base_path: str) -> Answerer:
    """Predict in rows on the model's default signature, which has one input and one output."""
    import numpy as np
    import tensorflow as tf

    loaded = tf.saved_model.load(str(Path(base_path) / str(VERSION)))
    signature = loaded.signatures["serving_default"]
    ((alias, spec),) = signature.structured_input_signature[1].items()
    dtype = spec.dtype.as_numpy_dtype

    def answer(body: bytes) -> bytes:
        rows = np.array(json.loads(body)["instances"], dtype)
        (output,) = signature(**{alias: tf.constant(rows)}).values()
        return json.dumps({"predictions": output.numpy().tolist()}).encode()

    return answer


async def serve(answer: Answerer, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(answer), "127.0.0.1", port)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model_base_path", default="", help="none: send bodies back")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    arguments = parser.parse_args()
    answer = model(arguments.model_base_path) if arguments.model_base_path else echo
    uvloop.install()
    asyncio.run(serve(answer, arguments.port))


if __name__ == "__main__":
    main()
