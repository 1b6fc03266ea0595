"""JSON as TensorFlow Serving reads it."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import json_reference
from tests.json_bodies import BodyMaker
from tfsrv._json_description import describe_json
from tfsrv._json_document import json_memory, parse_json
from tfsrv.errors import Code, ServingError

randoms = st.integers(0, 2**64).map(Random)
more = settings(max_examples=400, deadline=None)
NODE = 16  # bytes


def refusal(body: bytes) -> str:
    """The text with which a body is refused."""
    with pytest.raises(ServingError) as caught:
        parse_json(body)
    assert caught.value.code == Code.INVALID_ARGUMENT
    return caught.value.message


def outcome(body: bytes) -> str:
    """A value, or an error, in words that can be compared: NaN is like NaN."""
    try:
        return repr(parse_json(body))
    except ServingError as error:
        return error.message


def expected_outcome(body: bytes) -> str:
    try:
        return repr(json_reference.read(body))
    except json_reference.Refused as error:
        return str(error)


def integer(text: str) -> int | float:
    """For json.loads: an integer that none of 64 bits holds is a double."""
    return int(text) if -(2**63) <= int(text) < 2**64 else float(text)


# --- what is read


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"null", None),
        (b"true", True),
        (b"false", False),
        (b"[]", []),
        (b"{}", ()),
        (b' \t\r\n[ 1 , 2\n]', [1, 2]),
        (b'{"a": {"b": [], "c": {}}}', ((b"a", ((b"b", []), (b"c", ()))),)),
        (b'{"a": 1, "a": 2}', ((b"a", 1), (b"a", 2))),
        (b'{"": 0}', ((b"", 0),)),
        (b"[1] trailing text", [1]),
        (b"1]", 1),
        (b"\xef\xbb\xbf[1]", [1]),
        (b"[1]\0", [1]),
        (b'""', b""),
        (b'"\x7f\xff\xc3\xa9"', b"\x7f\xff\xc3\xa9"),
        (rb'"\"\\\/\b\f\n\r\t"', b'"\\/\b\f\n\r\t'),
        (rb'"\u0000\u00e9\u20AC\ud83d\ude00\uffff"', "\0é€😀\uffff".encode()),
        (rb'"plain\nand plain, longer than a word"', b"plain\nand plain, longer than a word"),
        (rb'["a", "\n", "b", "\t\t"]', [b"a", b"\n", b"b", b"\t\t"]),
    ],
)  # fmt: skip
def test_reads(body: bytes, value: object) -> None:
    assert parse_json(body) == value


@pytest.mark.parametrize(
    "text",
    [
        *("0", "-0", "7", "-7", "2147483648", "-2147483649", "18446744073709551615"),
        *("-9223372036854775808", "9999999999999999999", "10000000000000000000"),
    ],
)
def test_integers_stay_integers(text: str) -> None:
    value: Any = parse_json(text.encode())
    assert type(value) is int
    assert value == int(text)


@pytest.mark.parametrize(
    "text",
    [
        *("18446744073709551616", "18446744073709551620", "99999999999999999999"),
        *("-9223372036854775809", "-18446744073709551615", "123456789012345678901234567890"),
        *("0.0", "-0.0", "1.0", "0.1", "0.1e1", "1e0", "1E+2", "1e-2", "0e5"),
        *("0.30000000000000004", "9007199254740993.0", "1e22", "1e23", "8.5e22"),
        *("9007199254740992e22", "4.9e-324", "2.2250738585072011e-308", "1.7976931348623157e308"),
        *("1e-400", "0." + "0" * 400 + "1", "1" * 300, "1" * 300 + ".5e-20"),
        *("1" + "0" * 400 + "e-400", "1e-99999999999999999999"),
        "0.500000000000000166533453693773481063544750213623046875",
    ],
)
def test_other_numbers_are_rounded_to_the_nearest_double(text: str) -> None:
    value: Any = parse_json(text.encode())
    assert type(value) is float
    assert value.hex() == float(text).hex()


@more
@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["%r", "%.17g", "%.25e", "%.3f"]),
)
def test_every_double_is_rounded_as_python_rounds(value: float, form: str) -> None:
    text = form % value
    if "." not in text and "e" not in text:
        text += ".0"
    assert repr(parse_json(text.encode())) == repr(float(text))


@pytest.mark.parametrize("text", ["NaN", "-NaN"])
def test_nan_is_a_number(text: str) -> None:
    value: Any = parse_json(text.encode())
    assert math.isnan(value)


@pytest.mark.parametrize("text", ["Inf", "Infinity"])
def test_infinity_is_a_number(text: str) -> None:
    assert parse_json(text.encode()) == math.inf
    assert parse_json(b"-" + text.encode()) == -math.inf


# --- what is refused, and where


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"   ", "The document is empty. at offset: 3"),
        (b"\0", "The document is empty. at offset: 0"),
        (b"\xef\xbb\xbf", "The document is empty. at offset: 3"),
        (b"}", "The document is empty. at offset: 0"),
        (b"]", "The document is empty. at offset: 0"),
        (b",", "The document is empty. at offset: 0"),
        (b"{", "Missing a name for object member. at offset: 1"),
        (b"{ ", "Missing a name for object member. at offset: 2"),
        (b"{1:2}", "Missing a name for object member. at offset: 1"),
        (b'{"a":1,}', "Missing a name for object member. at offset: 7"),
        (b'{"a":1,', "Missing a name for object member. at offset: 7"),
        (b'{"a"', "Missing a colon after a name of object member. at offset: 4"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a":', "Invalid value. at offset: 5"),
        (b'{"a":}', "Invalid value. at offset: 5"),
        (b'{"a":x}', "Invalid value. at offset: 5"),
        (b'{"a":1 "b":2}', "Missing a comma or '}' after an object member. at offset: 7"),
        (b'{"a":1', "Missing a comma or '}' after an object member. at offset: 6"),
        (b'{"a":1]', "Missing a comma or '}' after an object member. at offset: 6"),
        (b"[", "Invalid value. at offset: 1"),
        (b"[,1]", "Invalid value. at offset: 1"),
        (b"[1,]", "Invalid value. at offset: 3"),
        (b"[1,", "Invalid value. at offset: 3"),
        (b"[1 2]", "Missing a comma or ']' after an array element. at offset: 3"),
        (b"[1", "Missing a comma or ']' after an array element. at offset: 2"),
        (b"[1}", "Missing a comma or ']' after an array element. at offset: 2"),
        (b"[1 // c\n]", "Missing a comma or ']' after an array element. at offset: 3"),
        (b"nul", "Invalid value. at offset: 3"),
        (b"nan", "Invalid value. at offset: 1"),
        (b"trUe", "Invalid value. at offset: 2"),
        (b"True", "Invalid value. at offset: 0"),
        (b"falsE", "Invalid value. at offset: 4"),
        (b"'a'", "Invalid value. at offset: 0"),
        (b"+1", "Invalid value. at offset: 0"),
        (b".5", "Invalid value. at offset: 0"),
        (b"-", "Invalid value. at offset: 1"),
        (b"-a", "Invalid value. at offset: 1"),
        (b"--1", "Invalid value. at offset: 1"),
        (b"Na", "Invalid value. at offset: 2"),
        (b"Nan", "Invalid value. at offset: 2"),
        (b"In", "Invalid value. at offset: 2"),
        (b"-Infini", "Invalid value. at offset: 7"),
        (b"infinity", "Invalid value. at offset: 0"),
        (b"1.", "Miss fraction part in number. at offset: 2"),
        (b"[1.e5]", "Miss fraction part in number. at offset: 3"),
        (b"1e", "Miss exponent in number. at offset: 2"),
        (b"[1.5E+]", "Miss exponent in number. at offset: 6"),
        (b"[01]", "Missing a comma or ']' after an array element. at offset: 2"),
        (b"[0x10]", "Missing a comma or ']' after an array element. at offset: 2"),
        (b"[ 1e400]", "Number too big to be stored in double. at offset: 2"),
        (b"[-1e309]", "Number too big to be stored in double. at offset: 1"),
        (b"[" + b"9" * 400 + b"]", "Number too big to be stored in double. at offset: 1"),
        (b'"abc', "Missing a closing quotation mark in string. at offset: 4"),
        (b'"', "Missing a closing quotation mark in string. at offset: 1"),
        (b'"abcdefgh\0ij"', "Missing a closing quotation mark in string. at offset: 9"),
        (b'"\\n', "Missing a closing quotation mark in string. at offset: 3"),
        (b'"a\nb"', "Invalid escape character in string. at offset: 2"),
        (b'"\x1f"', "Invalid escape character in string. at offset: 1"),
        (rb'"ab\x"', "Invalid escape character in string. at offset: 3"),
        (b'"ab\\', "Invalid escape character in string. at offset: 3"),
        (rb'"\U0041"', "Invalid escape character in string. at offset: 1"),
        (rb'"\u004"', "Incorrect hex digit after \\u escape in string. at offset: 1"),
        (rb'"ab\u00g0"', "Incorrect hex digit after \\u escape in string. at offset: 3"),
        (b'"\\u12', "Incorrect hex digit after \\u escape in string. at offset: 1"),
        (rb'"\ud83d\u12"', "Incorrect hex digit after \\u escape in string. at offset: 1"),
        (rb'"\ud83d"', "The surrogate pair in string is invalid. at offset: 1"),
        (rb'"\ud83d\n"', "The surrogate pair in string is invalid. at offset: 1"),
        (rb'"a\ud83d\u0041"', "The surrogate pair in string is invalid. at offset: 2"),
        (rb'"\ud83d\ud83d"', "The surrogate pair in string is invalid. at offset: 1"),
        (rb'"\udc00"', "The surrogate pair in string is invalid. at offset: 1"),
    ],
)  # fmt: skip
def test_refuses(body: bytes, text: str) -> None:
    assert refusal(body) == f"JSON Parse error: {text}"
    assert expected_outcome(body) == f"JSON Parse error: {text}"


def test_nothing_is_refused_without_an_offset() -> None:
    assert refusal(b"") == "JSON Parse error: The document is empty"


# --- random texts


@more
@given(randoms)
def test_valid_bodies_mean_what_json_says(random: Random) -> None:
    body, _ = BodyMaker(random).body()

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return {name.decode(): plain(member) for name, member in value}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value.decode() if isinstance(value, bytes) else value

    assert repr(plain(parse_json(body))) == repr(json.loads(body, parse_int=integer))


@more
@given(randoms)
def test_mutated_bodies_are_read_or_refused_as_by_the_reference(random: Random) -> None:
    maker = BodyMaker(random)
    body = maker.mutated(maker.body()[0])
    if body:
        assert outcome(body) == expected_outcome(body)


@more
@given(st.text(alphabet='[]{},:"\\u0aEe+-.1tnf \0\n', min_size=1, max_size=30))
def test_noise_is_read_or_refused_as_by_the_reference(text: str) -> None:
    assert outcome(text.encode()) == expected_outcome(text.encode())


@given(st.binary(max_size=24), st.integers(0, 8))
def test_strings_end_at_the_same_byte_wherever_they_begin(data: bytes, shift: int) -> None:
    body = b" " * shift + b'"' + data + b'"'
    assert outcome(body) == expected_outcome(body)


def test_cut_off_at_every_byte() -> None:
    body = rb' {"a": [1.5e-3, -Infinity, true, null, "\ud83d\ude00 x", {"b": {}}], "c": [[], [[]]]}'
    assert outcome(body) == expected_outcome(body)
    for size in range(1, len(body)):
        assert outcome(body[:size]) == expected_outcome(body[:size])


# --- bounds


@pytest.mark.parametrize(
    ("unit", "end", "most"),
    [
        (b"[", b"", 16),
        (b"[", b"]", 12),
        (b'{"":', b"", 12),
        (b'{"":', b"1", 12),
        (b"1,", b"", 13),
        (b"[],", b"", 12),
        (b'"",', b"", 12),
        (rb'"\n",', b"", 13),
        (b"1.2345678,", b"", 4),
    ],
)
def test_memory_is_a_small_multiple_of_the_body(unit: bytes, end: bytes, most: float) -> None:
    body = b"[" + unit * 100_000 + end * 100_000 + b"]"
    nodes, memory = json_memory(body)
    assert memory >= nodes * NODE
    assert memory <= most * len(body) + 1000


def test_a_million_brackets_are_no_trouble() -> None:
    deep = b"[" * 1_000_000
    assert refusal(deep) == "JSON Parse error: Invalid value. at offset: 1000000"
    assert json_memory(deep + b"]" * 1_000_000)[0] == 1_000_000
    assert json_memory(b'{"a":' * 500_000 + b"1" + b"}" * 500_000)[0] == 1_000_001


# --- values in the texts of errors


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"5", "5"),
        (b"-5", "-5"),
        (b"18446744073709551615", "18446744073709551615"),
        (b'"x"', '"x"'),
        (b"null", "null"),
        (b"[]", "[]"),
        (b"{}", "{}"),
        (b"[[1.0],[2,3]]", "[[1.0], [2, 3]]"),
        (b'{"a":1}', '{\n    "a": 1\n}'),
        (b'{"a":{"b":[true,false]},"c":{}}',
         '{\n    "a": {\n        "b": [true, false]\n    },\n    "c": {}\n}'),
        (b'[{"a":1},2]', '[{\n        "a": 1\n    }, 2]'),
        (rb'["\"\\\/\b\f\n\r\t\u0001\u001f\u007f\u00e9"]',
         '["\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001F\x7fé"]'),
        (b"[NaN, 1]", "["),
        (b"[1, Infinity, 2]", "[1, "),
        (b'{"a":-Infinity}', '{\n    "a": '),
        # The value itself is printed like numbers in answers: as a float, if it is in its range ...
        (b"1.0", "1.0"),
        (b"0.1", "0.1"),
        (b"1.23456789", "1.23456788"),
        (b"1e6", "1e+06"),
        (b"-0.0", "-0.0"),
        (b"1e39", "1e+39"),
        (b"1.7976931348623157e308", "1.7976931348623157e+308"),
        (b"NaN", "NaN"),
        (b"-Inf", "-Infinity"),
        (b"123456789012345678901", "1.2345679e+20"),
        # ... and one that is inside with the fewest digits.
        (b"[1e6, 1e20, 1e21, 123456789012345678901.0]",
         "[1000000.0, 100000000000000000000.0, 1e21, 123456789012345680000.0]"),
        (b"[0.1, 1.5e-6, 1.5e-7, 1e-7, 0.0, -0.0, -2.5]",
         "[0.1, 0.0000015, 1.5e-7, 1e-7, 0.0, -0.0, -2.5]"),
        (b"[12.5, 5e-324, 1.7976931348623157e308, 0.30000000000000004]",
         "[12.5, 5e-324, 1.7976931348623157e308, 0.30000000000000004]"),
    ],
)  # fmt: skip
def test_describes(body: bytes, text: str) -> None:
    assert describe_json(body).decode() == text


def test_descriptions_have_256_bytes_at_most_and_whole_characters() -> None:
    whole = json.dumps(["x" * 252], separators=(",", ":")).encode()
    assert describe_json(whole) == whole
    assert len(whole) == 256
    assert describe_json(b'["' + b"x" * 1000 + b'"]') == b'["' + b"x" * 254
    for letter in ("é", "€", "😀"):
        for shift in range(4):
            body = b'"' + b"x" * shift + letter.encode() * 300 + b'"'
            found = describe_json(body)
            assert 252 < len(found) <= 256
            assert body.startswith(found)
            found.decode()
    assert describe_json(b'"' + b"\x80" * 300 + b'"') == b'"' + b"\x80" * 255


def test_descriptions_of_deep_values_end() -> None:
    assert describe_json(b"[" * 10_000 + b"]" * 10_000) == b"[" * 256
    assert len(describe_json(b'{"a":' * 10_000 + b"1" + b"}" * 10_000)) == 256


@more
@given(randoms)
def test_anything_can_be_described(random: Random) -> None:
    body, _ = BodyMaker(random).body()
    text = describe_json(body).decode()
    if len(text.encode()) < 250 and not any(odd in body.decode() for odd in ("NaN", "Inf")):
        assert json.loads(text) == json.loads(body, parse_int=integer)
