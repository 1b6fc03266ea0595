"""Numbers of JSON texts: printed as TensorFlow Serving does, parsed to the nearest value."""

from __future__ import annotations

import json
import math
import struct
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tfsrv._json_numbers import parse_number, parse_numbers, print_numbers

NUMBER_OK, NO_NUMBER, NO_FRACTION, NO_EXPONENT, TOO_BIG = range(5)

Floats: TypeAlias = NDArray[Any]

RNG = np.random.default_rng(6)


def printed(kind: str, values: NDArray[Any]) -> list[str]:
    return print_numbers(kind, values.tobytes()).decode().split(",")[:-1]


def nearest_float(text: str) -> float:
    """The float32 nearest to a decimal text, by exact fractions."""
    exact = Fraction(text)
    if exact == 0:
        return -0.0 if text.startswith("-") else 0.0
    with np.errstate(over="ignore"):
        guess = np.float32(float(text))
        around = [np.nextafter(guess, np.float32(to)) for to in (-np.inf, np.inf)]
    candidates = [float(value) for value in (around[0], guess, around[1])]

    def distance(value: float) -> tuple[Fraction, int]:
        # Infinity stands where the next float would be, if exponents went on.
        at = Fraction(math.copysign(2.0**128, value)) if math.isinf(value) else Fraction(value)
        return abs(at - exact), int(np.float32(value).view(np.uint32)) & 1

    best = min(candidates, key=distance)
    return math.copysign(best, -1.0 if text.startswith("-") else 1.0)


def as_tensorflow_serving(value: float, *, single: bool) -> str:
    """What WriteDecimal of util/json_tensor.cc makes of a value."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{value:.6g}"
    parsed = nearest_float(text) if single else float(text)
    if parsed != value:
        text = f"{value:.9g}" if single else f"{value:.17g}"
    return text if "." in text or "e" in text else f"{text}.0"


# ---- printing ----


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1 / 3, "0.333333343"),
        (1e6, "1e+06"),
        (999999, "999999.0"),
        (123456789, "123456792.0"),
        (1234567, "1234567.0"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1e10, "1e+10"),
        (3.4028234e38, "3.40282347e+38"),
        (1e-45, "1.4013e-45"),
        (2.5, "2.5"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (100000, "100000.0"),
        (16777216, "16777216.0"),
        (math.nan, "NaN"),
        (-math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
    ],
)
def test_floats_are_printed_as_tensorflow_serving_does(value: float, text: str) -> None:
    assert printed("float", np.array([value], np.float32)) == [text]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1 / 3, "0.33333333333333331"),
        (0.1, "0.1"),
        (1e22, "1e+22"),
        (1e300, "1e+300"),
        (5e-324, "4.94066e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (123456.789, "123456.789"),
        (2.0**53, "9007199254740992.0"),
        (1e16, "1e+16"),
        (12345678901234567.0, "12345678901234568.0"),
        (1e-14, "1e-14"),
        (-0.0, "-0.0"),
    ],
)
def test_doubles_are_printed_as_tensorflow_serving_does(value: float, text: str) -> None:
    assert printed("double", np.array([value], np.float64)) == [text]


def every_float_exponent() -> Floats:
    exponents = np.arange(256, dtype=np.uint32) << np.uint32(23)
    mantissas = np.array([0, 1, 2, 0x400000, 0x7FFFFE, 0x7FFFFF, 0x3FFFFF], np.uint32)
    mantissas = np.concatenate([mantissas, RNG.integers(0, 1 << 23, 8, dtype=np.uint32)])
    values: Floats = (exponents[:, None] | mantissas).ravel().view(np.float32)
    return values


def every_double_exponent() -> Floats:
    exponents = np.arange(2048, dtype=np.uint64) << np.uint64(52)
    mantissas = np.array([0, 1, 1 << 51, (1 << 52) - 1], np.uint64)
    mantissas = np.concatenate([mantissas, RNG.integers(0, 1 << 52, 4, dtype=np.uint64)])
    values: Floats = (exponents[:, None] | mantissas).ravel().view(np.float64)
    return values


def neighbours(values: Floats) -> Floats:
    """Values with those next to them: what six digits tell apart, or just not."""
    infinity = values.dtype.type(np.inf)
    return np.concatenate([np.nextafter(values, -infinity), values, np.nextafter(values, infinity)])


def short_decimals(least: int, most: int) -> Floats:
    digits = RNG.integers(1, 1_000_000, 500)
    tens = RNG.integers(least, most, 500)
    return np.array([float(f"{d}e{t}") for d, t in zip(digits, tens, strict=True)])


def powers_of_ten(least: int, most: int) -> Floats:
    return np.array([float(f"1e{power}") for power in range(least, most)])


def ties() -> Floats:
    """Whole numbers of halves, quarters and so on: many are half-way between two roundings."""
    return RNG.integers(1, 1 << 24, 1000) / 2.0 ** RNG.integers(0, 24, 1000)


FLOATS = {
    "every exponent": every_float_exponent(),
    "any bits": RNG.integers(0, 1 << 32, 1000, dtype=np.uint32).view(np.float32),
    "short decimals": neighbours(short_decimals(-44, 33).astype(np.float32)),
    "powers of ten": neighbours(powers_of_ten(-45, 39).astype(np.float32)),
    "powers of two": neighbours(np.float32(2.0) ** np.arange(-148, 128, dtype=np.float32)),
    "ties": ties().astype(np.float32),
    "below one": RNG.random(1000, dtype=np.float32),
}
DOUBLES = {
    "every exponent": every_double_exponent(),
    "any bits": RNG.integers(0, 1 << 63, 1000, dtype=np.uint64).view(np.float64),
    "short decimals": neighbours(short_decimals(-310, 300)),
    "usual decimals": neighbours(short_decimals(-20, 20)),
    "powers of ten": neighbours(powers_of_ten(-323, 309)),
    "powers of two": neighbours(2.0 ** np.arange(-1074, 1024)),
    "ties": RNG.integers(1, 1 << 53, 1000) / 2.0 ** RNG.integers(0, 40, 1000),
    "below one": RNG.random(1000),
}


@pytest.mark.parametrize("values", FLOATS.values(), ids=FLOATS.keys())
@pytest.mark.parametrize("kind", ["float", "rare_float"])
def test_any_float_is_printed_by_the_rule(kind: str, values: Floats) -> None:
    both = np.concatenate([values, -values])
    assert printed(kind, both) == [as_tensorflow_serving(float(v), single=True) for v in both]


@pytest.mark.parametrize("values", DOUBLES.values(), ids=DOUBLES.keys())
@pytest.mark.parametrize("kind", ["double", "rare_double"])
def test_any_double_is_printed_by_the_rule(kind: str, values: Floats) -> None:
    both = np.concatenate([values, -values])
    assert printed(kind, both) == [as_tensorflow_serving(float(v), single=False) for v in both]


def test_every_half_is_printed_as_the_float_it_is() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    assert printed("half", halves) == printed("float", halves.view(np.float16).astype(np.float32))


def test_every_bfloat16_is_printed_as_the_float_it_is() -> None:
    upper = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    assert printed("bfloat16", upper.astype(">u4").view(">u2")[::2].astype("<u2")) == printed(
        "float", upper.view(np.float32)
    )


@pytest.mark.parametrize(
    ("kind", "dtype"), [("int64", np.int64), ("uint64", np.uint64)], ids=["int64", "uint64"]
)
def test_integers_of_every_length_are_printed(
    kind: str, dtype: type[np.int64] | type[np.uint64]
) -> None:
    limits = np.iinfo(dtype)
    edges = [n for power in range(20) for n in (10**power - 1, 10**power, 10**power + 1)]
    bits = [1 << n for n in range(64)]
    numbers = [0, *edges, *bits, limits.min, limits.max, limits.max - 1]
    numbers += [-n for n in numbers] + [int(n) for n in RNG.integers(0, limits.max, 1000, dtype)]
    numbers = [n for n in numbers if limits.min <= n <= limits.max]
    assert printed(kind, np.array(numbers, dtype)) == [str(n) for n in numbers]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (1.5e300, "1.5e300"),
        (1e30, "1e30"),
        (-1e-7, "-1e-7"),
        (1.25e-7, "1.25e-7"),
        (0.000001, "0.000001"),
        (0.00000123, "0.00000123"),
        (1e20, "100000000000000000000.0"),
        (123456789012345680000.0, "123456789012345680000.0"),
        (1e21, "1e21"),
        (5e-324, "5e-324"),
        (1 / 3, "0.3333333333333333"),
        (123456.789, "123456.789"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
    ],
)
def test_shortest_is_laid_out_as_by_rapidjson(value: float, text: str) -> None:
    assert printed("shortest", np.array([value], np.float64)) == [text]


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_shortest_has_the_digits_of_repr(value: float) -> None:
    (text,) = printed("shortest", np.array([value], np.float64))
    assert Decimal(text) == Decimal(repr(value))


# ---- one number ----


@pytest.mark.parametrize(
    ("text", "value", "stopped"),
    [
        (b"0", 0, 1),
        (b"-0", 0, 2),
        (b"7,", 7, 1),
        (b"01", 0, 1),
        (b"12 ", 12, 2),
        (b"-12]", -12, 3),
        (b"18446744073709551615", 2**64 - 1, 20),
        (b"18446744073709551616", 2.0**64, 20),
        (b"9223372036854775808", 2**63, 19),
        (b"-9223372036854775808", -(2**63), 20),
        (b"-9223372036854775809", -(2.0**63), 20),
        (b"1.0", 1.0, 3),
        (b"1e2", 100.0, 3),
        (b"1E+2x", 100.0, 4),
        (b"1.5e-3", 0.0015, 6),
        (b"0.1.2", 0.1, 3),
        (b"0e400", 0.0, 5),
        (b"1e-400", 0.0, 6),
        (b"1.7976931348623157e308", 1.7976931348623157e308, 22),
        (b"1.7976931348623158e308", 1.7976931348623157e308, 22),
        (b"4.9e-324", 5e-324, 8),
        (b"1e-0000000000000000000000400", 0.0, 28),
        (b"1e00000000000000000000001", 10.0, 25),
    ],
)
@pytest.mark.parametrize("behind", [b"", b" " * 100], ids=["at the end", "before more"])
def test_reads_a_number(text: bytes, value: float, stopped: int, behind: bytes) -> None:
    got = parse_number(text + behind)
    assert got == (value, stopped, NUMBER_OK)
    assert type(got[0]) is type(value)


@pytest.mark.parametrize(
    ("text", "stopped", "result"),
    [
        (b"", 0, NO_NUMBER),
        (b"-", 1, NO_NUMBER),
        (b"+1", 0, NO_NUMBER),
        (b".5", 0, NO_NUMBER),
        (b"-a", 1, NO_NUMBER),
        (b"NaN", 0, NO_NUMBER),
        (b"]", 0, NO_NUMBER),
        (b"1.", 2, NO_FRACTION),
        (b"0.e1", 2, NO_FRACTION),
        (b"1.x", 2, NO_FRACTION),
        (b"1e", 2, NO_EXPONENT),
        (b"1e+", 3, NO_EXPONENT),
        (b"1.5E-,", 5, NO_EXPONENT),
        (b"1e309", 0, TOO_BIG),
        (b"-1e400", 0, TOO_BIG),
        (b"1.7976931348623159e308", 0, TOO_BIG),
        (b"1e99999999999999999999999999", 0, TOO_BIG),
        (b"9" * 400, 0, TOO_BIG),
    ],
)
@pytest.mark.parametrize("behind", [b"", b" " * 100], ids=["at the end", "before more"])
def test_says_what_is_wrong_and_where(
    text: bytes, stopped: int, result: int, behind: bytes
) -> None:
    assert parse_number(text + behind) == (None, stopped, result)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1" + "0" * 10_000 + "e-10000", 1.0),
        ("0." + "0" * 10_000 + "1e10001", 1.0),
        ("0." + "0" * 10_000 + "1", 0.0),
        ("0." + "0" * 10_000 + "1e99999", None),
        ("3" * 10_000 + "e-10000", 1 / 3),
        ("0." + "3" * 10_000, 1 / 3),
        ("1." + "0" * 10_000, 1.0),
        ("1e" + "0" * 10_000 + "1", 10.0),
        ("0" + "e" + "9" * 10_000, 0.0),
        ("1e-" + "9" * 10_000, 0.0),
        # Half-way between 1 and the next double, and a digit at the very end that decides.
        ("1.00000000000000011102230246251565404236316680908203125" + "0" * 9000, 1.0),
        (
            "1.00000000000000011102230246251565404236316680908203125" + "0" * 9000 + "1",
            math.nextafter(1, 2),
        ),
    ],
)
def test_long_numbers_are_exact(text: str, value: float | None) -> None:
    assert parse_number(text.encode())[0] == value


JSON_NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
)


@settings(deadline=None, max_examples=200)
@given(JSON_NUMBERS)
@example("0.1000000000000000166533453693773481063544750213623046875")
def test_reads_what_json_reads(text: str) -> None:
    expected = json.loads(text)
    value, stopped, result = parse_number(text.encode())
    if isinstance(expected, float) and math.isinf(expected):
        assert result == TOO_BIG
        return
    assert (stopped, result) == (len(text), NUMBER_OK)
    assert value == expected
    if isinstance(value, float):
        assert math.copysign(1, value) == math.copysign(1, expected)


# ---- lists ----

KINDS = {"float": np.float32, "double": np.float64, "int32": np.int32, "int64": np.int64}


def parsed(kind: str, text: str, most: int = 1 << 16) -> tuple[list[float], int]:
    memory, stopped = parse_numbers(kind, text.encode(), most)
    return np.frombuffer(memory, KINDS[kind]).tolist(), stopped


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_is_read_up_to_its_end(kind: str) -> None:
    text = "1, 2,3 ,\n4\t,\r-5  ]"
    assert parsed(kind, text) == ([1, 2, 3, 4, -5], len(text) - 1)


@pytest.mark.parametrize(
    "rest",
    [", NaN", ",", ', "a"', ", [1]", ", 1.", ", 1e400", ", -", ",]", ",,1", ", nul"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_stops_at_the_comma_before_what_is_no_number(kind: str, rest: str) -> None:
    assert parsed(kind, "1,2" + rest) == ([1, 2], 3)
    assert parsed(kind, "1,2" + rest + " " * 100) == ([1, 2], 3)


@pytest.mark.parametrize("rest", ["", "]", "}", "x", "\x00", "\x01,3"])
@pytest.mark.parametrize("kind", KINDS)
def test_stops_behind_the_last_number(kind: str, rest: str) -> None:
    assert parsed(kind, "1,2" + rest) == ([1, 2], 3)


@pytest.mark.parametrize("kind", KINDS)
def test_takes_no_more_than_there_is_room_for(kind: str) -> None:
    assert parsed(kind, "1,2,3", most=2) == ([1, 2], 3)
    assert parsed(kind, "1,2,3", most=0) == ([], 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "]", " NaN", "01"])
def test_nothing_is_read_where_no_number_begins(kind: str, text: str) -> None:
    assert parsed(kind, text) == (([0], 1) if text == "01" else ([], 0))


@pytest.mark.parametrize(("kind", "bits"), [("int32", 31), ("int64", 63)], ids=["int32", "int64"])
def test_integers_end_at_their_limits(kind: str, bits: int) -> None:
    least, most = -(2**bits), 2**bits - 1
    assert parsed(kind, f"{least},{most}")[0] == [least, most]
    assert parsed(kind, f"1,{least - 1}") == ([1], 1)
    assert parsed(kind, f"1,{most + 1}") == ([1], 1)
    assert parsed(kind, "1,1.0") == ([1], 1)
    assert parsed(kind, "1,1e0") == ([1], 1)
    assert parsed(kind, "-0") == ([0], 2)


def test_a_float_too_big_is_infinite_and_one_too_small_is_zero() -> None:
    values, _ = parsed("float", f"1e39, -1e39, 3.5e38, {2**128 - 2**103}, 1e-46, -1e-46, -0.0")
    assert values[:3] == [math.inf, -math.inf, math.inf]
    assert values[3] == math.inf  # half-way from the largest float
    assert [math.copysign(1, value) for value in values[4:]] == [1, -1, -1]
    assert values[4:] == [0, 0, 0]


def test_the_integer_minus_zero_is_zero() -> None:
    # As for TensorFlow Serving, to which it is an integer.
    for kind in ("float", "double"):
        values, _ = parsed(kind, "-0, 5")
        assert math.copysign(1, values[0]) == 1


def midpoints() -> list[str]:
    """Texts of values half-way between two floats, exact and rounded to fewer digits."""
    bits = RNG.integers(0, 0x7F7FFFFF, 400, dtype=np.uint32)
    below = bits.view(np.float32).astype(np.float64)
    above = (bits + np.uint32(1)).view(np.float32).astype(np.float64)
    texts = []
    for middle in ((below + above) / 2).tolist():
        exact = format(Decimal(middle), "e").replace("E", "e")
        texts += [exact, exact.replace("e", "0000000001e"), f"{middle:.16e}", f"{middle:.17e}"]
        texts += [f"{middle:.7e}", f"{middle:.8e}", f"{math.nextafter(middle, 0):.17e}"]
    return texts


def test_floats_are_rounded_once() -> None:
    texts = midpoints()
    values, stopped = parsed("float", ", ".join(texts))
    assert stopped == len(", ".join(texts))
    assert values == [nearest_float(text) for text in texts]


@settings(deadline=None)
@given(st.lists(JSON_NUMBERS, min_size=1, max_size=8))
def test_reads_the_nearest_float_of_any_text(texts: list[str]) -> None:
    texts = [text for text in texts if not math.isinf(float(text))] or ["1"]
    values, _ = parsed("float", ",".join(texts))
    expected = [nearest_float(text) + (0.0 if text == "-0" else -0.0) for text in texts]
    assert struct.pack(f"{len(values)}f", *values) == struct.pack(f"{len(texts)}f", *expected)


@pytest.mark.parametrize("form", ["{:.9g}", "{:.8f}", "{:.17g}", "{!r}", "{:.25e}", "{:.30f}"])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_reads_every_common_form(kind: str, form: str) -> None:
    texts = [form.format(value) for value in RNG.standard_normal(500).tolist()]
    values, _ = parsed(kind, ", ".join(texts))
    as_kind = nearest_float if kind == "float" else float
    assert values == [as_kind(text) for text in texts]


@pytest.mark.parametrize("kind", ["float", "double"])
def test_what_is_printed_is_read_back(kind: str) -> None:
    arrays = FLOATS if kind == "float" else DOUBLES
    values = np.concatenate(list(arrays.values()))
    values = values[np.isfinite(values)]
    memory, _ = parse_numbers(kind, print_numbers(kind, values.tobytes()), len(values))
    assert memory == values.tobytes()


@pytest.mark.parametrize("size", range(70))
def test_nothing_is_read_beyond_the_end(size: int) -> None:
    # The digits that go on behind the end must not count.
    text = b"0." + b"123456789" * 10
    memory, stopped = parse_numbers("double", text[: size + 3], 1)
    assert np.frombuffer(memory, np.float64)[0] == float(text[: size + 3])
    assert stopped == size + 3


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="quad"):
        print_numbers("quad", b"")
    with pytest.raises(ValueError, match="quad"):
        parse_numbers("quad", b"", 0)
