"""Where the models of a text stand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsrv.model_config import parse_model_server_config
from tfsrv.text_places import field_lines, model_lines

PLAIN = """
# two models
model_config_list {
  config {
    name: "a"
    base_path: "/a"
  }

  config {
    base_path: "/b"
    name: "b"
  }
}
"""
ODD = r"""
model_config_list: < config: {
    # name: "no" }
    version_labels { key: "name" value: 1 }
    version_labels: { key: '} { config' value: 2 };
    base_path: "\"}" '\'{'
    model_version_policy { specific { versions: [1,
      2] } }
    logging_config { log_collector_config { type: "name" } }
    name
      : "a",
  },
  config <>
  config: [{name: "b"}, <
      name: "c" >]
> # }
"""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("model_config_list { }", []),
        (PLAIN, [5, 11]),
        (PLAIN.replace("\n", "\r\n"), [5, 11]),
        (ODD, [10, 13, 14, 15]),
        ('model_config_list{config{name:"a"}config{name:"b"}}', [1, 1]),
        ("model_config_list {\n config {\n base_path: '/a'\n}}", [2]),
    ],
    ids=["nothing", "empty list", "plain", "CRLF", "odd", "tight", "without a name"],
)
def test_finds_the_line_of_each_models_name(text: str, lines: list[int]) -> None:
    message: Any = parse_model_server_config(text.encode(), "f")
    assert len(message.model_config_list.config) == len(lines)
    assert model_lines(text) == lines


def test_a_custom_config_has_no_models() -> None:
    text = """custom_model_config {
      [type.googleapis.com/tensorflow.serving.ModelServerConfig] {
        model_config_list { config { name: "a" } }
      }
    }"""
    parse_model_server_config(text.encode(), "f")
    assert model_lines(text) == []


BLANKS = st.sampled_from([" ", "\n", "\t\n", " # }{ name:\n", "\n\n"])


@st.composite
def blocks(draw: st.DrawFn) -> tuple[str, int]:
    """The text of one model, and how many lines are above its name in it."""
    fields = draw(
        st.permutations(
            [
                'base_path: "{{"',
                "version_labels { key: 'name' value: 3 }",
                'model_platform: "#"',
                "model_version_policy < all: {} >",
            ]
        )
    )
    where = draw(st.integers(0, len(fields)))
    fields = [*fields[:where], "name: 'a'", *fields[where:]]
    pieces = [f"{draw(BLANKS)}{field}" for field in fields]
    begin, end = draw(st.sampled_from([("{", "}"), ("<", ">")]))
    text = begin + "".join(pieces) + draw(BLANKS) + end
    return text, ("".join(pieces[: where + 1])).count("\n")


@given(st.lists(blocks()), st.data())
def test_finds_every_line_however_the_text_is_laid_out(
    models: list[tuple[str, int]], data: st.DataObject
) -> None:
    text = "model_config_list {"
    lines = []
    for block, above in models:
        text += f"{data.draw(BLANKS)}config "
        lines.append(1 + text.count("\n") + above)
        text += block
    text += "}"
    parse_model_server_config(text.encode(), "f")
    assert model_lines(text) == lines


@given(st.text(alphabet="{}<>[]:,;'\"#\\\n amodel_config_list"))
def test_any_text_is_read_to_its_end(text: str) -> None:
    model_lines(text)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", {}),
        ("a: 1\nb { c: 2\n }\n d < e { f: 3 } > g: [\n 4,\n 5 ]", {"a": 1, "b": 2, "d": 4, "g": 4}),
        ("a: 1\na: 2", {"a": 2}),
        ("# x: 1\na\n# y: 2\n: true b: word, c: 'd: {'; e: 1.5", {"a": 2, "b": 4, "c": 4, "e": 4}),
        ("a: { b: 1 }\n} c: 1", {"a": 1}),  # no text, and no trouble
    ],
)
def test_lines_of_fields(text: str, lines: dict[str, int]) -> None:
    assert field_lines(text) == lines


@given(st.text(alphabet="{}<>:[],#'\"ab1 \n"))
def test_lines_of_fields_of_any_text_are_lines_of_it(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in field_lines(text).values())
