"""Streaming calls on the native transport, byte by byte: messages, windows, ends.

The handlers are those of http2_server.py, the client is h2. After each test on the shared server
it must hold nothing: no call, no handler, no byte of the in-flight budget.
"""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Iterator

import pytest

from tests.functional.http2_client import (
    MEMORY_TELLS,
    PATIENCE_SECONDS,
    Client,
    ServerProcess,
    message,
    serving,
)
from tests.functional.test_http2_transport import Connect, settled
from tfsrv._turns import STEPS
from tfsrv.frontends._http2 import available

pytestmark = pytest.mark.skipif(not available(), reason="needs libnghttp2")

MEBIBYTE = 1 << 20
STREAM_WINDOW = 4 * MEBIBYTE  # of _http2_connection.pyx
BACKLOG = 65_536  # of _http2_streaming.pyx

OK, CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 1, 4, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14
CANCEL = 8  # HTTP/2's


@pytest.fixture(scope="module")
def shared_server() -> Iterator[ServerProcess]:
    with serving(max_receive_message_bytes=8 * MEBIBYTE) as server:
        yield server


@pytest.fixture
def server(shared_server: ServerProcess) -> Iterator[ServerProcess]:
    yield shared_server
    shared_server.holds_nothing()


@pytest.fixture
def connect(server: ServerProcess) -> Iterator[Connect]:
    """Connections to the shared server that are closed at the end."""
    yield server.connect
    server.disconnect()


def without_acknowledging(client: Client) -> Client:
    """A client whose windows shut as the server sends."""
    client.acknowledges = False
    return settled(client)


# ---- messages ------------------------------------------------------------------------------------


def test_answers_each_message_before_the_next_one_comes(connect: Connect) -> None:
    client = connect()
    stream = client.open("/s/Echo")
    for i in range(1, 50):
        client.send(stream, message(b"%d" % i), end=False)
        assert client.wait_messages(stream, i)[-1] == b"%d" % i
    response = client.end(stream)
    assert response.headers == {":status": "200", "content-type": "application/grpc"}
    assert response.trailers == {"grpc-status": "0"}
    assert response.reset is None


def test_takes_messages_in_single_bytes(connect: Connect) -> None:
    client = connect()
    bodies = [b"", b"a", b"bc" * 20, b""]
    stream = client.open("/s/Echo")
    client.send(stream, b"".join(map(message, bodies)), frame_bytes=1)
    assert client.wait(stream).messages == bodies


def test_takes_many_messages_of_one_frame_and_one_of_many_frames(connect: Connect) -> None:
    client = connect()
    bodies = [b"%d" % i * (i % 7) for i in range(1000)] + [b"x" * 300_000]
    stream = client.open("/s/Echo")
    client.send(stream, b"".join(map(message, bodies)))
    assert client.wait(stream).messages == bodies


@pytest.mark.parametrize("frame_bytes", [7, 100, 16_384])
def test_takes_messages_cut_anywhere(connect: Connect, frame_bytes: int) -> None:
    chance = random.Random(frame_bytes)
    bodies = [chance.randbytes(chance.choice([0, 1, 50, 3000])) for _ in range(40)]
    client = connect()
    stream = client.open("/s/Echo")
    client.send(stream, b"".join(map(message, bodies)), frame_bytes=frame_bytes)
    assert client.wait(stream).messages == bodies


def test_takes_a_message_that_is_longer_than_the_window(connect: Connect) -> None:
    client = connect()
    stream = client.open("/s/Sink")
    client.send(stream, message(b"x" * 7 * MEBIBYTE), end=False)
    client.send(stream, message(b"y" * 8 * MEBIBYTE))
    assert client.wait(stream).messages == [b"2 %d" % (15 * MEBIBYTE)]


def test_answers_one_request_with_many_messages(connect: Connect) -> None:
    response = connect().call("/s/Count", b"300 1000")
    assert response.messages == [b"%01000d" % i for i in range(300)]
    assert response.code == OK


def test_answers_with_messages_longer_than_the_windows(connect: Connect) -> None:
    response = connect().call("/s/Count", b"3 3000000")
    assert [len(body) for body in response.messages] == [3_000_000] * 3
    assert response.code == OK


def test_answers_without_any_message(connect: Connect) -> None:
    for path in ("/s/Echo", "/s/Count"):
        client = connect()
        stream = client.open(path)
        client.send(stream, b"" if path == "/s/Echo" else message(b"0 0"))
        response = client.wait(stream)
        assert (response.code, len(response.data), response.reset) == (OK, 0, None)


def test_ends_a_call_whose_requests_go_on(connect: Connect) -> None:
    client = connect()
    stream = client.open("/s/Fail")
    client.send(stream, message(b"9 2 enough"))
    response = client.wait(stream)
    assert response.messages == [b"9 2 enough"] * 2
    assert (response.trailers["grpc-status"], response.message) == ("9", "enough")


def test_an_error_before_the_first_message_is_in_the_headers(connect: Connect) -> None:
    response = connect().call("/s/Fail", "5 0 niçe".encode())
    assert (response.code, response.message) == (5, "niçe")
    assert response.trailers == {}


def test_inflates_requests_and_deflates_long_answers(connect: Connect) -> None:
    client = connect()
    stream = client.open("/s/Echo", grpc_encoding="gzip", grpc_accept_encoding="identity, gzip")
    long = b"abc" * 10_000
    sent = [message(gzip.compress(long), 1), message(b"plain"), message(gzip.compress(b""), 1)]
    client.send(stream, b"".join(sent))
    response = client.wait(stream)
    assert response.headers["grpc-encoding"] == "gzip"
    first, second, third = response.messages
    assert (gzip.decompress(first), second, third) == (long, b"plain", b"")
    assert len(first) < 1000
    assert response.code == OK


def test_a_client_that_does_not_gzip_gets_no_gzip(connect: Connect) -> None:
    response = connect().call("/s/Echo", b"a" * 5000, grpc_accept_encoding="gzip")
    assert response.messages == [b"a" * 5000]
    assert "grpc-encoding" not in response.headers


def test_serves_many_streams_beside_each_other(connect: Connect) -> None:
    client = connect()
    streams = [client.open("/s/Echo") for _ in range(100)]
    for turn in range(1, 4):
        for stream in streams:
            client.send(stream, message(b"%d %d" % (stream, turn)), end=False)
        for stream in streams:
            assert client.wait_messages(stream, turn)[-1] == b"%d %d" % (stream, turn)
    assert [client.end(stream).code for stream in streams] == [OK] * 100


def test_streams_with_much_to_do_let_others_have_their_turn() -> None:
    with serving() as server:
        client = server.connect()
        streams = [client.open("/s/Deaf") for _ in range(50)]
        for stream in streams:
            client.send(stream, message(b"x") * 200)
        most = int(client.call("/t/Turns", b"10000").messages[0])
        assert 0 < most <= STEPS
        assert [client.wait(stream).messages for stream in streams] == [[b"200 200"]] * 50


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "data", "code", "text"),
    [
        ("/s/Echo", message(b"", 0, 8 * MEBIBYTE + 1), RESOURCE_EXHAUSTED, "larger than max"),
        ("/s/Echo", message(b"a", 1), INTERNAL, "compression flag"),
        ("/s/Echo", message(b"a", 7), INTERNAL, "compression flag"),
        ("/s/Echo", message(b"abc")[:-1], INTERNAL, "ended inside its message"),
        ("/s/Echo", b"\0\0", INTERNAL, "ended inside its message"),
        ("/s/Count", b"", UNIMPLEMENTED, "No message came"),
        ("/s/Count", message(b"1 1") * 2, UNIMPLEMENTED, "Several messages came"),
    ],
)
def test_refuses_what_is_no_message(
    connect: Connect, path: str, data: bytes, code: int, text: str
) -> None:
    client = connect()
    stream = client.open(path)
    client.send(stream, data)
    response = client.wait(stream)
    assert response.code == code
    assert text in response.message
    assert response.trailers == {}
    assert client.call(body=b"next").body == b"next"


@pytest.mark.parametrize("packed", [b"no gzip", gzip.compress(b"a" * 100)[:-9]])
def test_refuses_what_is_no_gzip(connect: Connect, packed: bytes) -> None:
    client = connect()
    stream = client.open("/s/Echo", grpc_encoding="gzip")
    client.send(stream, message(packed, 1))
    assert client.wait(stream).code == INTERNAL


def test_refuses_gzip_of_more_than_a_message_may_have(connect: Connect) -> None:
    client = connect()
    stream = client.open("/s/Echo", grpc_encoding="gzip")
    client.send(stream, message(gzip.compress(b"a" * (8 * MEBIBYTE + 1)), 1))
    assert client.wait(stream).code == RESOURCE_EXHAUSTED


def test_a_wrong_message_after_good_ones_ends_the_call(connect: Connect) -> None:
    client = connect()
    stream = client.open("/s/Echo")
    client.send(stream, message(b"good"), end=False)
    assert client.wait_messages(stream, 1) == [b"good"]
    client.send(stream, message(b"bad", 2), end=False)
    response = client.wait(stream)
    assert response.trailers["grpc-status"] == str(INTERNAL)
    assert response.messages == [b"good"]


def test_what_a_handler_holds_counts_against_the_budget() -> None:
    with serving(max_in_flight_bytes=2 * MEBIBYTE) as server:  # a connection may hold half of it
        client = settled(server.connect())
        stream = client.open("/s/Deaf")
        client.send(stream, message(b"x" * MEBIBYTE), end=False)
        response = client.wait(stream)
        assert (response.code, "in flight" in response.message) == (RESOURCE_EXHAUSTED, True)
        assert client.call("/s/Count", b"1 1100000").code == RESOURCE_EXHAUSTED
        assert client.call("/s/Count", b"2 100000").code == OK
        server.disconnect()
        server.holds_nothing()


# ---- windows -------------------------------------------------------------------------------------


def test_a_client_that_reads_nothing_is_not_written_for(
    connect: Connect, server: ServerProcess
) -> None:
    client = without_acknowledging(connect())
    before = server.stats()
    streams = [client.begin("/s/Flood", b"1000") for _ in range(10)]
    server.eventually(lambda stats: stats["started"] == before["started"] + 10)
    client.poll()
    assert connect().call(body=b"others").body == b"others"
    stats = server.stats()
    # The windows' 64 KiB of the connection, and a backlog for each stream.
    most = (65_535 + 10 * (BACKLOG + 2 * 1005)) // 1000
    assert stats["written"] - before["written"] <= most
    assert stats["in_flight_bytes"] <= 10 * (BACKLOG + 2 * 1005)
    for stream in streams:
        client.reset(stream)
    server.eventually(lambda stats: stats["cancelled"] == before["cancelled"] + 10)


def test_a_client_that_reads_on_gets_on(connect: Connect, server: ServerProcess) -> None:
    client = without_acknowledging(connect())
    stream = client.begin("/s/Count", b"2000 1000")
    server.eventually(lambda stats: stats["in_flight_bytes"] > BACKLOG)
    client.poll()
    client.acknowledges = True
    received = len(client.responses[stream].data)
    client.http2.increment_flow_control_window(received, None)
    client.http2.increment_flow_control_window(received, stream)
    client.flush()
    response = client.wait(stream)
    assert response.messages == [b"%01000d" % i for i in range(2000)]


def test_answers_fit_through_a_window_of_one_byte(connect: Connect) -> None:
    client = connect(start=False)
    client.start(INITIAL_WINDOW_SIZE=1)
    assert client.call("/s/Count", b"3 5").messages == [b"00000", b"00001", b"00002"]


def test_a_handler_that_reads_nothing_keeps_the_clients_window_shut(
    connect: Connect, server: ServerProcess
) -> None:
    client = settled(connect())
    streams = [client.open("/s/Deaf") for _ in range(8)]  # together more than a connection's window
    body = message(b"x" * 1019) * 1024
    for stream in streams:
        for _ in range(4):
            client.send(stream, body, end=False)
        assert client.http2.local_flow_control_window(stream) == 0
    # All are full, and yet others get through on the same connection.
    assert client.call(body=b"y" * MEBIBYTE).body == b"y" * MEBIBYTE
    assert [client.http2.local_flow_control_window(stream) for stream in streams] == [0] * 8
    assert server.stats()["in_flight_bytes"] == 8 * STREAM_WINDOW
    for stream in streams:
        client.reset(stream)


def test_a_handler_that_begins_to_read_lets_the_client_go_on() -> None:
    with serving() as server:
        client = settled(server.connect())
        stream = client.open("/s/Deaf")
        client.send(stream, message(b"x" * 1019) * 4096, end=False)
        assert client.http2.local_flow_control_window(stream) == 0
        server.ask("release")
        client.send(stream, message(b"x" * 1019) * 8192)
        assert client.wait(stream).messages == [b"%d %d" % (3 * 4096, 3 * 4096 * 1019)]
        server.disconnect()
        server.holds_nothing()


def test_memory_of_what_was_read_is_given_back() -> None:
    with serving() as server:
        client = settled(server.connect())
        rss = server.stats()["rss"]
        stream = client.open("/s/Echo")
        for i in range(1, 60):
            client.send(stream, message(b"x" * MEBIBYTE), end=False)
            client.wait_messages(stream, i)
            client.responses[stream].data.clear()
            client.responses[stream].data += message(b"") * i  # counted, and forgotten
        assert not MEMORY_TELLS or server.stats()["rss"] < rss + 16 * MEBIBYTE
        assert client.end(stream).code == OK
        server.disconnect()
        server.holds_nothing()


def test_empty_messages_without_end_do_not_hold_up_others(
    connect: Connect, server: ServerProcess
) -> None:
    client = connect()
    stream = client.open("/s/Sink")
    client.send(stream, message(b"") * 200_000, end=False)
    assert connect().call(body=b"others").body == b"others"
    assert client.end(stream).messages == [b"200000 0"]


# ---- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/s/Echo", "/s/Deaf", "/s/Flood", "/s/Wait"])
@pytest.mark.parametrize("leaves", ["by a reset", "by closing the connection"])
def test_a_client_that_leaves_cancels_the_handler(
    connect: Connect, server: ServerProcess, path: str, leaves: str
) -> None:
    before = server.stats()
    client = without_acknowledging(connect())
    stream = client.open(path)
    client.send(stream, message(b"1000"), end=path in ("/s/Flood", "/s/Wait"))
    server.eventually(lambda stats: stats["started"] == before["started"] + 1)
    if leaves == "by a reset":
        client.reset(stream)
    else:
        client.close()
    stats = server.eventually(lambda stats: stats["cancelled"] == before["cancelled"] + 1)
    assert stats["in_flight_bytes"] == 0
    server.eventually(lambda stats: stats["answering"] == 0)


def test_a_reset_inside_a_message_leaves_nothing(connect: Connect, server: ServerProcess) -> None:
    client = connect()
    for size in (1, 4, 5, 100, 100_000):
        stream = client.open("/s/Echo")
        client.send(stream, message(b"x" * 200_000)[:size], end=False)
        client.reset(stream)
    assert client.call(body=b"next").body == b"next"
    server.eventually(lambda stats: stats["answering"] == stats["in_flight_bytes"] == 0)


def test_streams_that_are_opened_and_reset_at_once_leave_nothing(
    connect: Connect, server: ServerProcess
) -> None:
    client = connect()
    for _ in range(300):
        client.reset(client.open("/s/Echo"))
    server.eventually(lambda stats: stats["answering"] == 0)


def test_a_handler_that_goes_on_when_it_is_cancelled_is_ended(
    connect: Connect, server: ServerProcess
) -> None:
    client = connect()
    stream = client.open("/s/Stubborn")
    client.send(stream, message(b"a"))
    client.wait_messages(stream, 1)
    client.reset(stream)
    server.eventually(lambda stats: stats["answering"] == 0)


def test_a_deadline_ends_the_call_behind_its_messages(
    connect: Connect, server: ServerProcess
) -> None:
    before = server.stats()["cancelled"]
    response = connect().call("/s/Wait", b"first", grpc_timeout="1S")
    assert response.messages == [b"first"]
    assert response.trailers == {"grpc-status": "4", "grpc-message": "Deadline Exceeded"}
    server.eventually(lambda stats: stats["cancelled"] == before + 1)


@pytest.mark.parametrize("timeout", ["0n", "1n", "20m"])
def test_a_deadline_before_the_first_message_is_in_the_headers(
    connect: Connect, timeout: str
) -> None:
    client = connect()
    response = client.wait(client.open("/s/Deaf", grpc_timeout=timeout))
    assert (response.code, response.trailers) == (DEADLINE_EXCEEDED, {})


def test_a_deadline_is_not_early(connect: Connect) -> None:
    begun = time.monotonic()
    connect().call("/s/Wait", b"", grpc_timeout="150m")
    assert time.monotonic() - begun >= 0.15


def test_a_deadline_that_is_not_reached_changes_nothing(connect: Connect) -> None:
    for timeout in ("10S", "99999999H"):
        assert connect().call("/s/Count", b"2 2", grpc_timeout=timeout).code == OK


def test_a_call_that_is_idle_lives_on() -> None:
    with serving(upload_timeout_ms=50, unread_timeout_ms=50, tick_ms=10) as server:
        client = settled(server.connect())
        waiting = client.begin("/s/Wait", b"a")
        echo = client.open("/s/Echo")
        client.send(echo, message(b"a"), end=False)
        client.wait_messages(echo, 1)
        time.sleep(0.3)  # six times what moving things are given
        client.send(echo, message(b"b"), end=False)
        assert client.wait_messages(echo, 2) == [b"a", b"b"]
        server.ask("release")
        assert client.wait(waiting).messages == [b"a", b"a"]
        assert client.end(echo).code == OK


def test_a_message_that_does_not_go_on_ends_the_call() -> None:
    with serving(upload_timeout_ms=50, tick_ms=10) as server:
        client = settled(server.connect())
        stream = client.open("/s/Echo")
        client.send(stream, message(b"a") + message(b"bc")[:-1], end=False)
        response = client.wait(stream)
        assert response.messages == [b"a"]
        assert response.trailers["grpc-status"] == str(CANCELLED)
        server.disconnect()
        server.holds_nothing()


def test_a_message_that_cannot_go_on_since_nobody_reads_is_waited_for() -> None:
    with serving(upload_timeout_ms=50, tick_ms=10) as server:
        client = settled(server.connect())
        stream = client.open("/s/Deaf")
        sent = message(b"x" * 5 * MEBIBYTE)
        client.send(stream, sent[:STREAM_WINDOW], end=False)
        time.sleep(0.3)  # six times what a message is given that is waited for
        assert not client.responses[stream].ended
        server.ask("release")
        client.send(stream, sent[STREAM_WINDOW:])
        assert client.wait(stream).messages == [b"1 %d" % (5 * MEBIBYTE)]


def test_a_client_that_reads_nothing_of_a_call_for_long_loses_that_call_alone() -> None:
    with serving(unread_timeout_ms=50, tick_ms=10) as server:
        client = server.connect(start=False)
        client.start(INITIAL_WINDOW_SIZE=1000)
        settled(client)
        idle = client.begin("/s/Wait", b"a")
        client.acknowledges = False
        stream = client.begin("/s/Flood", b"900")
        assert client.wait(stream).reset == CANCEL
        server.eventually(lambda stats: stats["cancelled"] == 1)
        client.acknowledges = True
        assert client.call(body=b"next").body == b"next"
        assert not client.responses[idle].ended
        server.disconnect()
        server.holds_nothing()


def test_calls_that_do_not_move_make_room_when_memory_is_short() -> None:
    limits = {"max_in_flight_bytes": 2 * MEBIBYTE, "stall_timeout_ms": 50}
    with serving(**limits) as server:
        stalled = settled(server.connect())
        unread = without_acknowledging(server.connect())
        begun = stalled.open("/s/Echo")
        stalled.send(begun, message(b"x" * MEBIBYTE)[: 3 * MEBIBYTE // 4], end=False)
        full = unread.begin("/s/Flood", b"900000")
        server.eventually(lambda stats: stats["in_flight_bytes"] > 3 * MEBIBYTE // 2)
        time.sleep(0.1)  # until they have stalled
        other = server.connect()
        other.call(body=b"x" * 900_000)  # asks for room; whoever comes next has it
        assert stalled.wait(begun).code == RESOURCE_EXHAUSTED
        unread.acknowledges = True
        assert unread.wait(full).reset == CANCEL
        server.disconnect()
        server.holds_nothing()


# ---- drain ---------------------------------------------------------------------------------------


def test_a_drain_ends_streaming_calls_early_and_waits_for_others() -> None:
    with serving(tick_ms=20, stream_grace_ms=100) as server:
        client = settled(server.connect())
        watching = client.begin("/s/Wait", b"a")
        echo = client.open("/s/Echo")
        client.send(echo, message(b"a"), end=False)
        client.wait_messages(echo, 1)
        client.wait_messages(watching, 1)
        unary = client.begin("/t/Hold", b"last")
        server.eventually(lambda stats: stats["started"] == 3)
        server.tell(f"drain {PATIENCE_SECONDS}")
        for stream in (watching, echo):
            response = client.wait(stream)
            assert (response.code, response.message) == (UNAVAILABLE, "The server is stopping.")
            assert response.messages == [b"a"]
        assert not client.responses[unary].ended
        client.reset(unary)
        assert server.heard() is True


def test_a_drain_lets_streaming_calls_finish_that_soon_do() -> None:
    with serving(tick_ms=20, stream_grace_ms=PATIENCE_SECONDS * 1000) as server:
        client = settled(server.connect())
        stream = client.open("/s/Echo")
        client.send(stream, message(b"a"), end=False)
        client.wait_messages(stream, 1)
        server.tell(f"drain {2 * PATIENCE_SECONDS}")
        client.wait_goaway()
        client.send(stream, message(b"b"))
        response = client.wait(stream)
        assert (response.messages, response.code) == ([b"a", b"b"], OK)
        assert server.heard() is True


def test_a_drain_does_not_wait_for_clients_that_do_not_read_their_streams() -> None:
    with serving(tick_ms=20, stream_grace_ms=50, goaway_timeout_ms=50) as server:
        client = without_acknowledging(server.connect())
        streams = [client.begin("/s/Flood", b"1000") for _ in range(3)]
        server.eventually(lambda stats: stats["started"] == 3)
        server.tell(f"drain {PATIENCE_SECONDS}")
        assert server.heard() is True
        client.wait_closed()
        assert {client.responses[stream].reset for stream in streams} == {CANCEL}
        server.holds_nothing()


def test_a_drain_with_a_short_grace_still_tells_streams() -> None:
    with serving(tick_ms=20) as server:
        client = settled(server.connect())
        stream = client.begin("/s/Wait", b"a")
        client.wait_messages(stream, 1)
        server.tell("drain 2")
        assert client.wait(stream).code == UNAVAILABLE
        assert server.heard() is True


# ---- many ----------------------------------------------------------------------------------------


def test_a_thousand_streams_wait_and_are_answered() -> None:
    with serving() as server:
        client = settled(server.connect())
        streams = [client.begin("/s/Wait", b"%d" % i) for i in range(1000)]
        for i, stream in enumerate(streams):
            assert client.wait_messages(stream, 1) == [b"%d" % i]
        assert server.stats()["answering"] == 1000
        server.ask("release")
        for i, stream in enumerate(streams):
            assert client.wait(stream).messages == [b"%d" % i] * 2
        server.disconnect()
        server.holds_nothing()
