"""A bare socket echo on uvloop: the least that moving the same bytes both ways costs.

It knows no protocol: what comes is written back. The client in `_load.load_socket` counts bytes.

    python benchmarks/socket_echo.py --port=0
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", port)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    arguments = parser.parse_args()
    uvloop.install()
    asyncio.run(serve(arguments.port))


if __name__ == "__main__":
    main()
