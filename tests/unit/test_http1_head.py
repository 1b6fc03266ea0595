"""Heads of HTTP/1.1 requests: what is read, and everything that is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tfsrv.frontends._http1_head import head_size, parse_head

LINE = b"POST /v1/models/m:predict HTTP/1.1\r\n"
HOST = b"Host: localhost:8501\r\n"


def head(*fields: bytes, line: bytes = LINE, host: bytes = HOST) -> bytes:
    return line + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def read(*fields: bytes, line: bytes = LINE, host: bytes = HOST) -> dict[str, Any]:
    found = parse_head(head(*fields, line=line, host=host))
    assert isinstance(found, dict), found
    return found


def status(*fields: bytes, line: bytes = LINE, host: bytes = HOST) -> int:
    found = parse_head(head(*fields, line=line, host=host))
    assert isinstance(found, tuple), found
    assert found[1]
    return found[0]


def test_reads_what_a_client_sends() -> None:
    found = read(
        b"User-Agent: curl/8.5.0",
        b"Accept: application/json",
        b"Content-Type: application/json",
        b"Accept-Encoding: deflate, gzip",
        b"Content-Length: 42",
    )
    assert found == {
        "method": "POST",
        "path": "/v1/models/m:predict",
        "query": None,
        "host": "localhost:8501",
        "content_type": "application/json",
        "accept": "application/json",
        "origin": "",
        "old": False,
        "keep_alive": True,
        "expects_continue": False,
        "chunked": False,
        "length": 42,
        "gzipped": False,
        "accepts_gzip": True,
        "low_priority": False,
    }


@pytest.mark.parametrize("cut", range(len(head(b"A: b", b"Content-Length: 1"))))
def test_knows_a_head_that_is_not_whole_wherever_it_is_cut(cut: int) -> None:
    whole = head(b"A: b", b"Content-Length: 1")
    assert head_size(whole[:cut]) == 0
    assert head_size(whole + b"body", scanned=cut) == len(whole)


def test_finds_the_end_whatever_comes_behind() -> None:
    whole = head()
    for behind in (b"x", b"\r\n\r\n", b"\n", whole):
        assert head_size(whole + behind) == len(whole)


# ---- the request line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", None),
        (b"/a/b:c", "/a/b:c", None),
        (b"/a?", "/a", ""),
        (b"/a?b=c&d=%20", "/a", "b=c&d=%20"),
        (b"/a?b?c", "/a", "b?c"),
        (b"//a", "//a", None),
        (b"/%2F%3a", "/%2F%3a", None),
        (b"http://host/a?b", "/a", "b"),
        (b"HTTP://host:80/a", "/a", None),
        (b"https://host", "/", None),
        (b"http://host?q", "/", "q"),
        (b"http://[::1]:80/x", "/x", None),
    ],
)
def test_finds_path_and_query(target: bytes, path: str, query: str | None) -> None:
    found = read(line=b"GET " + target + b" HTTP/1.1\r\n")
    assert (found["path"], found["query"]) == (path, query)


def test_takes_the_asterisk_for_options_alone() -> None:
    assert read(line=b"OPTIONS * HTTP/1.1\r\n")["path"] == "*"
    assert status(line=b"GET * HTTP/1.1\r\n") == 400


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"PATCH", b"get", b"X-!#$"])
def test_takes_any_token_as_a_method(method: bytes) -> None:
    assert read(line=method + b" / HTTP/1.1\r\n")["method"] == method.decode()


@pytest.mark.parametrize(
    "line",
    [
        b"GET /\r\n",  # HTTP/0.9
        b"GET / \r\n",
        b"GET  / HTTP/1.1\r\n",
        b"GET /  HTTP/1.1\r\n",
        b"GET / HTTP/1.1 \r\n",
        b" GET / HTTP/1.1\r\n",
        b"GET\t/ HTTP/1.1\r\n",
        b"GET /\tHTTP/1.1\r\n",
        b"GET / http/1.1\r\n",
        b"GET / HTTP/11\r\n",
        b"GET / HTTP/1.1.1\r\n",
        b"GET / HTTP/1.\r\n",
        b"GET / HTTP/a.1\r\n",
        b"GET / HTTP/1,1\r\n",
        b"GET / HTTPS/1.1\r\n",
        b"GET /a b HTTP/1.1\r\n",
        b"GET /\x00 HTTP/1.1\r\n",
        b"GET /\x7f HTTP/1.1\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\n",
        b"GET /a#b HTTP/1.1\r\n",
        b"GET /\r HTTP/1.1\r\n",
        b"G\x00T / HTTP/1.1\r\n",
        b"G(T / HTTP/1.1\r\n",
        b"GET a HTTP/1.1\r\n",
        b"GET http:///a HTTP/1.1\r\n",
        b"GET http://a@b/ HTTP/1.1\r\n",
        b"GET ftp://host/ HTTP/1.1\r\n",
        b"GET host:80 HTTP/1.1\r\n",
        b"A" * 33 + b" / HTTP/1.1\r\n",
        b"\r\n",
    ],
)
def test_refuses_malformed_request_lines(line: bytes) -> None:
    assert status(line=line) == 400


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"HTTP/3.1"])
def test_refuses_other_versions(version: bytes) -> None:
    assert status(line=b"GET / " + version + b"\r\n") == 505


def test_answers_the_preface_of_http2_with_the_version_it_speaks() -> None:
    assert parse_head(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")[0] == 505  # type: ignore[index]


def test_serves_later_minor_versions_as_it_does_the_first() -> None:
    assert read(line=b"GET / HTTP/1.7\r\n")["old"] is False


def test_opens_no_tunnel() -> None:
    assert status(line=b"CONNECT host:443 HTTP/1.1\r\n") == 501


# ---- fields -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        b"A : b",
        b" A: b",
        b"\tA: b",
        b": b",
        b"A",
        b"A\x00: b",
        b"A: \x00",
        b"A: b\x01",
        b"A: b\x7f",
        b"A: b\rc",
        b"A: b\r",
        b"\xc3\xa9: b",
        b"A b: c",
        b"A: b\r\n folded",
        b"A: b\r\n\tfolded",
        b"A;: b",
    ],
)
def test_refuses_malformed_fields(field: bytes) -> None:
    assert status(field) == 400


@pytest.mark.parametrize(
    "field", [b"A:", b"A:b", b"A: \t b \t ", b"A: \xc3\xa9\xff", b"!#$%&'*+-.^_`|~9: x"]
)
def test_takes_well_formed_fields(field: bytes) -> None:
    assert read(field)["length"] is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\r\nHost: a\nContent-Length: 5\r\n\r\n",
        b"GET / HTTP/1.1\r\n\nHost: a\r\n\r\n",
    ],
)
def test_refuses_line_feeds_alone(data: bytes) -> None:
    assert head_size(data) == -400


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00", b"\x00", b"\xff", b" GET", b"{"])
def test_does_not_wait_for_more_of_what_is_no_http(data: bytes) -> None:
    assert head_size(data) == -400


def test_takes_a_hundred_fields_and_no_more() -> None:
    assert read(*[b"A: b"] * 99)
    assert status(*[b"A: b"] * 100) == 431


def test_takes_heads_up_to_their_limit() -> None:
    room = 65536 - len(head(b"A: "))
    assert head_size(head(b"A: " + b"x" * room)) == 65536
    assert head_size(head(b"A: " + b"x" * (room + 1))) == -431
    assert head_size(head(b"A: " + b"x" * 70000)[:-4]) == -431


def test_takes_targets_up_to_their_limit() -> None:
    assert read(line=b"GET /" + b"x" * 8191 + b" HTTP/1.1\r\n")
    assert status(line=b"GET /" + b"x" * 8192 + b" HTTP/1.1\r\n") == 414
    assert head_size(b"GET /" + b"x" * 9000) == -414


# ---- Host ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [b"", HOST + HOST, HOST + b"host: b\r\n"])
def test_wants_one_host(host: bytes) -> None:
    assert status(host=host) == 400


@pytest.mark.parametrize("value", [b"a b", b"a/b", b"a@b", b"a,b", b"a#", b"a?", b"\xe9", b"a\\b"])
def test_refuses_what_is_no_host(value: bytes) -> None:
    assert status(host=b"Host: " + value + b"\r\n") == 400


@pytest.mark.parametrize("value", [b"", b"a", b"a.b:80", b"[::1]:80", b"127.0.0.1"])
def test_takes_hosts(value: bytes) -> None:
    assert read(host=b"HOST:" + value + b"\r\n")["host"] == value.decode()


def test_old_clients_need_no_host() -> None:
    old = b"GET / HTTP/1.0\r\n"
    assert read(line=old, host=b"")["host"] == ""
    assert status(line=old, host=HOST + HOST) == 400


# ---- how long the body is -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"0", b"1", b"007", b"999999999999999999", b" 5\t"])
def test_reads_a_length(value: bytes) -> None:
    assert read(b"Content-Length:" + value)["length"] == int(value)


@pytest.mark.parametrize(
    "value",
    [b"", b"+1", b"-1", b"1 1", b"0x10", b"1e3", b"1.0", b"1,1", b"1, 1", b"\xb9", b"1\x0b"],
)
def test_refuses_what_is_no_length(value: bytes) -> None:
    assert status(b"Content-Length: " + value) == 400


def test_refuses_a_length_beyond_all_measure_as_too_large() -> None:
    assert status(b"Content-Length: 9999999999999999999") == 413
    assert status(b"Content-Length: " + b"9" * 5000) == 413


@pytest.mark.parametrize(
    "fields",
    [
        (b"Content-Length: 1", b"Content-Length: 2"),
        (b"Content-Length: 1", b"Content-Length: 1"),
        (b"Content-Length: 1", b"CONTENT-LENGTH: 1"),
        (b"Content-Length: 1", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 1"),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    ],
)
def test_refuses_a_length_that_is_told_twice(fields: tuple[bytes, ...]) -> None:
    assert status(*fields) == 400


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED ", b"\tchunked"])
def test_knows_chunked(value: bytes) -> None:
    assert read(b"Transfer-Encoding:" + value)["chunked"] is True


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"gzip, chunked", 501),
        (b"chunked, chunked", 501),
        (b"chunked, identity", 501),
        (b"identity", 501),
        (b"gzip", 501),
        (b"chunke", 501),
        (b"xchunked", 501),
        (b"chunked;q=1", 501),
        (b'"chunked"', 501),
        (b"", 400),
        (b"\x0bchunked", 400),
    ],
)
def test_refuses_other_codings(value: bytes, expected: int) -> None:
    assert status(b"Transfer-Encoding: " + value) == expected


def test_refuses_chunks_of_old_clients() -> None:
    assert status(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0\r\n") == 400


@pytest.mark.parametrize("name", [b"Content_Length", b"Transfer_Encoding", b"X-Content-Length"])
def test_takes_no_other_field_for_a_length(name: bytes) -> None:
    found = read(name + b": 7")
    assert found["length"] is None
    assert found["chunked"] is False


# ---- what else is asked -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "fields", "expected"),
    [
        (LINE, (), True),
        (LINE, (b"Connection: close",), False),
        (LINE, (b"connection: CLOSE",), False),
        (LINE, (b"Connection: keep-alive",), True),
        (LINE, (b"Connection: upgrade, close",), False),
        (LINE, (b"Connection: keep-alive, close",), False),
        (LINE, (b"Connection: x", b"Connection: close"), False),
        (LINE, (b"Connection: closed",), True),
        (LINE, (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"), True),
        (b"GET / HTTP/1.0\r\n", (), False),
        (b"GET / HTTP/1.0\r\n", (b"Connection: keep-alive",), True),
        (b"GET / HTTP/1.0\r\n", (b"Connection: a,,Keep-Alive ,b",), True),
        (b"GET / HTTP/1.0\r\n", (b"Connection: keep-alive, close",), False),
    ],
)
def test_knows_whether_the_connection_stays(
    line: bytes, fields: tuple[bytes, ...], expected: bool
) -> None:
    assert read(*fields, line=line)["keep_alive"] is expected


def test_knows_who_waits_for_a_go_on() -> None:
    assert read(b"Expect: 100-Continue")["expects_continue"] is True
    assert read(b"Expect: 100-continue", line=b"POST / HTTP/1.0\r\n")["expects_continue"] is False
    assert status(b"Expect: 200-ok") == 417
    assert status(b"Expect: 100-continue, x") == 417


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), False),
        ((b"gzip",), True),
        ((b"GZIP",), True),
        ((b"x-gzip",), True),
        ((b"br, gzip;q=0.5",), True),
        ((b"deflate", b"gzip"), True),
        ((b"*",), True),
        ((b"gzip;q=0",), False),
        ((b"gzip;q=0.000",), False),
        ((b"gzip ; Q=0.0",), False),
        ((b"gzip;q=0, *",), False),
        ((b"*;q=0",), False),
        ((b"identity",), False),
        ((b"gzipped",), False),
        ((b"gzip;q=0.001",), True),
        ((b"",), False),
    ],
)
def test_knows_who_takes_gzip(values: tuple[bytes, ...], expected: bool) -> None:
    assert read(*[b"Accept-Encoding: " + value for value in values])["accepts_gzip"] is expected


@pytest.mark.parametrize(
    ("values", "gzipped"),
    [
        ((b"gzip",), True),
        ((b"X-GZip",), True),
        ((b"identity",), False),
        ((b"",), False),
        ((b"gzip, identity",), True),
        ((b"br",), False),
        ((b"deflate",), False),
        ((b"gzip", b"gzip"), True),
    ],
)
def test_knows_whether_the_body_is_packed(values: tuple[bytes, ...], gzipped: bool) -> None:
    assert read(*[b"Content-Encoding: " + value for value in values])["gzipped"] is gzipped


def test_knows_what_can_wait() -> None:
    assert read(b"tfsrv-priority: low")["low_priority"] is True
    assert read(b"tfsrv-priority: high")["low_priority"] is False


def test_survives_any_damage() -> None:
    chance = random.Random(9)
    whole = head(b"Content-Length: 5", b"Accept-Encoding: gzip;q=0, *", b"Connection: close, x")
    for _ in range(20_000):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 8])):
            damaged[chance.randrange(len(damaged))] = (
                chance.choice(b"\r\n :,;\0\xff/?A0")
                if (chance.random() < 0.7)
                else chance.randrange(256)
            )
        size = head_size(bytes(damaged))
        assert -600 < size <= len(damaged)
        if size > 0:
            parse_head(bytes(damaged[:size]))
