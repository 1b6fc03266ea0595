"""The yardstick: grpc.aio on uvloop, which sends every request's bytes back as they came.

No protobuf, no model: what is left is the price of grpcio's transport in Python.

    python benchmarks/echo_server.py --port=0
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import grpc
import grpc.aio
import uvloop

UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


class Echo(grpc.GenericRpcHandler):
    """Takes every method as unary; without serializers, grpcio hands over the bytes."""

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self.answer)

    async def answer(self, request: bytes, context: Any) -> bytes:
        return request


async def serve(port: int) -> None:
    server = grpc.aio.server(options=UNLIMITED)
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    arguments = parser.parse_args()
    uvloop.install()
    asyncio.run(serve(arguments.port))


if __name__ == "__main__":
    main()
