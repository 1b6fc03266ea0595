"""The HTTP/1.1 transport, byte by byte: what it answers, what it refuses, what it holds.

Clients are plain sockets and curl. After each test the server must hold nothing: no call, no
connection, no byte of the in-flight budget.
"""

from __future__ import annotations

import gzip
import os
import random
import shutil
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.http1_client import (
    HttpServerProcess,
    Peer,
    chunked,
    get,
    http_serving,
    request,
)
from tests.functional.http2_client import MEMORY_TELLS

MEBIBYTE = 1 << 20
ECHOES = ["/t/Echo", "/t/Native", "/t/Spliced", "/t/Worker", "/t/Slow"]
SIZES = [0, 1, 1000, 65_000, 65_536, 70_000, 300_000, 3 * MEBIBYTE + 7]


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[HttpServerProcess]:
    with http_serving(max_body_bytes=8 * MEBIBYTE, linger_timeout_ms=20_000) as server:
        yield server


@pytest.fixture
def server(shared_server: HttpServerProcess) -> Iterator[HttpServerProcess]:
    yield shared_server
    shared_server.disconnect()
    shared_server.holds_nothing()


# ---- requests and answers -----------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", ECHOES)
def test_answers_with_what_the_method_says(server: HttpServerProcess, path: str, size: int) -> None:
    peer = server.dial()
    for _ in range(2):
        answer = peer.ask(request(path, noise(size)))
        assert answer.status == 200
        assert answer.body == noise(size)
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/t/Native", "/t/Worker", "/h/tell"])
def test_reads_a_request_wherever_it_is_cut(server: HttpServerProcess, path: str) -> None:
    whole = request(path, b"body", "X-A: b")
    peer = server.dial()
    for cut in range(1, len(whole)):
        peer.send(whole[:cut])
        server.stats()  # the server has come to what was sent
        answer = peer.ask(whole[cut:])
        assert (answer.status, b"body" in answer.body) == (200, True)


def test_reads_a_request_that_comes_byte_by_byte(server: HttpServerProcess) -> None:
    peer = server.dial()
    for byte in request("/t/Native", b"a body"):
        peer.send(bytes([byte]))
    assert peer.answer().body == b"a body"


@pytest.mark.parametrize("path", ["/t/Native", "/t/Worker", "/t/Echo"])
def test_answers_pipelined_requests_in_order(server: HttpServerProcess, path: str) -> None:
    peer = server.dial()
    bodies = [b"%d" % i * (i % 7) for i in range(500)]
    sender = threading.Thread(target=peer.send, args=[request(path, body) for body in bodies])
    sender.start()
    assert [peer.answer().body for _ in bodies] == bodies
    sender.join()


def test_answers_long_and_short_pipelined_requests_in_order(server: HttpServerProcess) -> None:
    peer = server.dial()
    bodies = [noise(size) for size in [10, 200_000, 0, 65_500, 1_500_000, 3, 100_000] * 3]
    data = b"".join(request("/t/Spliced", body) for body in bodies)
    sender = threading.Thread(target=peer.send, args=[data])
    sender.start()
    assert [peer.answer().body for _ in bodies] == bodies
    sender.join()


def test_ignores_blank_lines_between_requests(server: HttpServerProcess) -> None:
    peer = server.dial()
    for _ in range(5):
        assert peer.ask(b"\r\n\r\n" + request(body=b"x")).body == b"x"
    assert peer.ask(b"\r\n" * 50).status == 400


@pytest.mark.parametrize("size", [0, 1, 5000, 200_000])
def test_reads_chunked_bodies(server: HttpServerProcess, size: int) -> None:
    peer = server.dial()
    pieces = [piece for piece in (noise(size), noise(size // 3), b"z") if piece]
    head = request("/t/Native", b"", "Transfer-Encoding: chunked", length=False)
    for _ in range(2):
        assert peer.ask(head + chunked(*pieces)).body == b"".join(pieces)


def test_reads_a_chunked_body_wherever_it_is_cut(server: HttpServerProcess) -> None:
    peer = server.dial()
    head = request("/t/Native", b"", "Transfer-Encoding: chunked", length=False)
    body = b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n"
    for cut in range(len(body)):
        peer.send(head + body[:cut])
        server.stats()
        assert peer.ask(body[cut:]).body == b"abcde"


def test_tells_python_all_that_was_asked(server: HttpServerProcess) -> None:
    data = request("/h/tell?a=%20b&c", b"\x00\xff", "X-Two: 1", "Accept: a", "x-two:  2 ")
    told = server.dial().ask(data).json()
    assert told == {
        "method": "POST",
        "path": "/h/tell",
        "query": "a=%20b&c",
        "headers": {"host": "test", "x-two": "1, 2", "accept": "a", "content-length": "2"},
        "body": "\x00\xff",
        "local": True,
        "too_long": False,
    }


def test_answers_head_as_get_without_the_body(server: HttpServerProcess) -> None:
    peer = server.dial()
    for path in ("/h/big?10", "/h/big?100000", "/nothing"):
        expected = peer.ask(get(path))
        answer = peer.ask(get(path, method="HEAD"), head_only=True)
        assert answer.status == expected.status
        assert answer.headers["content-length"] == expected.headers["content-length"]
    assert peer.ask(request(body=b"next")).body == b"next"


def test_sends_no_length_with_what_has_no_body(server: HttpServerProcess) -> None:
    peer = server.dial()
    answer = peer.ask(get("/h/empty"))
    assert answer.status == 204
    assert not {"content-length", "content-type"} & set(answer.headers)
    assert peer.ask(get("/h/empty")).status == 204


@pytest.mark.parametrize(
    ("code", "status"), [(3, 400), (5, 404), (8, 429), (12, 501), (14, 503), (4, 504), (1, 499)]
)
@pytest.mark.parametrize("form", ["native", "python"])
def test_answers_errors_as_json(
    server: HttpServerProcess, code: int, status: int, form: str
) -> None:
    peer = server.dial()
    data = (
        request("/t/Fail", b'%d no "such" \xc3\xa9 thing\n' % code)
        if form == "native"
        else get(f'/h/fail?{code}&no"such"thing')
    )
    answer = peer.ask(data)
    assert answer.status == status
    assert "such" in answer.error
    assert ("retry-after" in answer.headers) is (status == 503)
    assert peer.ask(request(body=b"next")).body == b"next"


def test_lays_errors_out_as_the_request_wants(server: HttpServerProcess) -> None:
    peer = server.dial()
    assert peer.ask(request("/t/Fail?pretty", b"3 x")).body == b'{\n    "error": "x"\n}'
    assert peer.ask(request("/t/Fail", b"3 x")).body == b'{"error":"x"}'


def test_a_handler_that_fails_fails_its_request_alone() -> None:
    server = HttpServerProcess()
    peer = server.dial()
    answer = peer.ask(get("/h/crash"))
    assert (answer.status, answer.error) == (500, "RuntimeError: this handler is broken")
    answer = peer.ask(get("/h/split"))
    assert answer.status == 500
    assert peer.ask(request(body=b"next")).body == b"next"
    said = server.kill()
    assert "this handler is broken" in said
    assert "control character" in said


# ---- how connections go on and end --------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "field", "stays"),
    [
        ("1.1", "X: y", True),
        ("1.1", "Connection: close", False),
        ("1.0", "X: y", False),
        ("1.0", "Connection: keep-alive", True),
    ],
)
@pytest.mark.parametrize("path", ["/t/Native", "/h/tell"])
def test_keeps_connections_as_clients_want(
    server: HttpServerProcess, path: str, version: str, field: str, stays: bool
) -> None:
    peer = server.dial()
    data = request(path, b"x", field).replace(b"HTTP/1.1", b"HTTP/" + version.encode())
    answer = peer.ask(data)
    assert answer.status == 200
    if stays:
        expected = "keep-alive" if version == "1.0" else None
        assert answer.headers.get("connection") == expected
        assert peer.ask(data).status == 200
    else:
        assert answer.headers["connection"] == "close"
        assert peer.is_closed()


@pytest.mark.parametrize("path", ["/t/Native", "/t/Slow", "/h/tell"])
def test_answers_who_has_shut_the_sending_half(server: HttpServerProcess, path: str) -> None:
    peer = server.dial().send(request(path, b"last words")).shut()
    assert b"last words" in peer.answer().body
    assert peer.is_closed()


def test_answers_all_pipelined_requests_of_who_has_shut_the_sending_half(
    server: HttpServerProcess,
) -> None:
    peer = server.dial().send(request(body=b"first"), request(body=b"second")).shut()
    assert [peer.answer().body for _ in range(2)] == [b"first", b"second"]
    assert peer.is_closed()


def test_old_clients_get_no_interim_answer(server: HttpServerProcess) -> None:
    data = request("/t/Slow", b"x").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert server.dial().send(data).shut().answer().status == 200


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("path", ["/t/Hold", "/h/hold"])
def test_cancels_the_request_of_who_has_gone(
    server: HttpServerProcess, path: str, how: str
) -> None:
    before = server.stats()["cancelled"]
    started = server.stats()["started"]
    peer = server.dial().send(request(path, b"x"))
    server.eventually(lambda stats: stats["started"] > started)
    getattr(peer, how)()
    server.eventually(lambda stats: stats["cancelled"] > before)


@pytest.mark.parametrize("cut", [5, 40, 70, -1])
def test_forgets_who_leaves_inside_a_request(server: HttpServerProcess, cut: int) -> None:
    for end in ("shut", "reset", "close"):
        peer = server.dial().send(request("/t/Native", b"0123456789")[:cut])
        getattr(peer, end)()
        server.holds_nothing()


def test_waits_for_the_go_on_of_its_own(server: HttpServerProcess) -> None:
    peer = server.dial().send(request("/t/Native", b"body", "Expect: 100-continue")[:-4])
    assert peer.interim() == 100
    assert peer.ask(b"body").body == b"body"


def test_sends_no_go_on_to_who_has_gone_on(server: HttpServerProcess) -> None:
    peer = server.dial()
    assert peer.ask(request("/t/Native", b"body", "Expect: 100-continue")).status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request("/t/Native", b"", "Content-Length: 99999999", length=False), 413),
        (request("/t/Native", b"", "Content-Length: 9", "Expect: magic", length=False), 417),
    ],
)
def test_refuses_before_the_body_comes(server: HttpServerProcess, data: bytes, status: int) -> None:
    peer = server.dial()
    answer = peer.ask(data.replace(b"Host", b"Expect: 100-continue\r\nHost"))
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert answer.error
    assert peer.is_closed()


def test_who_sends_on_after_a_refusal_can_still_read_it(server: HttpServerProcess) -> None:
    peer = server.dial()
    peer.send(request("/t/Native", b"", f"Content-Length: {100 * MEBIBYTE}", length=False))
    for _ in range(40):
        peer.send(bytes(MEBIBYTE))
    assert peer.answer().status == 413


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET /" + b"x" * 10_000, 414),
        (request("/t/Native", b"", *[f"X-{i}: y" for i in range(200)]), 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000, 431),
        (request("/t/Native", b"x", "Transfer-Encoding: chunked"), 400),
        (request("/t/Native", b"x", "Content-Length: 2"), 400),
        (request("/t/Native", b"", "Transfer-Encoding: gzip, chunked", length=False), 501),
        (request("/t/Native", b"", "Transfer-Encoding: chunked", length=False) + b"x", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ],
)
def test_refuses_what_is_malformed_and_closes(
    server: HttpServerProcess, data: bytes, status: int
) -> None:
    peer = server.dial()
    assert peer.ask(request(body=b"good")).body == b"good"
    smuggled = request("/h/tell", b"smuggled")
    answer = peer.ask(data + (b"" if b"x" * 5000 in data else smuggled))
    assert answer.status == status
    assert answer.error
    assert answer.headers["connection"] == "close"
    assert peer.is_closed()


def test_refuses_a_bad_request_in_full_after_one_for_a_head(server: HttpServerProcess) -> None:
    peer = server.dial()
    assert peer.ask(get("/h/tell", method="HEAD"), head_only=True).status == 200
    assert peer.ask(b"bad\r\n\r\n").error


def test_goes_on_with_http1_when_asked_to_upgrade(server: HttpServerProcess) -> None:
    fields = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    assert server.dial().ask(request("/t/Native", b"x", *fields)).body == b"x"


@pytest.mark.parametrize("form", ["length", "chunks"])
def test_takes_bodies_up_to_the_limit(server: HttpServerProcess, form: str) -> None:
    for size, status in ((8 * MEBIBYTE, 200), (8 * MEBIBYTE + 1, 413)):
        peer = server.dial()
        if form == "length":
            data = request("/t/Spliced", b"x" * size)
        else:
            data = request("/t/Spliced", b"", "Transfer-Encoding: chunked", length=False)
            data += chunked(*[b"x" * MEBIBYTE] * (size // MEBIBYTE), *[b"x"] * (size % MEBIBYTE))
        sender = threading.Thread(target=peer.send, args=[data])
        sender.start()
        answer = peer.answer()
        sender.join()
        assert answer.status == status
        assert len(answer.body) == size if status == 200 else answer.error


# ---- gzip ---------------------------------------------------------------------------------------


def test_unpacks_what_python_is_asked(server: HttpServerProcess) -> None:
    data = request("/h/tell", gzip.compress(b"packed" * 100), "Content-Encoding: gzip")
    assert server.dial().ask(data).json()["body"] == "packed" * 100


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"no gzip", 400), (b"", 400)],
)
def test_refuses_bad_gzip(server: HttpServerProcess, body: bytes, status: int) -> None:
    peer = server.dial()
    answer = peer.ask(request("/h/tell", body, "Content-Encoding: gzip"))
    assert answer.status == status
    assert "body" in answer.error
    assert peer.ask(request(body=b"next")).body == b"next"


@pytest.mark.parametrize("size", [MEBIBYTE, MEBIBYTE + 1, 7 * MEBIBYTE])
@pytest.mark.parametrize("packed", [False, True])
def test_gives_python_no_long_bodies(server: HttpServerProcess, size: int, packed: bool) -> None:
    body, more = (
        (gzip.compress(bytes(size)), ["Content-Encoding: gzip"]) if packed else (bytes(size), [])
    )
    peer = server.dial()
    told = peer.ask(request("/h/tell", body, *more)).json()
    assert told["too_long"] == (size > MEBIBYTE)
    assert len(told["body"]) == (size if size <= MEBIBYTE else 0)
    assert peer.ask(request(body=b"next")).body == b"next"


def test_bursting_gzip_takes_no_memory_of_python() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(MEBIBYTE)) for _ in range(512)) + packer.flush()
    with http_serving() as server:
        before = server.stats()["peak_rss"]
        told = server.dial().ask(request("/h/tell", bomb, "Content-Encoding: gzip")).json()
        assert told["too_long"]
        assert server.stats()["peak_rss"] - before < 64 * MEBIBYTE


@pytest.mark.parametrize("accepts", ["gzip", "br, gzip;q=0.1", "*"])
def test_packs_answers_for_who_takes_them(server: HttpServerProcess, accepts: str) -> None:
    answer = server.dial().ask(get("/h/big?5000", f"Accept-Encoding: {accepts}"))
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(answer.body) == b"x" * 5000


@pytest.mark.parametrize("accepts", ["identity", "gzip;q=0", "br"])
def test_packs_nothing_for_others(server: HttpServerProcess, accepts: str) -> None:
    answer = server.dial().ask(get("/h/big?5000", f"Accept-Encoding: {accepts}"))
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.body == b"x" * 5000


def test_tells_of_an_answer_that_a_method_packed(server: HttpServerProcess) -> None:
    answer = server.dial().ask(request("/t/Native?gzip", gzip.compress(b"by the method")))
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(answer.body) == b"by the method"


# ---- OPTIONS and CORS ---------------------------------------------------------------------------


def test_answers_options_by_origin(server: HttpServerProcess) -> None:
    peer = server.dial()
    for origin, status in (
        ("http://a", 200),
        ("HTTPS://b:1", 200),
        ("null", 400),
        ("ftp://c", 400),
    ):
        answer = peer.ask(get("/v1/models/m", f"Origin: {origin}", method="OPTIONS"))
        assert answer.status == status
        assert answer.headers["allow"] == "GET, HEAD, POST, OPTIONS"
        assert (answer.body == b"") is (status == 200)
        assert "access-control-allow-origin" not in answer.headers
    assert peer.ask(get("/v1/models/m", method="OPTIONS")).status == 400
    assert peer.ask(get("*", method="OPTIONS")).status == 200


def test_lets_pages_of_others_ask_when_it_is_told_to() -> None:
    with http_serving(enable_cors=True) as server:
        peer = server.dial()
        for data in (
            get("/v1/models/m", "Origin: http://a", method="OPTIONS"),
            get("/h/tell"),
            get("/nothing"),
            request("/t/Native", b"x"),
            request("/t/Fail", b"3 x"),
            b"bad\r\n\r\n",
        ):
            answer = peer.ask(data)
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.headers["access-control-allow-methods"] == "POST, GET"
            assert answer.headers["access-control-allow-headers"].startswith("Content-Type")


# ---- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/t/Hold", "/h/hold"])
def test_ends_requests_that_take_too_long(path: str) -> None:
    with http_serving(request_timeout_ms=50) as server:
        peer = server.dial()
        answer = peer.ask(request(path, b"x"))
        assert (answer.status, answer.error) == (504, "Deadline Exceeded")
        server.eventually(lambda stats: stats["cancelled"] == 1)
        assert peer.ask(request(body=b"next")).body == b"next"


@pytest.mark.parametrize("timeout", [0, -1])
def test_without_a_timeout_requests_take_their_time(timeout: int) -> None:
    with http_serving(request_timeout_ms=timeout) as server:
        peer = server.dial().send(request("/t/Hold", b"x"))
        server.eventually(lambda stats: stats["started"] == 1)
        server.ask("release")
        assert peer.answer().body == b"x"


PATIENCE = {"head_timeout_ms": 60, "idle_timeout_ms": 60, "upload_timeout_ms": 60, "tick_ms": 10}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /t", 408),
        (request("/t/Native", b"body")[:-1], 408),
        (request("/t/Native", b"", "Transfer-Encoding: chunked", length=False) + b"5\r\na", 408),
    ],
)
def test_does_not_wait_for_slow_writers(data: bytes, status: int) -> None:
    with http_serving(**PATIENCE) as server:
        peer = server.dial().send(data)
        assert peer.answer().status == status
        assert peer.is_closed()


def test_does_not_let_a_head_trickle_in_for_ever() -> None:
    with http_serving(head_timeout_ms=100, tick_ms=10) as server:
        peer = server.dial().send(b"GET / HTTP/1.1\r\n")
        peer.socket.settimeout(0.01)
        for _ in range(1000):
            peer.send(b"A: b\r\n"[:3])
            try:
                if not peer.more() or b"408" in peer.received:
                    break
            except TimeoutError:
                continue
        assert b"408" in peer.received


@pytest.mark.parametrize("asked", [False, True])
def test_closes_idle_connections(asked: bool) -> None:
    with http_serving(**PATIENCE) as server:
        peer = server.dial()
        if asked:
            assert peer.ask(request(body=b"x")).status == 200
        assert peer.is_closed()


def test_does_not_linger_for_ever() -> None:
    with http_serving(linger_timeout_ms=50, tick_ms=10) as server:
        peer = server.dial()
        assert peer.ask(b"bad\r\n\r\n").status == 400
        assert peer.is_closed()  # the sending half alone
        server.holds_nothing()


@pytest.mark.parametrize("path", ["/t/Big", "/t/Spliced"])
def test_drops_clients_that_do_not_read(path: str) -> None:
    with http_serving(unread_timeout_ms=100, tick_ms=20) as server:
        peer = server.dial(receive_bytes=4096)
        body = b"30000000" if path == "/t/Big" else bytes(30 * MEBIBYTE)
        peer.send(request(path, body))
        server.holds_nothing()


def test_a_slow_reader_gets_all_of_its_answer(server: HttpServerProcess) -> None:
    peer = server.dial(receive_bytes=4096).send(request("/t/Big", b"9000000"))
    time.sleep(0.05)
    assert peer.answer().body == b"\xa5" * 9_000_000
    assert peer.ask(request(body=b"next")).body == b"next"


# ---- memory -------------------------------------------------------------------------------------


def test_stops_reading_what_waits_behind_a_request(server: HttpServerProcess) -> None:
    before = server.stats()["peak_rss"]
    peer = server.dial().send(request("/t/Hold", b"x"))
    peer.socket.settimeout(0.5)
    data = request("/t/Native", b"y" * 1000) * 100
    with pytest.raises(TimeoutError):
        peer.send(data * 2000)
    stats = server.stats()
    assert stats["in_flight_bytes"] < MEBIBYTE
    assert not MEMORY_TELLS or stats["peak_rss"] - before < 8 * MEBIBYTE


def test_cancels_the_request_of_who_has_gone_with_much_behind_it() -> None:
    with http_serving(tick_ms=20, hangup_look_ms=10, request_timeout_ms=0) as server:
        peer = server.dial().send(request("/t/Hold", b"x"))
        peer.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.send(bytes(50 * MEBIBYTE))
        peer.close()
        server.eventually(lambda stats: stats["cancelled"] == 1)


def test_allocates_what_came_and_not_what_was_announced() -> None:
    with http_serving() as server:
        before = server.stats()["rss"]
        peers = [
            server.dial().send(
                request("/t/Native", b"", "Content-Length: 2000000000", length=False) + b"x"
            )
            for _ in range(50)
        ]
        server.eventually(lambda stats: stats["in_flight_bytes"] == len(peers))
        assert not MEMORY_TELLS or server.stats()["rss"] - before < 20 * MEBIBYTE


def test_refuses_bodies_beyond_the_budget() -> None:
    with http_serving(max_in_flight_bytes=4 * MEBIBYTE) as server:
        holder = server.dial().send(request("/t/Hold", bytes(MEBIBYTE)))
        other = server.dial().send(request("/t/Hold", bytes(MEBIBYTE)))
        server.eventually(lambda stats: stats["started"] == 2)
        peer = server.dial()
        answer = peer.send(request("/t/Spliced", bytes(2 * MEBIBYTE + 1))).answer()
        assert answer.status == 429
        assert "--max_in_flight_bytes" in answer.error
        server.ask("release")
        assert holder.answer().status == other.answer().status == 200
        assert server.dial().ask(request("/t/Native", b"x")).status == 200


def test_lets_stalled_bodies_go_when_memory_is_short() -> None:
    with http_serving(max_in_flight_bytes=4 * MEBIBYTE, stall_timeout_ms=50) as server:
        stalled = [server.dial().send(request("/t/Native", bytes(1_500_000))[:-1]) for _ in "ab"]
        server.eventually(lambda stats: stats["in_flight_bytes"] >= 2_999_998)
        answers: list[int] = []

        def is_served(stats: dict[str, int]) -> bool:
            answers.append(server.dial().ask(request("/t/Spliced", bytes(700_000))).status)
            return answers[-1] == 200

        server.eventually(is_served)
        assert {peer.answer().status for peer in stalled} == {429}


def test_idle_connections_cost_little() -> None:
    with http_serving() as server:
        peers = [server.dial() for _ in range(200)]
        for peer in peers:
            assert peer.ask(request("/t/Native", bytes(20_000))).status == 200
        before = server.stats()["rss"]
        more = [server.dial() for _ in range(600)]
        server.eventually(lambda stats: stats["connections"] == len(peers) + len(more))
        assert not MEMORY_TELLS or server.stats()["rss"] - before < len(more) * 8192


# ---- drain --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/t/Native", "/h/tell"])
def test_drains(path: str) -> None:
    with http_serving() as server:
        idle, busy, begun = server.dial(), server.dial(), server.dial()
        assert idle.ask(request(body=b"x")).status == 200
        busy.send(request("/t/Hold", b"busy"))
        begun.send(request(path, b"begun")[:-2])
        server.eventually(lambda stats: stats["started"] == 1 and stats["connections"] == 3)
        server.eventually(lambda stats: stats["in_flight_bytes"] > 0)
        server.tell("drain 20")
        assert idle.is_closed()
        answer = begun.ask(b"un")
        assert b"begun" in answer.body
        assert answer.headers["connection"] == "close"
        assert begun.is_closed()
        begun.close()
        busy.reset()
        assert server.heard() is True
        with pytest.raises(ConnectionRefusedError):
            server.dial()


def test_drops_who_is_still_there_when_the_grace_is_over() -> None:
    with http_serving() as server:
        peer = server.dial().send(request("/t/Hold", b"x"))
        server.eventually(lambda stats: stats["started"] == 1)
        assert server.ask("drain 0.1") is False
        assert peer.is_closed()
        server.eventually(lambda stats: stats["cancelled"] == 1)


# ---- curl, and the loop's lag -------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--http1.0"],
        ["-H", "Transfer-Encoding: chunked"],
        ["-H", "Expect: 100-continue"],
        ["--compressed"],
        ["--http2"],
        ["-H", "Connection: close"],
    ],
    ids=" ".join,
)
def test_talks_to_curl(server: HttpServerProcess, options: list[str], tmp_path: Path) -> None:
    body = noise(2 * MEBIBYTE)
    (tmp_path / "body").write_bytes(body)
    url = f"http://127.0.0.1:{server.address[1]}/t/Spliced"
    command = ["curl", "-sSf", *options, "--data-binary", f"@{tmp_path / 'body'}", url, url]
    # A sanitizer that is preloaded is the server's: curl hangs under it.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    assert done.stdout == body + body


def test_its_loop_is_not_held_up_by_large_bodies(server: HttpServerProcess) -> None:
    """Loosely: a machine under test has other things to do."""
    server.ask("lag")
    body = bytes(5 * MEBIBYTE)

    def ask() -> None:
        peer: Peer = server.dial()
        for _ in range(3):
            assert peer.ask(request("/t/Spliced", body)).status == 200

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worst_seconds, busy_seconds = server.ask("lag")
    assert 0 < busy_seconds < 0.5
    assert worst_seconds < 5.0
