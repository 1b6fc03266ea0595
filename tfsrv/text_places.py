"""Where in the text of a ModelServerConfig each model stands, and in any text each field.

Protobuf's parser tells places only of what it can't read. That a name is listed twice, or that
a label leads nowhere, shows later, when the text has become a message; with hundreds of models in
a file, such an error has to say where. The grammar is
https://protobuf.dev/reference/protobuf/textformat-spec/.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
    (?P<space> (?: \s | \#[^\n]* )+ )
    | (?P<string> " (?: [^"\\\n] | \\. )* " | ' (?: [^'\\\n] | \\. )* ' )
    | (?P<word> [\w.+/-]+ )
    | (?P<sign> . )
    """,
    re.VERBOSE,
)
_MODEL = ["model_config_list", "config"]


def model_lines(text: str) -> list[int]:
    """The line, from 1, of each model's name, in the order of the models; `text` is right.

    For a model without a name it is the line where its block begins.

        model_lines('model_config_list {\\n  config {\\n    name: "m"\\n  }\\n}')  # [3]
    """
    lines: list[int] = []
    path: list[str] = []  # the fields whose blocks are open
    field = ""  # the one whose block would open next; in a list of blocks it stays the same
    line = 1
    for match in _TOKEN.finditer(text):
        token = match[0]
        if match.lastgroup == "space":
            line += token.count("\n")
        elif match.lastgroup == "word":
            field = token
            if field == "name" and path == _MODEL:
                lines[-1] = line
        elif token in ("{", "<"):
            path.append(field)
            if path == _MODEL:
                lines.append(line)
        elif token in ("}", ">"):
            field = path.pop() if path else ""
    return lines


def field_lines(text: str) -> dict[str, int]:
    """The line, from 1, of each field of the message itself, not of those in it; `text` is right.

    Of a field that is given several times it is the last one.

        field_lines("allowed_batch_sizes: 1\\nallowed_batch_sizes: 2")  # {"allowed_batch_sizes": 2}
    """
    lines: dict[str, int] = {}
    depth = 0
    field = ""  # the last word, which is a field's name if a colon or a block follows
    line = word_line = 1
    for match in _TOKEN.finditer(text):
        token = match[0]
        if match.lastgroup == "space":
            line += token.count("\n")
        elif match.lastgroup == "word":
            field, word_line = token, line
        elif token in (":", "{", "<"):
            if depth == 0 and field:
                lines[field] = word_line
            field = ""
            depth += token != ":"
        elif token in ("}", ">"):
            depth -= 1
    return lines
