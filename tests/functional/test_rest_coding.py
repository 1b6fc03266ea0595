"""How bodies come over the wire: gzip both ways, chunks, Expect, and a lot of bytes."""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy
import pytest

from tests.functional.conftest import serving
from tests.functional.http1_client import chunked
from tests.functional.launching import Launched
from tests.functional.messages import floats
from tests.functional.rest_client import NPY, PROTOBUF, Rest, from_npy, meanwhile, npy, post_bytes
from tests.inference import LARGE_WIDTH, v_of

MODELS = ["half_plus_two", "identity", "string_identity", "identity_image", "several_signatures"]
ONE = b'{"instances": [1]}'
HALF = "half_plus_two:predict"


@pytest.fixture(scope="module")
def server(models: Path, inference_models: Path) -> Iterator[Launched]:
    paths = {name: models / name for name in MODELS}
    paths["inference"] = inference_models / "inference"
    with serving(paths, "--rest_api_port=-1") as server:
        yield server


@pytest.fixture
def rest(server: Launched) -> Rest:
    return Rest(server)


# --- gzip


@pytest.mark.parametrize("values", [1, 3_000, 100_000])
def test_requests_and_answers_in_gzip(rest: Rest, values: int) -> None:
    sent = [i % 1000 for i in range(values)]
    body = gzip.compress(json.dumps({"instances": sent}).encode())
    answer = rest.post(HALF, body, Content_Encoding="gzip", Accept_Encoding="deflate, gzip")
    assert answer.json() == {"predictions": [each / 2 + 4 for each in sent]}
    assert ("content-encoding" in answer.headers) == (values > 1)  # it pays, or it does not
    plain = rest.post(HALF, body, Content_Encoding="gzip")
    assert "content-encoding" not in plain.headers
    assert plain.body == answer.body


@pytest.mark.parametrize("accepted", ["gzip;q=0", "identity", "br", "", "deflate", "xgzip"])
def test_answers_are_not_packed_for_who_does_not_ask(rest: Rest, accepted: str) -> None:
    body = {"instances": list(range(5000))}
    assert "content-encoding" not in rest.post(HALF, body, Accept_Encoding=accepted).headers


def test_curl_packs_and_unpacks(rest: Rest, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    file = tmp_path / "body.gz"
    file.write_bytes(gzip.compress(json.dumps({"instances": [1.0] * 20_000}).encode()))
    said = rest.curl(
        "--compressed", "-H", "Content-Encoding: gzip", "--data-binary", f"@{file}", rest.url(HALF)
    )
    assert json.loads(said) == {"predictions": [4.5] * 20_000}


def test_arrays_and_examples_in_gzip(rest: Rest) -> None:
    x = numpy.arange(50_000, dtype="float32")
    body = gzip.compress(npy(x))
    answer = rest.post(
        HALF, body, Content_Type=NPY, Content_Encoding="gzip", Accept_Encoding="gzip"
    )
    assert answer.headers["content-encoding"] == "gzip"
    assert from_npy(answer.body).tolist() == (x / 2 + 4).tolist()
    examples = {"signature_name": "large_scores", "examples": [{"x": 1.0}]}
    body = gzip.compress(json.dumps(examples).encode())
    answer = rest.post("inference:classify", body, Content_Encoding="gzip", Accept_Encoding="gzip")
    ((*scores,),) = answer.json()["results"]
    v = v_of({"x": 1.0}, version=2)
    assert len(scores) == LARGE_WIDTH
    assert scores[-1] == ["", v]


def test_several_members_are_one_body(rest: Rest) -> None:
    body = gzip.compress(ONE[:9]) + gzip.compress(ONE[9:])
    answer = rest.post(HALF, body, Content_Encoding="gzip")
    assert (answer.status, answer.json()) == (200, {"predictions": [4.5]})


def test_broken_gzip_is_refused(rest: Rest) -> None:
    whole = gzip.compress(ONE)
    chance = Random(3)
    broken = [b"", b"x", whole[:-1], whole[:12], ONE, zlib.compress(ONE)]
    sums = range(len(whole) - 8, len(whole))
    broken += [whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in sums]
    for body in broken:
        assert rest.refusal(HALF, body, Content_Encoding="gzip") == (
            400,
            "JSON Parse error: The document is empty",
        )
        for kind in (NPY, PROTOBUF):
            status, text = rest.refusal(HALF, body, Content_Encoding="gzip", Content_Type=kind)
            assert (status, text) == (400, "The body is not valid gzip.")
    for _ in range(100):
        changed = bytearray(whole)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        answer = rest.post(HALF, bytes(changed), Content_Encoding="gzip")
        assert answer.status in (200, 400)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A gigabyte of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = bytes(1 << 20)
    return b"".join(packer.compress(piece) for _ in range(1024)) + packer.flush()


def test_gzip_bombs_are_refused_within_the_bytes_in_flight(models: Path, bomb: bytes) -> None:
    assert len(bomb) < 1_100_000
    paths = {"half_plus_two": models / "half_plus_two"}
    flags = ("--rest_api_port=-1", "--max_in_flight_bytes=50000000")
    with serving(paths, *flags) as server:
        rest = Rest(server)
        assert rest.predictions(HALF, ONE) == [4.5]
        server.forget_peak_memory()
        memory, seconds = server.memory_bytes(), server.cpu_seconds()
        with meanwhile(rest, HALF, ONE, [4.5]):
            for kind in ("application/json", NPY, PROTOBUF):
                status, text = rest.refusal(HALF, bomb, Content_Encoding="gzip", Content_Type=kind)
                assert status == 429
                assert "in flight" in text
                assert rest.refusal("nope:predict", bomb, Content_Encoding="gzip")[0] == 404
        assert server.peak_memory_bytes() - memory < 80_000_000
        assert server.cpu_seconds() - seconds < 10


def test_gzip_bombs_are_refused_by_the_size_of_a_message(models: Path, bomb: bytes) -> None:
    paths = {"half_plus_two": models / "half_plus_two"}
    limit = "--grpc_channel_arguments=grpc.max_receive_message_length=10000000"
    with serving(paths, "--rest_api_port=-1", limit) as server:
        rest = Rest(server)
        server.forget_peak_memory()
        memory = server.memory_bytes()
        assert rest.refusal(HALF, bomb, Content_Encoding="gzip") == (
            400,
            "The body is too large once it is unpacked.",
        )
        assert server.peak_memory_bytes() - memory < 40_000_000
        assert rest.post(HALF, ONE + b" " * 11_000_000).status in (413, 429)


def test_gzip_bombs_are_refused_by_default(rest: Rest, bomb: bytes) -> None:
    refused = (400, "The body is too large once it is unpacked.")
    assert rest.refusal(HALF, bomb, Content_Encoding="gzip") == refused


# --- chunks and Expect


def test_chunked_bodies(rest: Rest) -> None:
    sent = json.dumps({"instances": list(range(40_000))}).encode()
    pieces = [sent[i : i + 999] for i in range(0, len(sent), 999)]
    head = f"POST /v1/models/{HALF} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    expected = [each / 2 + 4 for each in range(40_000)]
    with rest.dial() as peer:
        for _ in range(2):
            answer = peer.ask(head.encode() + chunked(*pieces))
            assert answer.json()["predictions"] == expected
        answer = peer.ask(head.encode() + chunked(*(bytes([byte]) for byte in ONE)))
        assert answer.json() == {"predictions": [4.5]}
        packed = gzip.compress(ONE)
        head = head.replace("Host: a", "Host: a\r\nContent-Encoding: gzip")
        answer = peer.ask(head.encode() + chunked(packed[:5], packed[5:]))
        assert answer.json() == {"predictions": [4.5]}


def test_curl_with_expect_and_megabytes(rest: Rest, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    file = tmp_path / "body"
    file.write_text(json.dumps({"instances": [1.5] * 400_000}))
    assert file.stat().st_size >= 2_000_000
    for more in (["Expect: 100-continue"], ["Expect: 100-continue", "Transfer-Encoding: chunked"]):
        fields = [part for field in more for part in ("-H", field)]
        said = rest.curl(*fields, "--data-binary", f"@{file}", rest.url(HALF))
        assert json.loads(said) == {"predictions": [4.75] * 400_000}


def test_requests_that_come_together_are_answered_in_their_order(rest: Rest) -> None:
    bodies = [json.dumps({"instances": [i] * (20_000 if i % 7 == 0 else 1)}) for i in range(40)]
    with rest.dial() as peer:
        peer.send(*(post_bytes(HALF, body.encode()) for body in bodies))
        for i in range(40):
            assert peer.answer().json()["predictions"][0] == i / 2 + 4


# --- a lot


def test_megabytes_of_numbers_are_right(rest: Rest) -> None:
    x = numpy.random.default_rng(1).standard_normal(400_000).astype("float32")
    body = json.dumps({"instances": x.tolist()}).encode()
    assert len(body) > 5_000_000
    for path in (HALF, f"{HALF}?pretty"):
        got = numpy.array(rest.predictions(path, body), "float32")
        numpy.testing.assert_array_equal(got, x * numpy.float32(0.5) + numpy.float32(4))


def test_an_image_is_right_in_every_spelling(rest: Rest) -> None:
    x = numpy.random.default_rng(2).random((2, 150_528), dtype="float32")
    rows = [{"x": row} for row in x.tolist()]
    for body in (
        {"instances": x.tolist()},
        {"instances": rows},
        {"inputs": x.tolist()},
        {"inputs": {"x": x.tolist()}},
        {"nothing": [{}], "inputs": x.tolist()},
    ):
        got = numpy.array(rest.predictions("identity_image:predict", body), "float32")
        numpy.testing.assert_array_equal(got, x)


def test_megabytes_of_strings_are_right(rest: Rest) -> None:
    sent = [f'{i} é \\ " \n' * 10 for i in range(20_000)]
    assert rest.predictions("string_identity:predict", {"instances": sent}) == sent
    assert rest.predictions("string_identity:predict", {"instances": ["é" * 2_000_000]}) == [
        "é" * 2_000_000
    ]


def test_others_are_answered_while_large_bodies_are_decoded(rest: Rest) -> None:
    body = json.dumps({"instances": [0.12345678] * 500_000}).encode()
    with meanwhile(rest, "several_signatures:predict", ONE, [1]) as seconds:
        for _ in range(3):
            assert len(rest.predictions(HALF, body)) == 500_000
    assert len(seconds) > 3


def test_memory_comes_back_after_large_bodies(server: Launched, rest: Rest) -> None:
    body = npy(floats(*range(1_000_000)))

    def ask() -> None:
        answer = rest.post(HALF, body, Content_Type=NPY, Accept="application/json")
        assert len(answer.body) > 5_000_000

    for _ in range(3):
        ask()
    before = server.memory_bytes()
    for _ in range(10):
        ask()
    assert server.memory_bytes() - before < 60_000_000


# --- who reads large bodies


def test_one_thread_reads_all_large_bodies(models: Path) -> None:
    with serving(
        {"half_plus_two": models / "half_plus_two"},
        "--rest_api_port=-1",
        "--rest_api_num_threads=1",
    ) as server:
        bodies = [{"instances": [number] * 50_000} for number in range(8)]
        with ThreadPoolExecutor(len(bodies)) as pool:
            answers = pool.map(lambda body: Rest(server).predictions(HALF, body), bodies)
            assert list(answers) == [[number / 2 + 4] * 50_000 for number in range(8)]
