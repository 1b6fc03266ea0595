"""The client's own connections, against servers that are lawful, odd, or broken."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.integration.raw_http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Peer,
    answer,
    fields,
    frame,
    message,
    scripted,
)
from tfsrv.client import ClientError, Code
from tfsrv.client.direct import DirectTransport, _fields, _timeout, address_of

pytest.importorskip("hpack")

SECONDS = 30
PATH = "/s/M"


def transport(address: str) -> DirectTransport:
    found = address_of(address)
    assert found is not None
    return DirectTransport(found)


def ask(
    client: DirectTransport, request: bytes = b"hello", timeout: float | None = SECONDS
) -> bytes:
    return client.call(PATH, request, timeout, ())


def failure(client: DirectTransport, **options: Any) -> tuple[Code, str]:
    with pytest.raises(ClientError) as caught:
        ask(client, **options)
    return caught.value.code, caught.value.message


def echo(peer: Peer) -> None:
    """Answers every request with itself."""
    while True:
        stream, request = peer.read_request()
        peer.send(answer(stream, request))


def once(make: Callable[[int], bytes]) -> Callable[[Peer], None]:
    """Answers one request with the bytes made for its stream, and leaves."""

    def script(peer: Peer) -> None:
        stream, _ = peer.read_request()
        peer.send(make(stream))

    return script


def first(make: Callable[[int], bytes]) -> Callable[[Peer], None]:
    """The same, and echoes further requests; leaves if there are no bytes."""

    def script(peer: Peer) -> None:
        stream, _ = peer.read_request()
        data = make(stream)
        peer.send(data)
        if data:
            echo(peer)

    return script


def test_one_connection_serves_one_call_after_the_other() -> None:
    connections = []

    def counted(peer: Peer) -> None:
        connections.append(peer)
        echo(peer)

    with scripted(counted) as address:
        client = transport(address)
        for number in range(50):
            assert ask(client, b"%d" % number) == b"%d" % number
        client.close()
    assert len(connections) == 1
    streams = [stream for kind, _, stream, _ in connections[0].seen if kind == HEADERS]
    assert streams == list(range(1, 101, 2))


def test_calls_at_once_have_a_connection_each() -> None:
    barrier = threading.Barrier(4, timeout=SECONDS)

    def together(peer: Peer) -> None:
        stream, request = peer.read_request()
        barrier.wait()
        peer.send(answer(stream, request))
        echo(peer)

    with scripted(together) as address:
        client = transport(address)
        answers: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: answers.append(ask(client, b"x"))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [b"x"] * 4
        assert ask(client) == b"hello"
        client.close()


def test_a_request_has_the_headers_of_grpc() -> None:
    import hpack

    seen: list[Any] = []

    def script(peer: Peer) -> None:
        peer.read_request()
        seen.extend(content for kind, _, _, content in peer.seen if kind == HEADERS)
        peer.send(answer(1, b""))

    with scripted(script) as address:
        client = transport(address)
        client.call(PATH, b"", 2.0, [("tenant", "a"), ("key-bin", b"\0\xff")])
        client.close()
    found: dict[Any, Any] = dict(hpack.Decoder().decode(seen[0]))
    assert 0 < int(found.pop("grpc-timeout").removesuffix("u")) <= 2_000_000
    assert found.pop("user-agent").startswith("tfsrv-client/")
    assert found == {
        ":method": "POST", ":scheme": "http", ":path": PATH, ":authority": address,
        "te": "trailers", "content-type": "application/grpc", "tenant": "a", "key-bin": "AP8",
    }  # fmt: skip


def test_an_answer_may_come_in_any_pieces() -> None:
    def bytewise(peer: Peer) -> None:
        stream, request = peer.read_request()
        for byte in answer(stream, request):
            peer.send(bytes([byte]))

    with scripted(bytewise) as address:
        assert ask(transport(address), b"0123456789") == b"0123456789"


def test_frames_may_be_padded_split_and_strange() -> None:
    def odd(stream: int) -> bytes:
        block = fields(status="200", content_type="application/grpc")
        padded = b"\x03" + b"\0\0\0\0\x10" + block[:5] + b"\0\0\0"
        content = message(b"hello")
        last = fields(grpc_status="0")
        return (
            frame(HEADERS, END_HEADERS, stream, fields(status="103"))
            + frame(HEADERS, PADDED | PRIORITY, stream, padded)
            + frame(CONTINUATION, 0, stream, block[5:7])
            + frame(CONTINUATION, END_HEADERS, stream, block[7:])
            + frame(99, 0xFF, stream, b"later")
            + frame(2, 0, stream, b"\0\0\0\0\x10")
            + frame(DATA, PADDED, stream, b"\x02" + content[:3] + b"\0\0")
            + frame(DATA, 0, stream + 2, b"of nobody")
            + frame(DATA, 0, stream)
            + frame(DATA, 0, stream, content[3:])
            + frame(HEADERS, END_STREAM, stream, last[:1])
            + frame(CONTINUATION, END_HEADERS, stream, last[1:])
        )

    with scripted(once(odd)) as address:
        assert ask(transport(address)) == b"hello"


def test_settings_and_pings_are_acknowledged() -> None:
    def script(peer: Peer) -> None:
        peer.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)))
        stream, request = peer.read_request()
        peer.send(frame(PING, 0, 0, b"12345678"))
        _, flags, _, content = peer.read_until(PING)
        assert (flags, content) == (ACK, b"12345678")
        assert [flags for kind, flags, _, _ in peer.seen if kind == SETTINGS] == [0, ACK]
        peer.send(answer(stream, request))

    with scripted(script) as address:
        assert ask(transport(address)) == b"hello"


@pytest.mark.parametrize(
    ("window", "frame_size"), [(0, 16384), (10, 16384), (70_000, 20_000), (1 << 20, 1 << 20)]
)
def test_a_large_request_waits_for_the_windows_of_the_server(window: int, frame_size: int) -> None:
    request = Random(1).randbytes(300_000)

    def script(peer: Peer) -> None:
        settings = struct.pack(">HIHI", 4, window, 5, frame_size)
        peer.send(frame(SETTINGS, 0, 0, settings))
        stream, small = peer.read_request()
        peer.send(answer(stream, small))
        peer.read_until(HEADERS)
        content = b""
        of_stream, of_all = window, 65_535 - len(message(small))
        while True:
            more = struct.pack(">I", 7_000)
            peer.send(frame(WINDOW_UPDATE, 0, 3, more) + frame(WINDOW_UPDATE, 0, 0, more))
            of_stream += 7_000
            of_all += 7_000
            _, flags, stream, part = peer.read_until(DATA)
            content += part
            of_stream -= len(part)
            of_all -= len(part)
            assert stream == 3
            assert min(of_stream, of_all) >= 0
            assert len(part) <= frame_size
            if flags & END_STREAM:
                break
        assert content == message(request)
        peer.send(answer(stream, b"done"))

    with scripted(script) as address:
        client = transport(address)
        ask(client)
        assert ask(client, request) == b"done"


def test_an_empty_request_waits_for_a_window_too() -> None:
    def script(peer: Peer) -> None:
        peer.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 3)))
        stream, request = peer.read_request()
        peer.send(answer(stream, request))
        peer.read_until(HEADERS)
        peer.send(frame(WINDOW_UPDATE, 0, 3, struct.pack(">I", 2)))
        _, flags, stream, content = peer.read_until(DATA)
        assert (flags, stream, content) == (END_STREAM, 3, message(b""))
        peer.send(answer(stream, b"done"))

    with scripted(script) as address:
        client = transport(address)
        ask(client)
        assert ask(client, b"") == b"done"


def test_an_error_that_comes_before_all_was_sent_ends_the_call() -> None:
    def script(peer: Peer) -> None:
        peer.read_until(DATA)
        refusal = fields(status="200", grpc_status="8", grpc_message="too much%21 %E2%82%AC")
        peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, refusal))
        peer.read_until(-1)

    with scripted(script, echo) as address:
        client = transport(address)
        told = failure(client, request=bytes(10_000_000))
        assert told == (Code.RESOURCE_EXHAUSTED, "too much! €")
        assert ask(client) == b"hello"
        client.close()


@pytest.mark.parametrize(
    ("make", "code", "text"),
    [
        (lambda s: frame(RST_STREAM, 0, s, b"\0\0\0\x08"), Code.CANCELLED, "has reset the call"),
        (lambda s: frame(RST_STREAM, 0, s, b"\0\0\0\x0b"), Code.RESOURCE_EXHAUSTED, "reset"),
        (lambda s: frame(RST_STREAM, 0, s, b"\0\0\0\x01"), Code.INTERNAL, "HTTP/2 error 1"),
        (lambda s: b"", Code.UNAVAILABLE, "has closed the connection"),
        (
            lambda s: b"HTTP/1.1 400 Bad Request\r\n\r\n",
            Code.INTERNAL,
            "answers in HTTP/1, not gRPC",
        ),
        (lambda s: b"\xff\xff\xff" + bytes(6), Code.INTERNAL, "frame that is too long"),
        (lambda s: frame(PUSH_PROMISE, 4, s, bytes(4)), Code.INTERNAL, "has pushed something"),
        (lambda s: frame(CONTINUATION, 4, s, b""), Code.INTERNAL, "half a header block"),
        (lambda s: frame(HEADERS, 0, s) + frame(DATA, 0, s), Code.INTERNAL, "half a header block"),
        (lambda s: frame(HEADERS, 4, s, b"\xff"), Code.INTERNAL, "bad headers"),
        (lambda s: frame(HEADERS, 12, s, b"\x05ab"), Code.INTERNAL, "padding that is too long"),
        (lambda s: frame(HEADERS, 12, s, b""), Code.INTERNAL, "padding that is too long"),
        (lambda s: frame(HEADERS, 36, s, b"ab"), Code.INTERNAL, "padding that is too long"),
        (lambda s: frame(DATA, PADDED, s, b"\x01"), Code.INTERNAL, "padding that is too long"),
        (lambda s: frame(DATA, PADDED, s, b""), Code.INTERNAL, "padding that is too long"),
        (lambda s: frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"), Code.INTERNAL, "too large"),
        (lambda s: frame(SETTINGS, 0, 0, b"\0\5\0\0\0\1"), Code.INTERNAL, "frame size"),
        (lambda s: frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), Code.INTERNAL, "too large"),
        (lambda s: frame(WINDOW_UPDATE, 0, s, b"\0"), Code.INTERNAL, "a window that is none"),
        (lambda s: frame(DATA, 0, s, b"\1" + bytes(4)), Code.INTERNAL, "compressed response"),
        (lambda s: frame(DATA, 0, s, b"\0" + b"\xff" * 4), Code.RESOURCE_EXHAUSTED, "4294967295"),
        (lambda s: frame(DATA, 0, s, message(b"a") * 2), Code.INTERNAL, "more than one response"),
        (lambda s: frame(DATA, END_STREAM, s, message(b"")), Code.UNKNOWN, "without gRPC's status"),
        (
            lambda s: frame(HEADERS, 5, s, fields(status="200", grpc_status="0")),
            Code.INTERNAL,
            "no whole response",
        ),
        (
            lambda s: (
                frame(DATA, 0, s, message(b"abc")[:-1])
                + frame(HEADERS, 5, s, fields(status="200", grpc_status="0"))
            ),
            Code.INTERNAL,
            "no whole response",
        ),
        (lambda s: frame(HEADERS, 5, s, fields(status="503")), Code.UNAVAILABLE, "HTTP 503"),
        (lambda s: frame(HEADERS, 5, s, fields(status="404")), Code.UNIMPLEMENTED, "HTTP 404"),
        (lambda s: frame(HEADERS, 5, s, fields(status="418")), Code.UNKNOWN, "HTTP 418"),
        (lambda s: frame(HEADERS, 5, s, fields(grpc_status="99")), Code.UNKNOWN, ""),
        (lambda s: frame(HEADERS, 5, s, fields(grpc_status="no")), Code.UNKNOWN, ""),
        (
            lambda s: frame(HEADERS, 5, s, fields(grpc_status="5", grpc_message=b"%zz \xff")),
            Code.NOT_FOUND,
            "%zz ÿ",
        ),
    ],
)
def test_whatever_is_wrong_is_an_error_of_the_call(
    make: Callable[[int], bytes], code: Code, text: str
) -> None:
    with scripted(first(make), echo) as address:
        client = transport(address)
        told = failure(client)
        assert told[0] is code
        assert text in told[1]
        assert ask(client) == b"hello"
        client.close()


def test_headers_of_another_call_are_not_taken_for_its_own() -> None:
    trailers = fields(grpc_status="0", grpc_message="of the first")

    def script(peer: Peer) -> None:
        first, _ = peer.read_request()
        peer.send(frame(DATA, 0, first, message(b"a") * 2))  # the client looks no further
        second, _ = peer.read_request()
        peer.send(frame(HEADERS, END_STREAM, first, trailers[:5]))
        peer.send(frame(CONTINUATION, END_HEADERS, first, trailers[5:]))
        peer.send(frame(HEADERS, END_HEADERS | END_STREAM, second, fields(grpc_status="5")))
        echo(peer)

    with scripted(script) as address:
        client = transport(address)
        assert failure(client)[0] is Code.INTERNAL
        assert failure(client) == (Code.NOT_FOUND, "")
        assert ask(client) == b"hello"
        client.close()


def test_a_header_block_may_begin_between_two_calls() -> None:
    trailers = fields(grpc_status="0")
    begun = threading.Event()

    def script(peer: Peer) -> None:
        first, _ = peer.read_request()
        peer.send(
            frame(DATA, 0, first, message(b"a") * 2)
            + frame(HEADERS, END_STREAM, first, trailers[:5])
        )
        begun.set()
        second, request = peer.read_request()
        peer.send(frame(CONTINUATION, END_HEADERS, first, trailers[5:]) + answer(second, request))

    with scripted(script) as address:
        client = transport(address)
        assert failure(client)[0] is Code.INTERNAL
        assert begun.wait(SECONDS)
        assert ask(client) == b"hello"
        client.close()


@pytest.mark.parametrize(
    ("flood", "text"),
    [
        (frame(PING, 0, 0, bytes(8)), "acknowledgements that it does not take"),
        (frame(SETTINGS, 0, 0), "acknowledgements that it does not take"),
        (frame(HEADERS, END_HEADERS, 1, fields(status="103") * 1000), "too many headers"),
    ],
    ids=["pings", "settings", "headers"],
)
def test_a_server_that_never_comes_to_the_point_is_left(flood: bytes, text: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        while True:
            peer.send(flood * 100)

    with scripted(script) as address:
        client = transport(address)
        code, told = failure(client)
        assert code is Code.INTERNAL
        assert text in told
        client.close()


def test_random_bytes_for_frames_do_no_harm() -> None:
    random = Random(7)

    def broken(stream: int) -> bytes:
        good = bytearray(
            frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 70_000))
            + answer(stream, random.randbytes(random.randrange(60)))
            + frame(GOAWAY, 0, 0, bytes(8))
        )
        for _ in range(random.randrange(1, 6)):
            at = random.randrange(len(good))
            change = random.randrange(4)
            if change == 0:
                good[at] ^= 1 << random.randrange(8)
            elif change == 1:
                good[at] = random.randrange(256)
            elif change == 2:
                del good[at : at + random.randrange(1, 8)]
            else:
                good[at:at] = random.randbytes(random.randrange(8))
        return bytes(good)

    outcomes = set()
    with scripted(once(broken)) as address:
        client = transport(address)
        for _ in range(600):
            try:
                ask(client)
                outcomes.add("answered")
            except ClientError as error:
                outcomes.add(error.code.name)
        client.close()
    assert {"answered", "INTERNAL", "UNAVAILABLE"} <= outcomes
    assert "DEADLINE_EXCEEDED" not in outcomes


@pytest.mark.parametrize("farewell", [b"", frame(GOAWAY, 0, 0, b"\x7f\xff\xff\xff" + bytes(4))])
def test_a_connection_that_was_closed_meanwhile_is_not_used(farewell: bytes) -> None:
    left = threading.Event()

    def script(peer: Peer) -> None:
        stream, request = peer.read_request()
        peer.send(answer(stream, request) + farewell)
        if not farewell:
            peer.socket.shutdown(2)
        left.set()
        peer.read_until(-1)

    with scripted(script, echo) as address:
        client = transport(address)
        assert ask(client, b"a") == b"a"
        assert left.wait(SECONDS)
        assert ask(client, b"b") == b"b"
        client.close()


def test_a_call_that_is_under_way_at_goaway_is_answered() -> None:
    def script(peer: Peer) -> None:
        stream, request = peer.read_request()
        peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", stream, 0)))
        peer.send(answer(stream, request))
        with pytest.raises(EOFError):
            peer.read_until(-1)

    with scripted(script, echo) as address:
        client = transport(address)
        assert ask(client, b"a") == b"a"
        assert ask(client, b"b") == b"b"
        client.close()


UNPROCESSED = [
    lambda stream: frame(GOAWAY, 0, 0, bytes(8)),
    lambda stream: frame(RST_STREAM, 0, stream, b"\0\0\0\x07"),
]


@pytest.mark.parametrize("make", UNPROCESSED, ids=["goaway", "refused"])
def test_a_call_that_a_server_has_not_begun_with_is_sent_again(
    make: Callable[[int], bytes],
) -> None:
    with scripted(first(make), echo) as address:
        client = transport(address)
        assert ask(client, b"a") == b"a"
        client.close()


@pytest.mark.parametrize("make", UNPROCESSED, ids=["goaway", "refused"])
def test_a_server_that_begins_with_nothing_is_unavailable(make: Callable[[int], bytes]) -> None:
    def script(peer: Peer) -> None:
        while True:
            stream, _ = peer.read_request()
            peer.send(make(stream))

    with scripted(script) as address:
        client = transport(address)
        assert failure(client)[0] is Code.UNAVAILABLE
        client.close()


def test_the_server_hears_that_a_call_has_timed_out() -> None:
    resets = []

    def script(peer: Peer) -> None:
        peer.read_request()
        resets.append(peer.read_until(RST_STREAM))
        with pytest.raises(EOFError):
            peer.read_until(-1)

    with scripted(script, echo) as address:
        client = transport(address)
        assert failure(client, timeout=0.1)[0] is Code.DEADLINE_EXCEEDED
        assert failure(client, timeout=0)[0] is Code.DEADLINE_EXCEEDED
        assert ask(client, timeout=None) == b"hello"
        client.close()
    assert resets == [(RST_STREAM, 0, 1, struct.pack(">I", 8))]


def test_large_answers_come_whole_and_windows_are_refilled() -> None:
    content = Random(2).randbytes(50_000_000)

    def script(peer: Peer) -> None:
        stream, _ = peer.read_request()
        data = message(content)
        peer.send(frame(HEADERS, END_HEADERS, stream, fields(status="200")))
        for begin in range(0, len(data), 16384):
            peer.send(frame(DATA, 0, stream, data[begin : begin + 16384]))
        peer.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, fields(grpc_status="0")))

    with scripted(script) as address:
        assert ask(transport(address)) == content


def test_a_signal_ends_a_waiting_call() -> None:
    class Alarmed(Exception):
        pass

    def alarm(number: int, at: FrameType | None) -> None:
        raise Alarmed

    def script(peer: Peer) -> None:
        peer.read_until(-1)

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with scripted(script, echo) as address:
            client = transport(address)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Alarmed):
                ask(client)
            assert ask(client) == b"hello"
            client.close()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_forked_process_makes_connections_of_its_own() -> None:
    program = f"""
import os, sys
from tfsrv.client.direct import DirectTransport, address_of
client = DirectTransport(address_of(sys.argv[1]))
def ask(text):
    assert client.call({PATH!r}, text, {SECONDS}, ()) == text
ask(b"before")
child = os.fork()
for number in range(200):
    ask(b"%d %d" % (os.getpid(), number))
if child:
    assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""
    with scripted(echo) as address:
        command = [sys.executable, "-c", program, address]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, env=environment, timeout=60, check=True)


def test_a_unix_socket_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    code, text = failure(DirectTransport(str(tmp_path / "none")))
    assert code is Code.UNAVAILABLE
    assert text == f"cannot connect to {tmp_path / 'none'}: No such file or directory"


def test_a_request_that_no_message_can_be_is_refused() -> None:
    client = DirectTransport(("127.0.0.1", 1))
    with pytest.raises(ValueError, match="larger than a message can be"):
        ask(client, bytes(1 << 31))  # of which nothing is looked at


# ---- addresses, time-outs, metadata


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("localhost:8500", ("localhost", 8500)),
        ("model-server.example:80", ("model-server.example", 80)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:8500", ("::1", 8500)),
        ("dns:///a.b:8500", ("a.b", 8500)),
        ("dns:a.b:8500", ("a.b", 8500)),
        ("unix:/tmp/s", "/tmp/s"),
        ("unix:s", "s"),
        ("unix:///tmp/s", "/tmp/s"),
        ("localhost", None),
        ("localhost:0", None),
        ("localhost:99999", None),
        ("::1:8500", None),
        ("ipv4:1.2.3.4:5,6.7.8.9:10", None),
        ("dns://8.8.8.8/a.b:8500", None),
        ("xds:///a", None),
        ("unix-abstract:s", None),
    ],
)
def test_addresses_that_need_no_grpc_are_told_from_others(target: str, address: Any) -> None:
    assert address_of(target, {}) == address


def test_a_proxy_is_left_to_grpc() -> None:
    proxy = {"http_proxy": "http://proxy:3128"}
    assert address_of("a.b:8500", proxy) is None
    assert address_of("a.b:8500", {"http_proxy": ""}) == ("a.b", 8500)
    for near in ("localhost:1", "127.0.0.2:1", "[::1]:1", "unix:/s"):
        assert address_of(near, proxy) is not None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1e-9, b"1u"), (1.5, b"1500000u"), (99, b"99000000u"), (100, b"100000m"),
     (99_999, b"99999000m"), (100_000, b"100000S"), (1e12, b"99999999S")],
)  # fmt: skip
def test_time_outs_have_eight_digits_at_most(seconds: float, text: bytes) -> None:
    assert _timeout(seconds) == text


@pytest.mark.parametrize(
    "entry", [("A", "a"), ("a b", "a"), ("", "a"), ("grpc-timeout", "1S"), ("a", "é"), ("a", "\n")]
)
def test_metadata_that_grpc_does_not_have_is_refused(entry: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"gRPC's metadata"):
        _fields(None, [entry])
