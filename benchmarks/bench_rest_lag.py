"""How late the server's loop is while ten clients send bodies of 5 MB.

    python benchmarks/bench_rest_lag.py
    python benchmarks/bench_rest_lag.py --clients=10 --seconds=5 --rounds=5

Each client posts JSON numbers to a model that answers with as many, one request after the other,
over a connection of its own. The loop is asked once a millisecond, inside the server. Two figures:
how late it came (which counts what the machine's other processes take, these clients too), and the
processor time that it used between two looks, which is its own doing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from _report import machine, machine_line, number, table, verdict
from _servers import HERE, READY_SECONDS, free_port
from _workloads import ROOT, load_workload

BODY_BYTES = 5_000_000
ASKED_MILLIS = 2.0


def body() -> bytes:
    count = BODY_BYTES // 12
    values = np.random.default_rng(6).uniform(0, 1, count)
    return f'{{"instances": [[{", ".join(f"{value:.8f}" for value in values)}]]}}'.encode()


class Client(threading.Thread):
    """Posts until it is told to stop."""

    def __init__(self, port: int, path: str, data: bytes) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.answered = 0
        self.failure = ""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_SECONDS)
        self._path = path
        self._data = data

    def run(self) -> None:
        try:
            while not self.done.is_set():
                self._connection.request("POST", self._path, self._data)
                response = self._connection.getresponse()
                answer = response.read()
                if response.status != 200:
                    self.failure = f"{response.status}: {answer[:200]!r}"
                    return
                self.answered += 1
        except OSError as error:
            self.failure = str(error)


def ask_lag(server: subprocess.Popen[str]) -> Any:
    server.send_signal(signal.SIGUSR1)
    assert server.stdout is not None
    return json.loads(server.stdout.readline())


def wait_until_ready(port: int, path: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_SECONDS)
            connection.request("POST", path, b'{"instances": [[1.0]]}')
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit("the server does not answer")
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    facts = machine()
    workload = load_workload("identity_image")
    path = f"/v1/models/{workload.model}:predict"
    port = free_port()
    flags = [
        *(f"--port={free_port()}", f"--rest_api_port={port}", "--bind_address=127.0.0.1"),
        f"--model_name={workload.model}",
        f"--model_base_path={workload.model_base_path}",
    ]
    rows = []
    with subprocess.Popen(
        [sys.executable, str(HERE / "lag_server.py"), *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            wait_until_ready(port, path)
            data = body()
            clients = [Client(port, path, data) for _ in range(arguments.clients)]
            for client in clients:
                client.start()
            time.sleep(1.0)
            ask_lag(server)
            for _ in range(arguments.rounds):
                before = sum(client.answered for client in clients)
                time.sleep(arguments.seconds)
                lag = ask_lag(server)
                rows.append((sum(client.answered for client in clients) - before, lag))
            for client in clients:
                client.done.set()
            for client in clients:
                client.join()
            failures = [client.failure for client in clients if client.failure]
        finally:
            server.terminate()
    busy = statistics.median(lag["busy_seconds"] for _, lag in rows) * 1e3
    printed = [
        [
            str(answered),
            number(lag["mean_seconds"] * 1e3),
            number(lag["worst_seconds"] * 1e3),
            number(lag["busy_seconds"] * 1e3),
        ]
        for answered, lag in rows
    ]
    header = ["answered", "mean lag ms", "worst lag ms", "worst of its own doing ms"]
    print(table(header, printed, left=0))
    print(f"\nmedian of its own doing: {number(busy)} ms, {verdict(busy <= ASKED_MILLIS)}")
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"\n{machine_line(facts)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
