"""Small gRPC servers that do what a test says."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

Answer = Callable[[bytes, Any], bytes]


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, answers: dict[str, Answer]) -> None:
        self._answers = answers

    def service(self, details: Any) -> Any:
        answer = self._answers.get(details.method)
        return answer and grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def answering(
    answers: dict[str, Answer],
    *,
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
    threads: int = 4,
) -> Iterator[str]:
    """A server of these methods, from bytes to bytes; gives its address."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with ThreadPoolExecutor(threads) as pool:
        server = grpc.server(pool, options=options)
        server.add_generic_rpc_handlers((_Handler(answers),))
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
        server.start()
        try:
            yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in files."""

    certificate: Path
    key: Path

    def pem(self) -> tuple[bytes, bytes]:
        """The key and the certificate."""
        return self.key.read_bytes(), self.certificate.read_bytes()


def self_signed(folder: Path, name: str) -> Certificate:
    """A certificate that is its own root, issued to `name`; made by openssl."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", made.key, "-out", made.certificate),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
        ],
        check=True,
        capture_output=True,
    )
    return made
