"""The native gRPC transport, byte by byte: what it answers, what it refuses, what it holds.

Clients are h2 (https://github.com/python-hyper/h2), plain sockets and grpcio. After each test the
server must hold nothing: no call, no connection, no byte of the in-flight budget.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import h2.events
import pytest

from tests.functional.http2_client import (
    MEMORY_TELLS,
    PATIENCE_SECONDS,
    REQUEST_HEADERS,
    Client,
    ServerProcess,
    message,
    recorded,
    serving,
)
from tfsrv.frontends._http2 import available

pytestmark = pytest.mark.skipif(not available(), reason="needs libnghttp2")

MEBIBYTE = 1 << 20
ECHOES = ["/t/Echo", "/t/Native", "/t/Spliced", "/t/Worker", "/t/Slow"]

OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED = 0, 1, 2, 4
RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 8, 12, 13

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 0, 1, 2, 7, 8

Connect = Callable[..., Client]


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    path = str(tmp_path_factory.mktemp("sockets") / "grpc")
    with serving(socket_path=path, max_receive_message_bytes=8 * MEBIBYTE) as server:
        yield server


@pytest.fixture
def server(shared_server: ServerProcess) -> Iterator[ServerProcess]:
    yield shared_server
    shared_server.holds_nothing()


@pytest.fixture
def connect(server: ServerProcess) -> Iterator[Connect]:
    """Connections to the shared server (or another address) that are closed at the end."""
    yield server.connect
    server.disconnect()


@contextlib.contextmanager
def grpc_channel(server: ServerProcess, **options: Any) -> Iterator[Any]:
    """A channel of gRPC's own client."""
    assert isinstance(server.address, tuple)
    host, port = server.address
    with grpc.insecure_channel(f"{host}:{port}", **options) as channel:
        yield channel


def settled(client: Client) -> Client:
    """A connection whose two sides have agreed on their settings."""
    client.got(h2.events.SettingsAcknowledged)
    return client


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0,
    1,
    3,
    4,
    6,
    7,
    8,
    9,
)
END_STREAM, END_HEADERS, PADDED = 1, 4, 8


# ---- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ECHOES)
@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_531, 65_532, 3 * MEBIBYTE + 1])
def test_answers_with_messages_of_every_size(connect: Connect, path: str, size: int) -> None:
    body = random.Random(size).randbytes(size)
    response = connect().call(path, body)
    assert response.body == body
    assert response.headers == {":status": "200", "content-type": "application/grpc"}
    assert response.trailers == {"grpc-status": "0"}
    assert response.reset is None


def test_answers_many_streams_of_one_connection(connect: Connect) -> None:
    client = connect()
    bodies = [b"%d" % i * (i + 1) for i in range(200)]
    streams = [client.begin(ECHOES[i % 5], body) for i, body in enumerate(bodies)]
    assert [client.wait(stream).body for stream in streams] == bodies


def test_listens_on_a_unix_socket_too(connect: Connect, server: ServerProcess) -> None:
    assert server.socket_path is not None
    assert connect(server.socket_path).call(body=b"a").body == b"a"


@pytest.mark.parametrize("path", ECHOES)
def test_serves_grpcs_own_client(server: ServerProcess, path: str) -> None:
    bodies = [b"", b"a" * 100_000, bytes(range(256)) * 10]
    with grpc_channel(server) as channel:
        method = channel.unary_unary(path)
        assert [method(body, timeout=PATIENCE_SECONDS) for body in bodies] == bodies
        futures = [method.future(b"%d" % i, PATIENCE_SECONDS) for i in range(50)]
        assert [future.result() for future in futures] == [b"%d" % i for i in range(50)]


def test_serves_grpcs_own_client_with_gzip(server: ServerProcess) -> None:
    with grpc_channel(server, compression=grpc.Compression.Gzip) as channel:
        body = b"abc" * 10_000
        assert channel.unary_unary("/t/Worker")(body, timeout=PATIENCE_SECONDS) == body


def test_tells_grpcs_own_client_what_went_wrong(server: ServerProcess) -> None:
    with grpc_channel(server) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/t/Fail")("5 nicht da: ä€😀".encode(), timeout=PATIENCE_SECONDS)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "nicht da: ä€😀"
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/t/Hold")(b"", timeout=0.05)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/t/Nothing")(b"", timeout=PATIENCE_SECONDS)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


# ---- messages in pieces --------------------------------------------------------------------------


def pieces_of(data: bytes, random_source: random.Random) -> Iterator[bytes]:
    """Any split of the bytes, empty pieces as well."""
    cuts = sorted(random_source.choices(range(len(data) + 1), k=random_source.randrange(12)))
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        yield data[begin:end]


@pytest.mark.parametrize("seed", range(20))
def test_puts_a_message_together_from_any_data_frames(connect: Connect, seed: int) -> None:
    random_source = random.Random(seed)
    client = connect()
    for _ in range(10):
        body = random_source.randbytes(random_source.choice([0, 1, 5, 300, 20_000]))
        stream = client.open(random_source.choice(ECHOES))
        for piece in pieces_of(message(body), random_source):
            client.http2.send_data(stream, piece)
            if random_source.random() < 0.3:
                client.flush()
        client.http2.end_stream(stream)
        client.flush()
        assert client.wait(stream).body == body


def test_puts_a_message_together_from_padded_frames_of_one_byte(connect: Connect) -> None:
    client = settled(connect())
    stream = client.open()
    for byte in message(b"0123456789"):
        client.http2.send_data(stream, bytes([byte]), pad_length=255)
    client.http2.end_stream(stream)
    client.flush()
    assert client.wait(stream).body == b"0123456789"


def test_reads_a_conversation_byte_by_byte(connect: Connect) -> None:
    client = connect(start=False)
    conversation = recorded(("/t/Echo", message(b"abc")), ("/t/Native", message(b"defg")))
    streams = client.expect(2)
    for i in range(len(conversation)):
        client.raw(conversation[i : i + 1])
        if i % 10 == 0:
            time.sleep(0.0005)  # a segment of its own
    assert [client.wait(stream).body for stream in streams] == [b"abc", b"defg"]


@pytest.mark.parametrize("seed", range(5))
def test_reads_a_conversation_in_any_segments(connect: Connect, seed: int) -> None:
    random_source = random.Random(seed)
    bodies = [random_source.randbytes(random_source.randrange(3000)) for _ in range(10)]
    conversation = recorded(*((random_source.choice(ECHOES), message(body)) for body in bodies))
    client = connect(start=False)
    streams = client.expect(len(bodies))
    for piece in pieces_of(conversation, random_source):
        client.raw(piece)
        time.sleep(0.001)
    assert [client.wait(stream).body for stream in streams] == bodies


# ---- requests that are refused -------------------------------------------------------------------


def test_an_unknown_path_is_unimplemented_without_a_text(connect: Connect) -> None:
    for path in ("/t/Nothing", "/", "/t/Ech", "/t/Echoo", "/T/Echo"):
        response = connect().call(path, b"a")
        assert (response.code, response.message) == (UNIMPLEMENTED, "")
        assert response.headers[":status"] == "200"
        assert "grpc-message" not in response.headers


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/grpc-web"])
def test_another_content_type_is_http_415(connect: Connect, content_type: str | None) -> None:
    response = connect().call(content_type=content_type)
    assert response.headers[":status"] == "415"
    assert response.code == UNKNOWN


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc;a=b"])
def test_variants_of_the_content_type_are_taken(connect: Connect, content_type: str) -> None:
    assert connect().call(body=b"a", content_type=content_type).body == b"a"


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "post"])
def test_another_method_is_http_405(connect: Connect, method: str) -> None:
    assert connect().call(method=method).headers[":status"] == "405"


def test_a_request_without_te_is_refused(connect: Connect) -> None:
    response = connect().call(te=None)
    assert (response.code, response.message) == (UNKNOWN, "Missing te header")


@pytest.mark.parametrize("timeout", ["", "1", "S", "1s", "-1S", "123456789S", "1.5S", " 1S"])
def test_a_malformed_timeout_is_refused(connect: Connect, timeout: str) -> None:
    client = connect()
    client.http2.config.normalize_outbound_headers = False
    response = client.call(grpc_timeout=timeout)
    assert response.code == INTERNAL or response.reset == PROTOCOL_ERROR


@pytest.mark.parametrize("timeout", ["99999999H", "99999999M", "1H", "30S", "30000m", "99999999u"])
def test_timeouts_of_every_unit_are_read(connect: Connect, timeout: str) -> None:
    assert connect().call(body=b"a", grpc_timeout=timeout).body == b"a"


@pytest.mark.parametrize("timeout", ["0S", "1n", "1u"])
def test_a_request_that_expired_on_its_way_never_runs(
    connect: Connect, server: ServerProcess, timeout: str
) -> None:
    started = server.stats()["started"]
    assert connect().call("/t/Hold", grpc_timeout=timeout).code == DEADLINE_EXCEEDED
    assert server.stats()["started"] == started


def test_a_call_without_a_message_is_unimplemented(connect: Connect) -> None:
    client = connect()
    assert client.wait(client.open(end=True)).code == UNIMPLEMENTED
    stream = client.open()
    client.http2.send_data(stream, b"")
    client.send(stream, b"")
    assert client.wait(stream).code == UNIMPLEMENTED


@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_a_call_of_several_messages_is_unimplemented(connect: Connect, size: int) -> None:
    client = connect()
    for frame_bytes in (1 << 20, 4, 7):
        if size // frame_bytes > 1000:
            continue
        stream = client.open()
        client.send(stream, message(b"x" * size) + message(b"y"), frame_bytes=frame_bytes)
        assert client.wait(stream).code == UNIMPLEMENTED


@pytest.mark.parametrize("sent", [1, 4, 5, 6, 14])
def test_a_request_that_ends_inside_its_message_is_an_internal_error(
    connect: Connect, sent: int
) -> None:
    client = connect()
    stream = client.open()
    client.send(stream, message(b"0123456789")[:sent])
    assert client.wait(stream).code == INTERNAL


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_a_compression_flag_that_nothing_explains_is_an_internal_error(
    connect: Connect, flag: int
) -> None:
    client = connect()
    stream = client.open()
    client.send(stream, message(b"abc", flag))
    assert client.wait(stream).code == INTERNAL


def test_a_message_that_is_too_large_is_refused_by_its_prefix(connect: Connect) -> None:
    client = connect()
    stream = client.open()
    client.send(stream, message(b"", length=8 * MEBIBYTE + 1), end=False)
    response = client.wait(stream)
    assert response.code == RESOURCE_EXHAUSTED
    assert client.call(body=b"a").body == b"a"


def test_the_largest_message_is_taken(connect: Connect) -> None:
    body = b"x" * (8 * MEBIBYTE)
    assert connect().call("/t/Native", body).body == body


def test_nothing_is_allocated_for_what_is_only_announced() -> None:
    with serving() as server:
        clients = [server.connect() for _ in range(4)]
        before = server.stats()["peak_rss"]
        for client in clients:
            for _ in range(16):
                stream = client.open()
                client.send(stream, message(b"abc", length=2**31 - 1), end=False)
        stats = server.eventually(lambda stats: stats["in_flight_bytes"] == 4 * 16 * 8)
        assert not MEMORY_TELLS or stats["peak_rss"] - before < 16 * MEBIBYTE
        for client in clients:
            client.close()
        server.holds_nothing()


def test_headers_beyond_the_limit_are_refused(connect: Connect) -> None:
    client = connect()
    response = client.call(x_long="v" * 17_000)
    assert response.code == RESOURCE_EXHAUSTED
    assert client.call(body=b"a", x_long="v" * 15_000).body == b"a"


def test_headers_far_beyond_the_limit_reset_their_stream_only(connect: Connect) -> None:
    client = connect()
    headers: dict[str, Any] = {f"x_long{i}": "v" * 8000 for i in range(10)}
    assert client.wait(client.open(end=True, **headers)).reset == INTERNAL_ERROR
    assert client.call(body=b"a").body == b"a"
    stream = client.open(**headers)
    client.http2.send_data(stream, message(b"abc"), end_stream=True)
    client.flush()
    assert client.wait(stream).reset == INTERNAL_ERROR
    assert client.call(body=b"a").body == b"a"


def test_answers_before_the_request_is_whole_tell_the_client_to_stop(connect: Connect) -> None:
    client = connect()
    stream = client.open("/t/Nothing")
    assert client.wait(stream).code == UNIMPLEMENTED
    while client.responses[stream].reset is None:
        client.receive()
    assert client.responses[stream].reset == NO_ERROR


def test_trailers_of_a_client_change_nothing(connect: Connect) -> None:
    client = connect()
    stream = client.open("/t/Worker")
    body = b"a" * 2000
    client.send(stream, message(body), end=False)
    trailers = [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "gzip"), ("x", "y" * 9000)]
    client.http2.send_headers(stream, trailers, end_stream=True)
    client.flush()
    assert client.wait(stream).body == body


# ---- texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["plain", "100 %", "ä€😀", "a\nb\tc\x7f", "%25", "x" * 1024])
def test_texts_are_percent_encoded(connect: Connect, text: str) -> None:
    response = connect().call("/t/Fail", f"9 {text}".encode())
    assert (response.code, response.message) == (9, text)
    assert response.raw_message.isascii()
    assert response.raw_message.isprintable()


def test_long_texts_are_cut_and_say_so(connect: Connect) -> None:
    response = connect().call("/t/Fail", b"9 " + b"y" * 1025)
    assert response.message == "y" * 1024 + "...TRUNCATED"
    response = connect().call("/t/Fail", ("9 x" + "€" * 5000).encode())
    assert response.message == "x" + "€" * 341 + "...TRUNCATED"


@pytest.mark.parametrize("code", range(1, 17))
def test_every_code_arrives(connect: Connect, code: int) -> None:
    assert connect().call("/t/Fail", b"%d x" % code).code == code


# ---- gzip ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"a", b"abc" * 100_000, random.Random(1).randbytes(300_000)])
def test_unpacks_requests_and_packs_answers(connect: Connect, body: bytes) -> None:
    client = connect()
    for path in ECHOES:
        stream = client.open(path, grpc_encoding="gzip", grpc_accept_encoding="identity,gzip")
        client.send(stream, message(gzip.compress(body), 1))
        response = client.wait(stream)
        assert response.code == OK
        if len(body) > 1024:
            assert response.headers["grpc-encoding"] == "gzip"
            assert response.data[0] == 1
            assert gzip.decompress(response.body) == body
        else:
            assert response.data == message(body)


def test_packs_no_answers_for_clients_that_do_not_take_them(connect: Connect) -> None:
    client = connect()
    body = b"abc" * 1000
    stream = client.open(grpc_encoding="gzip")
    client.send(stream, message(gzip.compress(body), 1))
    assert client.wait(stream).data == message(body)
    response = client.call(body=body, grpc_accept_encoding="gzip")
    assert response.data == message(body)


def test_a_message_that_is_not_compressed_is_taken_as_it_is(connect: Connect) -> None:
    client = connect()
    assert client.call(body=b"abc", grpc_encoding="gzip").body == b"abc"
    assert client.call(body=b"abc", grpc_encoding="identity").body == b"abc"


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"no gzip at all",
        gzip.compress(b"abc" * 1000)[:-1],
        gzip.compress(b"abc" * 1000)[:-8] + b"\0" * 8,
        gzip.compress(b"abc" * 1000) + b"x",
        gzip.compress(b"abc") + gzip.compress(b"def"),
    ],
    ids=["empty", "text", "cut", "checksum", "more", "two"],
)
def test_damaged_gzip_is_an_internal_error(connect: Connect, damaged: bytes) -> None:
    client = connect()
    stream = client.open(grpc_encoding="gzip")
    client.send(stream, message(damaged, 1))
    assert client.wait(stream).code == INTERNAL
    assert client.call(body=b"a").body == b"a"


def test_a_bomb_is_refused_before_it_is_unpacked(connect: Connect, server: ServerProcess) -> None:
    client = connect()
    bomb = gzip.compress(b"\0" * (256 * MEBIBYTE), 1)
    before = server.stats()["rss"]
    stream = client.open(grpc_encoding="gzip")
    client.send(stream, message(bomb, 1))
    assert client.wait(stream).code == RESOURCE_EXHAUSTED
    client.close()
    assert not MEMORY_TELLS or server.holds_nothing()["peak_rss"] - before < 64 * MEBIBYTE


def test_an_unknown_encoding_is_unimplemented_and_told_what_is_known(connect: Connect) -> None:
    response = connect().call(body=b"a", grpc_encoding="snappy")
    assert response.code == UNIMPLEMENTED
    assert response.headers["grpc-accept-encoding"] == "identity, gzip"


def test_a_client_that_leaves_while_gzip_is_at_work_leaves_nothing(
    connect: Connect, server: ServerProcess
) -> None:
    client = connect()
    packed = message(gzip.compress(b"abc" * MEBIBYTE, 1), 1)
    streams = []
    for _ in range(8):
        stream = client.open(grpc_encoding="gzip", grpc_accept_encoding="gzip")
        client.send(stream, packed)
        streams.append(stream)
    for stream in streams[::2]:
        client.reset(stream)
    client.close()
    server.holds_nothing()


# ---- time and leaving ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/t/Hold", "/t/Slow"])
def test_answers_at_the_deadline(connect: Connect, path: str) -> None:
    begun = time.monotonic()
    response = connect().call(path, grpc_timeout="20m")
    assert (response.code, response.message) == (DEADLINE_EXCEEDED, "Deadline Exceeded")
    assert time.monotonic() - begun >= 0.02


def test_the_deadline_cancels_the_handler(connect: Connect, server: ServerProcess) -> None:
    cancelled = server.stats()["cancelled"]
    connect().call("/t/Hold", grpc_timeout="50m")
    server.eventually(lambda stats: stats["cancelled"] == cancelled + 1)


def test_answers_at_the_deadline_while_the_request_is_on_its_way() -> None:
    with serving(tick_ms=20) as server:
        client = server.connect()
        stream = client.open(grpc_timeout="50m")
        client.send(stream, message(b"abc", length=1000), end=False)
        assert client.wait(stream).code == DEADLINE_EXCEEDED


def test_a_reset_cancels_the_handler(connect: Connect, server: ServerProcess) -> None:
    before = server.stats()
    client = connect()
    stream = client.begin("/t/Hold")
    server.eventually(lambda stats: stats["started"] == before["started"] + 1)
    client.reset(stream)
    server.eventually(lambda stats: stats["cancelled"] == before["cancelled"] + 1)
    assert client.call(body=b"a").body == b"a"


def test_a_reset_in_the_segment_that_brings_the_request_leaves_nothing(
    connect: Connect, server: ServerProcess
) -> None:
    client = connect()
    for path in [*ECHOES, "/t/Hold", "/t/Big"]:
        for _ in range(20):
            stream = client.http2.get_next_available_stream_id()
            headers = {**REQUEST_HEADERS, ":path": path}
            client.http2.send_headers(stream, list(headers.items()))
            client.http2.send_data(stream, message(b"100"), end_stream=True)
            client.http2.reset_stream(stream, CANCEL)
    client.flush()
    assert client.call(body=b"a").body == b"a"
    server.eventually(lambda stats: stats["held_by_workers"] == stats["in_flight_bytes"] == 0)


def test_a_client_that_disconnects_cancels_its_handlers(
    connect: Connect, server: ServerProcess
) -> None:
    before = server.stats()
    client = connect()
    for _ in range(10):
        client.begin("/t/Hold")
    server.eventually(lambda stats: stats["started"] == before["started"] + 10)
    client.close()
    server.eventually(lambda stats: stats["cancelled"] == before["cancelled"] + 10)


def test_a_client_may_leave_at_any_byte(connect: Connect, server: ServerProcess) -> None:
    conversation = recorded(
        ("/t/Echo", message(b"abc" * 20)), ("/t/Worker", message(b"x")), ("/t/Hold", message(b"y"))
    )
    for size in range(0, len(conversation) + 1, 3):
        client = connect(start=False)
        client.raw(conversation[:size])
        client.close()
    server.holds_nothing()


def test_a_request_that_does_not_go_on_is_refused() -> None:
    with serving(upload_timeout_ms=50, tick_ms=10) as server:
        client = server.connect()
        silent = client.open()
        stalled = client.open()
        client.send(stalled, message(b"abc", length=10_000), end=False)
        assert client.wait(silent).code == CANCELLED
        assert client.wait(stalled).code == CANCELLED
        assert client.call(body=b"a").body == b"a"


def test_a_request_of_a_byte_now_and_then_does_not_go_on() -> None:
    with serving(upload_timeout_ms=100, tick_ms=10) as server:
        client = server.connect()
        stream = client.open()
        client.http2.send_data(stream, message(b"", length=100_000))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not client.responses[stream].ended:
            assert time.monotonic() < deadline
            client.http2.send_data(stream, b"x")
            client.flush()
            time.sleep(0.01)
            client.poll()
        assert client.responses[stream].code == CANCELLED


# ---- HTTP/2 itself -------------------------------------------------------------------------------


def test_answers_pings(connect: Connect) -> None:
    client = connect()
    client.http2.ping(b"12345678")
    client.flush()
    assert client.got(h2.events.PingAckReceived).ping_data == b"12345678"


def test_announces_its_limits(connect: Connect) -> None:
    client = settled(connect())
    remote = client.http2.remote_settings
    assert remote.max_concurrent_streams == 1000
    assert remote.max_header_list_size == 16_384
    assert remote.initial_window_size == 4 * MEBIBYTE


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /t/Echo HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"\0" * 100,
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ],
    ids=["get", "post", "tls", "zeros", "almost"],
)
def test_other_protocols_are_told_in_http_1(connect: Connect, junk: bytes) -> None:
    client = connect(start=False)
    client.raw(junk)
    answer = b""
    while data := client.socket.recv(4096):
        answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Length: %d" % len(body) in head
    assert b"gRPC" in body


@pytest.mark.parametrize(
    "bad",
    [
        frame(DATA, 0, 0, b"x"),
        frame(HEADERS, END_HEADERS, 2, b"\x88"),
        frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        frame(SETTINGS, 0, 0, b"12345"),
        frame(PING, 0, 0, b"1234567"),
        frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"),
        frame(CONTINUATION, 0, 1, b""),
        frame(RST_STREAM, 0, 1, b"\0\0\0\0"),
        frame(5, 0, 1, b"\0\0\0\2"),  # PUSH_PROMISE
        b"\xff\xff\xff\0\0\0\0\0\0",  # a frame of 16 MiB
    ],
)
def test_violations_of_http_2_close_the_connection(connect: Connect, bad: bytes) -> None:
    client = connect()
    client.raw(bad)
    assert client.got(h2.events.ConnectionTerminated).error_code != NO_ERROR
    client.wait_closed()


def test_connections_that_never_speak_are_closed() -> None:
    with serving(preface_timeout_ms=50, tick_ms=10) as server:
        silent = server.connect(start=False)
        half = server.connect(start=False)
        half.raw(b"PRI * HTTP/2.0\r\n")
        good = settled(server.connect())
        for client in (silent, half):
            client.wait_closed()
        assert good.call(body=b"a").body == b"a"


def test_more_streams_than_allowed_are_refused() -> None:
    with serving(max_concurrent_streams=5) as server:
        client = settled(server.connect())
        for _ in range(5):
            client.begin("/t/Hold")
        server.eventually(lambda stats: stats["started"] == 5)
        # h2 would not send it.
        client.http2.remote_settings.update({3: 100})
        client.http2.remote_settings.acknowledge()
        client.open("/t/Hold", end=True)
        client.wait_closed()
        server.holds_nothing()


def test_streams_beyond_a_limit_that_the_client_cannot_know_are_refused_one_by_one() -> None:
    with serving(max_concurrent_streams=5) as server:
        client = server.connect(start=False)
        streams = client.expect(8)
        client.raw(recorded(*[("/t/Hold", message(b"a"))] * 8))
        for stream in streams[5:]:
            assert client.wait(stream).reset == REFUSED_STREAM
        server.ask("release")
        for stream in streams[:5]:
            assert client.wait(stream).body == b"a"


def test_a_client_that_grpc_wrote_waits_for_a_free_stream() -> None:
    with serving(max_concurrent_streams=2) as server, grpc_channel(server) as channel:
        futures = [
            channel.unary_unary("/t/Slow").future(b"%d" % i, PATIENCE_SECONDS) for i in range(10)
        ]
        assert [future.result() for future in futures] == [b"%d" % i for i in range(10)]


def test_a_client_that_answers_no_keepalive_ping_is_dropped() -> None:
    with serving(keepalive_time_ms=50, keepalive_timeout_ms=500, tick_ms=10) as server:
        good = server.connect()
        mute = settled(server.connect())
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert time.monotonic() < deadline
            good.poll()
            if select.select([mute.socket], [], [], 0.01)[0] and not mute.socket.recv(4096):
                break  # what came before was read, but not answered
        assert any(isinstance(event, h2.events.PingReceived) for event in good.events)
        assert good.call(body=b"a").body == b"a"


def test_a_connection_goes_when_it_is_old() -> None:
    with serving(max_connection_age_ms=100, tick_ms=10) as server:
        client = server.connect()
        stream = client.begin("/t/Hold")
        client.wait_goaway()
        server.ask("release")
        assert client.wait(stream).body == b""
        client.wait_closed()


def test_a_connection_that_is_old_may_be_dropped_with_its_requests() -> None:
    with serving(max_connection_age_ms=50, max_connection_age_grace_ms=50, tick_ms=10) as server:
        client = server.connect()
        client.begin("/t/Hold")
        client.wait_closed()
        server.eventually(lambda stats: stats["cancelled"] == 1)


# ---- drain ---------------------------------------------------------------------------------------


def test_a_drain_finishes_what_is_in_flight_and_takes_nothing_new() -> None:
    with serving(tick_ms=50) as server:
        assert isinstance(server.address, tuple)
        idle = settled(server.connect())
        busy = settled(server.connect())
        stream = busy.begin("/t/Slow", b"last")
        server.eventually(lambda stats: stats["in_flight"] == 1 or stats["connections"] == 2)
        server.tell(f"drain {PATIENCE_SECONDS}")
        busy.wait_goaway()
        assert busy.wait(stream).body == b"last"
        for client in (idle, busy):
            client.wait_closed()
            # First a notice, then, once it has been seen, the last stream that is served.
            assert client.goaways == [2**31 - 1, 1 if client is busy else 0]
        assert server.heard() is True
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.address)


def test_a_request_that_was_on_its_way_when_the_drain_began_is_served() -> None:
    with serving(goaway_timeout_ms=PATIENCE_SECONDS * 1000) as server:
        client = settled(server.connect())
        server.tell(f"drain {PATIENCE_SECONDS}")
        while not select.select([client.socket], [], [], 0.1)[0]:
            pass
        # The notice is there, but not read: the request crosses it.
        stream = client.begin(body=b"crossed")
        assert client.wait(stream).body == b"crossed"
        assert server.heard() is True


def test_a_drain_drops_what_exceeds_its_grace() -> None:
    with serving(tick_ms=50) as server:
        client = settled(server.connect())
        client.begin("/t/Hold")
        server.eventually(lambda stats: stats["started"] == 1)
        assert server.ask("drain 0.1") is False
        client.wait_closed()
        server.eventually(lambda stats: stats["cancelled"] == 1)


def test_a_drain_does_not_wait_for_clients_that_read_nothing_or_say_nothing() -> None:
    with serving(tick_ms=50) as server:
        deaf = settled(server.connect(receive_buffer=4096))
        deaf.acknowledges = False
        deaf.begin("/t/Big", b"10000000")
        server.connect(start=False)
        server.eventually(lambda stats: stats["connections"] == 2)
        assert server.ask("drain 0.2") is False
        server.holds_nothing()


# ---- windows, slow readers, memory ---------------------------------------------------------------


def test_answers_fit_through_a_window_of_one_byte(connect: Connect) -> None:
    client = connect(start=False)
    client.start(INITIAL_WINDOW_SIZE=1)
    for path in ("/t/Spliced", "/t/Native"):
        assert client.call(path, b"0123456789").body == b"0123456789"


def test_answers_wait_for_the_window(connect: Connect) -> None:
    client = connect(start=False)
    client.start(INITIAL_WINDOW_SIZE=0)
    client.acknowledges = False
    stream = client.begin("/t/Spliced", b"x" * 1000)
    other = client.begin("/t/Nothing")
    assert client.wait(other).code == UNIMPLEMENTED
    assert client.responses[stream].data == b""
    for step in (1, 4, 100, 900):
        client.http2.increment_flow_control_window(step, stream)
        client.flush()
        wanted = len(client.responses[stream].data) + step
        while len(client.responses[stream].data) < wanted:
            client.receive()
        assert len(client.responses[stream].data) == wanted
    assert client.wait(stream).body == b"x" * 1000


def test_a_reset_of_an_answer_that_waits_for_the_window_leaves_nothing(
    connect: Connect, server: ServerProcess
) -> None:
    client = connect(start=False)
    client.start(INITIAL_WINDOW_SIZE=10)
    client.acknowledges = False
    streams = [client.begin("/t/Spliced", b"x" * 10_000) for _ in range(20)]
    for stream in streams:
        while len(client.responses[stream].data) < 10:
            client.receive()
    for stream in streams:
        client.reset(stream)
    server.eventually(lambda stats: stats["in_flight_bytes"] == 0)
    assert client.call("/t/Native", b"a").body == b"a"


def test_a_slow_reader_costs_bounded_memory_and_no_one_elses_time() -> None:
    with serving() as server:
        slow = settled(server.connect(receive_buffer=65_536))
        slow.http2.increment_flow_control_window(2**31 - 1 - 65_535)
        good = server.connect()
        before = server.stats()["rss"]
        size = 24 * MEBIBYTE
        streams = []
        for _ in range(3):
            stream = slow.open("/t/Big")
            slow.http2.increment_flow_control_window(2**30, stream)
            slow.send(stream, message(b"%d" % size))
            streams.append(stream)
        server.eventually(lambda stats: stats["in_flight"] == 0)
        for _ in range(50):
            assert good.call(body=b"a").body == b"a"
        # The answers themselves, which still count, and a few megabytes on their way.
        assert server.stats()["in_flight_bytes"] > 3 * size - 16 * MEBIBYTE
        assert not MEMORY_TELLS or server.stats()["rss"] - before < 3 * size + 16 * MEBIBYTE
        slow.acknowledges = False
        for stream in streams:
            assert len(slow.wait(stream).body) == size
        slow.close()
        good.close()
        stats = server.holds_nothing()
        assert not MEMORY_TELLS or stats["peak_rss"] - before < 5 * size
        assert not MEMORY_TELLS or stats["rss"] - before < 16 * MEBIBYTE


def test_a_client_that_reads_nothing_is_dropped_in_the_end() -> None:
    with serving(unread_timeout_ms=100, tick_ms=20) as server:
        deaf = settled(server.connect(receive_buffer=4096))
        deaf.http2.increment_flow_control_window(2**30)
        stream = deaf.open("/t/Big")
        deaf.http2.increment_flow_control_window(2**30, stream)
        deaf.send(stream, message(b"30000000"))
        server.holds_nothing()


def test_a_client_that_reads_the_last_megabyte_of_nothing_is_dropped_too() -> None:
    # All answers have left for the transport; nothing is unsent, and nothing is read.
    with serving(unread_timeout_ms=100, tick_ms=20) as server:
        deaf = settled(server.connect(receive_buffer=4096))
        deaf.http2.increment_flow_control_window(2**30)
        for _ in range(12):
            stream = deaf.open("/t/Big")
            deaf.http2.increment_flow_control_window(2**30, stream)
            deaf.send(stream, message(b"500000"))
        server.holds_nothing()


def test_an_answer_that_was_reset_is_not_waited_for() -> None:
    with serving(unread_timeout_ms=50, tick_ms=10) as server:
        client = server.connect(start=False)
        client.start(INITIAL_WINDOW_SIZE=10)
        client.acknowledges = False
        stream = client.begin("/t/Spliced", b"x" * 10_000)
        while len(client.responses[stream].data) < 10:
            client.receive()
        client.reset(stream)
        time.sleep(0.5)  # ten times what the server waits for a client that does not read
        assert client.call("/t/Native", b"a").body == b"a"


def test_a_client_that_reads_slowly_is_not_dropped() -> None:
    with serving(unread_timeout_ms=400, tick_ms=20) as server:
        slow = settled(server.connect(receive_buffer=4096))
        slow.http2.increment_flow_control_window(2**30)
        stream = slow.open("/t/Big")
        slow.http2.increment_flow_control_window(2**30, stream)
        slow.send(stream, message(b"6000000"))
        slow.acknowledges = False
        until = time.monotonic() + 1.5
        while time.monotonic() < until:  # far longer than the server waits for silence
            slow.take(slow.socket.recv(16_384))
            time.sleep(0.01)
        assert len(slow.wait(stream).body) == 6_000_000


def test_an_upload_of_many_windows_arrives(connect: Connect) -> None:
    client = connect()
    body = random.Random(3).randbytes(8 * MEBIBYTE)
    streams = [client.open("/t/Native") for _ in range(4)]
    data = message(body)
    for at in range(0, len(data), MEBIBYTE):
        for stream in streams:
            client.send(stream, data[at : at + MEBIBYTE], end=False)
    for stream in streams:
        client.send(stream, b"")
        assert client.wait(stream).body == body


def test_what_a_refused_request_still_sends_does_not_use_the_connections_window(
    connect: Connect,
) -> None:
    client = settled(connect())
    stream = client.open("/t/Nothing")
    assert client.wait(stream).code == UNIMPLEMENTED
    for _ in range(40):  # MiB, through the connection's window of 16
        client.raw(frame(DATA, 0, stream, b"\0" * 16_384) * 64)
        client.events.clear()
        client.http2.ping(b"12345678")
        client.flush()
        client.got(h2.events.PingAckReceived)
    assert client.call("/t/Native", b"x" * MEBIBYTE).body == b"x" * MEBIBYTE


def test_a_greedy_connection_is_refused_while_a_good_one_goes_on() -> None:
    with serving(max_in_flight_bytes=4 * MEBIBYTE) as server:
        greedy = server.connect()
        good = server.connect()
        for _ in range(8):
            stream = greedy.open()
            greedy.send(stream, message(b"", length=MEBIBYTE) + b"x" * (MEBIBYTE - 1), end=False)
            greedy.poll()
            body = b"y" * 100_000
            assert good.call(body=body).body == body
            assert server.stats()["in_flight_bytes"] <= 4 * MEBIBYTE
        greedy.http2.ping(b"12345678")
        greedy.flush()
        greedy.got(h2.events.PingAckReceived)
        refused = sum(answer.code == RESOURCE_EXHAUSTED for answer in greedy.responses.values())
        assert refused >= 6


def test_stalled_requests_give_way_when_memory_is_short() -> None:
    with serving(max_in_flight_bytes=2 * MEBIBYTE, stall_timeout_ms=1, tick_ms=100_000) as server:
        stalled = [server.connect() for _ in range(2)]
        streams = [client.open() for client in stalled]
        for client, stream in zip(stalled, streams, strict=True):
            data = message(b"", length=MEBIBYTE) + b"x" * (MEBIBYTE - 100_000)
            client.send(stream, data, end=False)
        server.eventually(lambda stats: stats["in_flight_bytes"] > 1_800_000)
        good = server.connect()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while good.call("/t/Native", b"y" * 500_000).code != OK:
            assert time.monotonic() < deadline
        # The stalled ones are told at once, on connections where nothing else happens.
        codes = [client.wait(stream).code for client, stream in zip(stalled, streams, strict=True)]
        assert codes == [RESOURCE_EXHAUSTED] * 2


def test_answers_that_nobody_reads_give_way_when_memory_is_short() -> None:
    with serving(max_in_flight_bytes=16 * MEBIBYTE, stall_timeout_ms=1) as server:
        deaf = server.connect(start=False)
        deaf.start(INITIAL_WINDOW_SIZE=0)
        deaf.begin("/t/Spliced", b"x" * (6 * MEBIBYTE))
        server.eventually(lambda stats: stats["in_flight_bytes"] >= 12 * MEBIBYTE)
        good = server.connect()
        body = b"y" * (3 * MEBIBYTE)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while good.call("/t/Native", body).code != OK:
            assert time.monotonic() < deadline
        deaf.wait_closed()


# ---- floods --------------------------------------------------------------------------------------


def drained_in_background(client: Client) -> threading.Thread:
    """Read what the server sends, so that a flood that it answers does not stop us."""

    def read() -> None:
        try:
            while client.socket.recv(1 << 18):
                pass
        except OSError:
            pass

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def flood_of_resets(path: str, streams: int, first: int = 1) -> bytes:
    """Streams that are opened, filled and reset at once."""
    data = bytearray()
    for stream in range(first, first + 2 * streams, 2):
        block = b"\x83\x86\x01\x04test"  # POST, http, :authority
        block += b"\x04" + bytes([len(path)]) + path.encode()
        block += b"\x00\x02te\x08trailers"
        block += b"\x0f\x10" + bytes([16]) + b"application/grpc"
        data += frame(HEADERS, END_HEADERS, stream, block)
        data += frame(DATA, END_STREAM, stream, message(b"100"))
        data += frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
    return bytes(data)


@pytest.mark.parametrize("path", ["/t/Hold", "/t/Worker", "/t/Big", "/t/Nothing"])
def test_a_flood_of_resets_leaves_nothing_and_stops_nobody(path: str) -> None:
    with serving() as server:
        good = server.connect()
        good.call(body=b"a")
        before = server.stats()["rss"]
        for _ in range(4):  # the library may end a connection that goes on like that
            client = server.connect()
            reader = drained_in_background(client)
            flood = flood_of_resets(path, 2500)
            try:
                for at in range(0, len(flood), 50_000):
                    client.raw(flood[at : at + 50_000])
                    assert good.call(body=b"a").body == b"a"
            except ConnectionError:
                pass
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_RDWR)
            reader.join()
            client.close()
        good.close()
        assert not MEMORY_TELLS or server.holds_nothing()["rss"] - before < 16 * MEBIBYTE


@pytest.mark.parametrize(
    "flood",
    [
        frame(PING, 0, 0, b"12345678") * 20_000,
        frame(SETTINGS, 0, 0, b"") * 20_000,
        b"".join(frame(WINDOW_UPDATE, 0, i, b"\0\0\0\0") for i in range(1, 40_001, 2)),
        flood_of_resets("/t/Nothing", 30_000, first=3),
        flood_of_resets("/t/Native", 30_000, first=3),
        # Without :path; each is answered by a reset.
        b"".join(frame(HEADERS, 5, i, b"\x83\x86\x01\x01t") for i in range(3, 400_001, 2)),
    ],
    ids=["pings", "settings", "windows", "refused", "answered", "malformed"],
)
def test_a_flood_whose_answers_nobody_reads_costs_bounded_memory(flood: bytes) -> None:
    with serving() as server:
        deaf = settled(server.connect(receive_buffer=4096))
        deaf.http2.increment_flow_control_window(2**30)
        stream = deaf.open("/t/Big")
        deaf.http2.increment_flow_control_window(2**30, stream)
        deaf.send(stream, message(b"8000000"))  # the sockets are full from here on
        server.eventually(lambda stats: stats["in_flight_bytes"] > 8_000_000)
        before = server.stats()["rss"]
        deaf.socket.settimeout(0.5)
        try:
            for at in range(0, len(flood), 1 << 16):
                deaf.raw(flood[at : at + (1 << 16)])
        except OSError:  # closed, or no longer read from
            pass
        assert not MEMORY_TELLS or server.stats()["rss"] - before < 12 * MEBIBYTE
        deaf.close()
        server.holds_nothing()


def test_a_client_that_makes_us_answer_and_does_not_read_is_dropped() -> None:
    with serving(max_concurrent_streams=10) as server:
        deaf = settled(server.connect(receive_buffer=4096))
        deaf.http2.increment_flow_control_window(2**30)
        stream = deaf.open("/t/Big")
        deaf.http2.increment_flow_control_window(2**30, stream)
        deaf.send(stream, message(b"8000000"))
        server.eventually(lambda stats: stats["in_flight_bytes"] > 8_000_000)
        deaf.raw(flood_of_resets("/t/Nothing", 600, first=3))
        server.holds_nothing()


def test_connections_that_come_and_go_leave_nothing(
    connect: Connect, server: ServerProcess
) -> None:
    for _ in range(50):
        connect().close()
    before = server.holds_nothing()["rss"]
    for i in range(500):
        client = connect(start=i % 2 == 0)
        if i % 4 == 0:
            client.begin("/t/Hold", b"x" * 1000)
        client.close()
    assert not MEMORY_TELLS or server.holds_nothing()["rss"] - before < 8 * MEBIBYTE
