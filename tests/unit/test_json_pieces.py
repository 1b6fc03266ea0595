"""JSON that is put together."""

from __future__ import annotations

import json

from tfsrv.frontends.json_pieces import (
    MOST_CHARACTERS,
    json_array,
    json_bytes,
    json_object,
    json_string,
    object_pieces,
)

VALUES: list[object] = [None, 1, 2.5, "", 'a"\\\n\x00ü☃', [], {}, {"a": [1, {"b": None}]}]


def test_is_what_json_itself_would_make() -> None:
    assert json.loads(json_array(map(json_bytes, VALUES))) == VALUES
    members = {f'"{number}': value for number, value in enumerate(VALUES)}
    made = json_object((key, json_bytes(value)) for key, value in members.items())
    assert made == json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()


def test_there_may_be_nothing_in_it() -> None:
    assert (json_array([]), json_object([])) == (b"[]", b"{}")


def test_values_may_be_in_pieces() -> None:
    pieces = object_pieces([("a", [b"1"]), ("b", object_pieces([("c", [b"[", b"2", b"]"])]))])
    assert b"".join(pieces) == b'{"a":1,"b":{"c":[2]}}'


def test_what_is_no_unicode_is_a_question_mark() -> None:
    assert json_bytes("a\udcffb") == b'"a?b"'


def test_long_strings_are_the_same_as_others() -> None:
    for size in (0, 1, MOST_CHARACTERS, MOST_CHARACTERS + 1, 3 * MOST_CHARACTERS - 1):
        text = ('ab"\\\n☃𝄞' * size)[:size]
        assert json.loads(json_string(text)) == text
