"""The platform "lookup_table": files, and what they answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.functional.messages import floats, strings
from tfsrv.config import ModelConfig, ServerOptions
from tfsrv.core.failure import is_permanent
from tfsrv.core.loader import Loader
from tfsrv.core.predict_servable import PredictServable
from tfsrv.core.resources import RAM
from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.servables.lookup_table import LookupTable, lookup_table_platform, read_table

OPTIONS = ServerOptions(models=(ModelConfig("m", "/m"),))
LEGS = b"key:string\tvalue:float\ncat\t4\nspider\t8\nsnake\t0\n"


def table(folder: Path, content: bytes) -> LookupTable:
    path = folder / "table.tsv"
    path.write_bytes(content)
    return read_table(str(path))


def error(folder: Path, content: bytes) -> str:
    """What is said of a file that is wrong, without the folder."""
    with pytest.raises(ServingError) as caught:
        table(folder, content)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert is_permanent(caught.value)
    return caught.value.message.removeprefix(f"{folder}/")


def ask(made: LookupTable, **inputs: Any) -> tuple[Any, Any]:
    outputs = made.predict("serving_default", inputs, ())
    assert outputs.keys() == {"values", "found"}
    return outputs["values"].tolist(), outputs["found"].tolist()


def loader_of(folder: Path) -> Loader:
    adapter = lookup_table_platform(OPTIONS).adapter
    return adapter.convert(ServableData(ServableId("m", 1), StoragePath(str(folder))))


# --- answers


def test_keys_go_in_and_values_come_out(tmp_path: Path) -> None:
    made = table(tmp_path, LEGS)
    assert isinstance(made, PredictServable)
    assert len(made) == 3
    assert ask(made, keys=strings("spider", "worm", "cat")) == ([8, 0, 4], [True, False, True])


def test_the_answer_has_the_shape_of_the_keys(tmp_path: Path) -> None:
    made = table(tmp_path, LEGS)
    keys = strings("cat", "worm", "spider", "cat").reshape(2, 1, 2)
    outputs = made.predict("serving_default", {"keys": keys}, ())
    assert outputs["values"].tolist() == [[[4, 0]], [[8, 4]]]
    assert outputs["found"].tolist() == [[[True, False]], [[True, True]]]
    assert outputs["values"].dtype == "float32"
    assert outputs["found"].dtype == bool
    none = made.predict("serving_default", {"keys": strings()}, ())
    assert none["values"].shape == none["found"].shape == (0,)


@pytest.mark.parametrize("count", [4095, 4096, 4097, 20_000])
def test_any_number_of_keys_is_looked_up(tmp_path: Path, count: int) -> None:
    made = table(tmp_path, b"key:int64\tvalue:string\n0\tzero\n1\tone\n")
    keys = numpy.arange(count) % 3
    defaults = strings(*(b"%d" % i for i in range(count)))
    values, found = ask(made, keys=keys, default=defaults)
    assert values == [[b"zero", b"one", b"%d" % i][i % 3] for i in range(count)]
    assert found == (keys < 2).tolist()


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        (floats(7), [7, 4, 7]),
        (numpy.array(7, "float32"), [7, 4, 7]),
        (floats(1, 2, 3), [1, 4, 3]),
    ],
    ids=["one", "scalar", "each"],
)
def test_a_default_stands_for_what_is_not_there(
    tmp_path: Path, default: Any, expected: list[float]
) -> None:
    keys = strings("a", "cat", "b")
    values, found = ask(table(tmp_path, LEGS), keys=keys, default=default)
    assert values == expected
    assert found == [False, True, False]
    scalar = numpy.empty((), object)
    scalar[()] = b"worm"
    if default.size == 1:
        assert ask(table(tmp_path, LEGS), keys=scalar, default=default) == (7, False)


@pytest.mark.parametrize(
    ("content", "keys", "values", "nothing"),
    [
        (b"key:string\tvalue:string\na\tA\nb\t\n", strings("a", "b"), [b"A", b""], b""),
        (b"key:string\tvalue:int64\na\t-5\n", strings("a"), [-5], 0),
        (b"key:int64\tvalue:string\n-3\tminus\n", numpy.array([-3]), [b"minus"], b""),
        (b"key:int64\tvalue:double\n9\t0.1\n", numpy.array([9]), [0.1], 0),
        (b"key:int64\tvalue:float\n1\t-1e3\n2\tinf\n", numpy.array([1, 2]), [-1000, numpy.inf], 0),
    ],
    ids=["string-string", "string-int64", "int64-string", "int64-double", "int64-float"],
)
def test_keys_and_values_are_of_the_types_that_the_first_line_names(
    tmp_path: Path, content: bytes, keys: Any, values: list[Any], nothing: Any
) -> None:
    made = table(tmp_path, content)
    assert ask(made, keys=keys) == (values, [True] * len(values))
    missing = strings("nope") if keys.dtype == object else numpy.array([12345])
    assert ask(made, keys=missing) == ([nothing], [False])


def test_it_tells_its_signature(tmp_path: Path) -> None:
    made = table(tmp_path, b"key:int64\tvalue:string\n")
    (signature,) = made.signature_defs.values()
    assert {alias: info.dtype for alias, info in signature.inputs.items()} == {"keys": 9}
    assert {alias: info.dtype for alias, info in signature.outputs.items()} == {
        "values": 7,
        "found": 10,
    }
    assert signature.method_name == "tensorflow/serving/predict"


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (
            {},
            'A lookup table takes "keys" and may take "default", but the request has no inputs',
        ),
        (
            {"x": strings("a"), "keys": strings("a")},
            'A lookup table takes "keys" and may take "default", but the request has "keys", "x"',
        ),
        (
            {"default": floats(1)},
            'A lookup table takes "keys" and may take "default", but the request has "default"',
        ),
        (
            {"keys": floats(1)},
            '"keys" is of type float32, but the table has string there',
        ),
        (
            {"keys": strings("a"), "default": strings("b")},
            '"default" is of type string, but the table has float there',
        ),
        (
            {"keys": strings("a", "b", "c"), "default": floats(1, 2)},
            '"default" has shape [2]: it may have one element, or the shape of "keys", [3]',
        ),
    ],
    ids=["nothing", "unknown", "no keys", "type of keys", "type of default", "shape of default"],
)
def test_wrong_inputs_are_told(tmp_path: Path, inputs: dict[str, Any], text: str) -> None:
    with pytest.raises(ServingError) as caught:
        ask(table(tmp_path, LEGS), **inputs)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, text)


# --- files


def test_strings_may_be_any_bytes(tmp_path: Path) -> None:
    content = b"key:string\tvalue:string\r\n\xff\0\t\\\\\\t\\n\\r\r\n\n\n \tblank\n\tno key"
    made = table(tmp_path, content)
    keys = strings(b"\xff\0", b" ", b"")
    assert ask(made, keys=keys) == ([b"\\\t\n\r", b"blank", b"no key"], [True] * 3)


@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=20), max_size=20))
def test_whatever_is_escaped_comes_back(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[bytes, bytes]
) -> None:
    lines = [escaped(key) + b"\t" + escaped(value) for key, value in entries.items()]
    content = b"key:string\tvalue:string\n" + b"\n".join(lines)
    made = table(tmp_path_factory.getbasetemp(), content)
    assert ask(made, keys=strings(*entries)) == (list(entries.values()), [True] * len(entries))


def escaped(text: bytes) -> bytes:
    for plain, letter in ((b"\\", b"\\"), (b"\t", b"t"), (b"\n", b"n"), (b"\r", b"r")):
        text = text.replace(plain, b"\\" + letter)
    return text


HEAD = b"key:string\tvalue:float\n"
FIRST_LINE = (
    "table.tsv:1: the first line is {}, but should be 'key:TYPE', a tab and 'value:TYPE', with"
    " string or int64 for keys and string, int64, float, double for values"
)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", FIRST_LINE.format("''")),
        (b"cat\t4\n", FIRST_LINE.format(r"'cat\t4\n'")),
        (b"key:float\tvalue:float\n", FIRST_LINE.format(r"'key:float\tvalue:float\n'")),
        (b"key:string\tvalue:bool\n", FIRST_LINE.format(r"'key:string\tvalue:bool\n'")),
        (
            HEAD + b"a\t1\n\nb 2\n",
            "table.tsv:4: a key, one tab and a value are expected, not 0 tabs",
        ),
        (
            HEAD + b"a\t1\t2\n",
            "table.tsv:2: a key, one tab and a value are expected, not 2 tabs",
        ),
        (HEAD + b"a\tone\n", "table.tsv:2: 'one' is no number"),
        (HEAD + b"a\t1_0\n", "table.tsv:2: '1_0' is no number"),
        (HEAD + b"a\t1.2.3\n", "table.tsv:2: '1.2.3' is no number"),
        (HEAD + b"a\t\n", "table.tsv:2: '' is no number"),
        (HEAD + b"a\t1e39\n", "table.tsv:2: '1e39' is too large for a float"),
        (HEAD + b"a\t-1e999\n", "table.tsv:2: '-1e999' is too large for a float"),
        (
            HEAD.replace(b"float", b"double") + b"a\t1e999\n",
            "table.tsv:2: '1e999' is too large for a double",
        ),
        (HEAD + b"a\t1\nb\t1\na\t1\n", "table.tsv:4: the key 'a' is there a second time"),
        (HEAD + b"\\x\t1\n", r"table.tsv:2: \x has no meaning"),
        (HEAD + b"\\\t1\n", "table.tsv:2: \\ has no meaning"),
        (
            b"key:int64\tvalue:int64\n1\t9223372036854775808\n",
            "table.tsv:2: '9223372036854775808' is no int64",
        ),
        (b"key:int64\tvalue:int64\n1.0\t1\n", "table.tsv:2: '1.0' is no int64"),
        (
            HEAD + b"a\t1\n" + b"b" * (1 << 20),
            "table.tsv:3: the line is longer than 1048576 bytes",
        ),
    ],
)
def test_a_file_that_is_wrong_is_told_with_its_line(
    tmp_path: Path, content: bytes, text: str
) -> None:
    assert error(tmp_path, content) == text


@given(st.binary(max_size=60))
def test_random_bytes_are_a_table_or_an_error_with_a_line(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    for head in (b"", HEAD, b"key:int64\tvalue:string\n"):
        try:
            table(tmp_path_factory.getbasetemp(), head + tail)
        except ServingError as error:
            assert "table.tsv:" in error.message  # noqa: PT017 - most are no error


# --- loading


def test_loader_loads_serves_and_unloads_a_table(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_bytes(LEGS)
    loader = loader_of(tmp_path)
    assert loader.origin == StoragePath(str(tmp_path))
    loader.load()
    loader.warm_up()
    servable = loader.servable()
    assert isinstance(servable, LookupTable)
    assert loader.servable() is servable
    assert ask(servable, keys=strings("cat")) == ([4], [True])
    loader.unload()
    assert loader.servable() is None
    assert len(servable) == 0  # freed, whoever still has it


def test_memory_is_estimated_from_the_file_and_known_when_it_is_loaded(tmp_path: Path) -> None:
    lines = b"".join(b"some key %d\tsome value %d\n" % (i, i) for i in range(20_000))
    (tmp_path / "table.tsv").write_bytes(b"key:string\tvalue:string\n" + lines)
    loader = loader_of(tmp_path)
    before = loader.estimate_resources()[RAM]
    loader.load()
    after = loader.estimate_resources()[RAM]
    assert 0.8 < before / after < 1.25
    assert after > len(lines) + 20_000 * 100


def test_a_file_that_is_missing_is_a_permanent_error_with_its_path(tmp_path: Path) -> None:
    for attempt in (loader_of(tmp_path).load, loader_of(tmp_path).estimate_resources):
        with pytest.raises(ServingError, match=r"table\.tsv") as caught:
            attempt()
        assert caught.value.code is Code.NOT_FOUND


def test_a_version_is_complete_when_its_table_is_there_and_settled(tmp_path: Path) -> None:
    inspector = lookup_table_platform(OPTIONS).inspector
    with pytest.raises(ServingError, match=r"Could not find table\.tsv in"):
        inspector.is_complete(str(tmp_path), is_settled=True)
    (tmp_path / "table.tsv").write_bytes(LEGS)
    assert inspector.is_complete(str(tmp_path), is_settled=True)
    assert not inspector.is_complete(str(tmp_path))  # written just now
