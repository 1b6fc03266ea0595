"""Header blocks, against the encoder of the package hpack."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsrv.client._hpack import HeaderDecoder
from tfsrv.client.hpack_tables import CODE_LENGTHS, STATIC_TABLE

hpack = pytest.importorskip("hpack")

texts = st.binary(max_size=60) | st.sampled_from([b"", b"grpc-status", b"0", b"a" * 3000])
fields = st.lists(st.tuples(texts, texts) | st.sampled_from(STATIC_TABLE), max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(fields, st.booleans()), max_size=6), st.sampled_from([0, 100, 4096]))
def test_blocks_are_read_as_they_were_meant(
    blocks: list[tuple[list[tuple[bytes, bytes]], bool]], table_size: int
) -> None:
    encoder, decoder = hpack.Encoder(), HeaderDecoder()
    encoder.header_table_size = table_size
    for block, huffman in blocks:
        data = encoder.encode(block, huffman=huffman)
        assert decoder.decode(data) == block


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=40), fields)
def test_what_is_no_block_is_refused_and_does_no_harm(
    noise: bytes, block: list[tuple[bytes, bytes]]
) -> None:
    data: bytes = hpack.Encoder().encode(block)
    for broken in (noise, data + noise, data[: len(noise)]):
        theirs, ours = hpack.Decoder(max_header_list_size=1 << 30), HeaderDecoder()
        try:
            expected = [(bytes(name), bytes(value)) for name, value in theirs.decode(broken, True)]
        except (hpack.HPACKError, IndexError):
            with pytest.raises(ValueError, match=r"header|integer|text|table"):
                ours.decode(broken)
        else:
            assert ours.decode(broken) == expected


def test_every_byte_has_its_code() -> None:
    text = bytes(range(256)) * 2
    data = hpack.Encoder().encode([(b"x", text)], huffman=True)
    assert HeaderDecoder().decode(data) == [(b"x", text)]
    assert sum(2.0**-length for length in CODE_LENGTHS) == 1


def test_few_bytes_that_stand_for_many_are_refused() -> None:
    encoder, decoder = hpack.Encoder(), HeaderDecoder()
    decoder.decode(encoder.encode([(b"x", b"a" * 4000)], huffman=False))
    with pytest.raises(ValueError, match="too many header fields"):
        decoder.decode(b"\xbe" * 1000)
