"""The command line: words become the values of the flags in `flag_table`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tfsrv.flag_table import FLAG_GROUPS, FLAGS, Flag, Status, Value


class UsageError(Exception):
    """The command line is wrong; the message is one sentence for whoever typed it."""


@dataclass(frozen=True)
class CommandLine:
    """What was typed: a value for every flag of the table, and the words that are no flags."""

    values: dict[str, Value]
    given: frozenset[str]
    words: tuple[str, ...] = ()
    # The boolean flag that stood before the first word: the usual reason for a stray `true`.
    word_follows: str = ""

    def boolean(self, name: str) -> bool:
        """The value of a boolean flag."""
        value = self.values[name]
        assert isinstance(value, bool)
        return value

    def integer(self, name: str) -> int:
        """The value of an integer flag."""
        value = self.values[name]
        assert isinstance(value, int)
        return value

    def number(self, name: str) -> float:
        """The value of a floating-point flag."""
        value = self.values[name]
        assert isinstance(value, float)
        return value

    def text(self, name: str) -> str:
        """The value of a string flag."""
        value = self.values[name]
        assert isinstance(value, str)
        return value


def parse(arguments: Sequence[str]) -> CommandLine:
    """Read a command line (without the program's name).

    `--x=v` and `--x v` give a value; `--x`, `--nox`, `--x=true|false|1|0` set a boolean, which
    never takes the next word. Of a flag given twice the last one counts. `--` ends the flags.
    Raises UsageError.

        parse(["--port=0", "--model_name", "m", "models/m"])
    """
    reader = _Reader(list(arguments))
    while reader.rest:
        reader.read_one()
    values = {name: flag.default for name, flag in FLAGS.items()} | reader.values
    return CommandLine(values, frozenset(reader.values), tuple(reader.words), reader.word_follows)


@dataclass
class _Reader:
    rest: list[str]
    values: dict[str, Value] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    word_follows: str = ""
    last: str = ""

    def read_one(self) -> None:
        """Take one flag (with its value, if that is the next word) or one word."""
        word = self.rest.pop(0)
        if word == "--":
            self.words += self.rest
            self.rest = []
        elif word == "-h":
            self.values["help"] = True
        elif not word.startswith("--"):
            if word.startswith("-") and word != "-":
                raise UsageError(f"unknown flag {word}{_meant(word)}; flags start with --")
            if not self.words:
                self.word_follows = self.last
            self.words.append(word)
        else:
            self._read_flag(word[2:])
            return
        self.last = ""

    def _read_flag(self, text: str) -> None:
        name, has_value, value = text.partition("=")
        flag = FLAGS.get(name)
        self.last = ""
        if flag is None:
            self._read_negated(name, bool(has_value))
        elif isinstance(flag.default, bool):
            self.values[name] = _boolean(flag, value) if has_value else True
            self.last = "" if has_value else name
        elif has_value:
            self.values[name] = _parse(flag, value)
        elif not self.rest or self.rest[0].startswith("--"):
            raise UsageError(f"--{name} needs a value: --{name}={_placeholder(flag)}")
        else:
            self.values[name] = _parse(flag, self.rest.pop(0))

    def _read_negated(self, name: str, has_value: bool) -> None:
        flag = FLAGS.get(name.removeprefix("no")) if name.startswith("no") else None
        if flag is None or not isinstance(flag.default, bool):
            raise UsageError(f"unknown flag --{name}{_meant(name)}")
        if has_value:
            raise UsageError(f"--{name} takes no value")
        self.values[flag.name] = False
        self.last = name


def _meant(word: str) -> str:
    """A guess at the flag that was meant, as the end of a sentence."""
    import difflib  # only for those who mistype

    close = difflib.get_close_matches(word.lstrip("-").replace("-", "_"), FLAGS, n=1, cutoff=0.7)
    return f" (did you mean --{close[0]}?)" if close else " (see --help)"


def _parse(flag: Flag, text: str) -> Value:
    if isinstance(flag.default, int):
        return _integer(flag, text)
    if isinstance(flag.default, float):
        return _float(flag, text)
    return _string(flag, text)


def _boolean(flag: Flag, text: str) -> bool:
    lowered = text.lower()
    if lowered in ("true", "1"):
        return True
    if lowered in ("false", "0"):
        return False
    raise UsageError(f"bad value '{text}' for --{flag.name}: it must be true or false")


def _integer(flag: Flag, text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise UsageError(f"bad value '{text}' for --{flag.name}: it must be a whole number")
    value = int(text[:22])  # enough digits to be out of range; int() refuses thousands of them
    if not -(2 ** (flag.bits - 1)) <= value < 2 ** (flag.bits - 1):
        raise UsageError(f"bad value '{text}' for --{flag.name}: it needs over {flag.bits} bits")
    return int(_within(flag, text, value))


def _float(flag: Flag, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise UsageError(f"bad value '{text}' for --{flag.name}: it must be a number")
    return float(_within(flag, text, value))


def _within(flag: Flag, text: str, value: float) -> float:
    if flag.minimum is not None and value < flag.minimum:
        raise UsageError(f"bad value '{text}' for --{flag.name}: the least is {flag.minimum:.0f}")
    if flag.maximum is not None and value > flag.maximum:
        raise UsageError(f"bad value '{text}' for --{flag.name}: the most is {flag.maximum:.0f}")
    return value


def _string(flag: Flag, text: str) -> str:
    if flag.choices and text not in flag.choices:
        choices = " or ".join(flag.choices)
        raise UsageError(f"bad value '{text}' for --{flag.name}: it must be {choices}")
    return text


def refuse_what_is_not_built(line: CommandLine) -> None:
    """Raise UsageError for a flag that asks for something this server does not do.

    At its default such a flag is fine: start scripts often spell defaults out.
    """
    for name in sorted(line.given):
        flag, value = FLAGS[name], line.values[name]
        if flag.status not in (Status.NOT_YET, Status.NEVER):
            continue
        if value == flag.default or value in flag.also_fine:
            continue
        reason = f" ({flag.note})" if flag.note else ""
        raise UsageError(
            f"--{name} is {flag.status.value}{reason}: leave it out, or at its default"
            f" {shown(flag.default) or 'of no value'}"
        )


def without_meaning(line: CommandLine) -> list[str]:
    """A sentence for each flag that was given and does nothing here."""
    return [
        f"--{name} does nothing in this server: {FLAGS[name].note}"
        for name in sorted(line.given)
        if FLAGS[name].status is Status.WITHOUT_MEANING
    ]


def shown(value: Value) -> str:
    """A value as it is typed."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _placeholder(flag: Flag) -> str:
    if flag.placeholder or flag.choices:
        return flag.placeholder or "|".join(flag.choices)
    if isinstance(flag.default, bool):
        return "true|false"
    return "TEXT" if isinstance(flag.default, str) else "N"


def help_text(width: int = 100) -> str:
    """What `--help` prints."""
    import textwrap  # only for those who ask

    def paragraph(text: str, indent: str) -> str:
        return textwrap.fill(
            text,
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
            break_long_words=False,
        )

    parts = [
        "Serves TensorFlow SavedModels over gRPC, with the flags of TensorFlow Serving.\n",
        "  tfsrv DIR                                       serve DIR on this machine only",
        "  tfsrv --model_name=NAME --model_base_path=DIR   serve it to everybody on port 8500",
        "  tfsrv --model_config_file=FILE                  serve the models that FILE lists",
        "  tfsrv check FILE                                look for mistakes in such a FILE and in",
        "                                                  its directories; exits with 1 for any",
        "  tfsrv show DIR|HOST:PORT                        print versions and signatures of models",
        "  tfsrv predict HOST:PORT MODEL JSON              send one request (see predict --help)",
        "  tfsrv ./check                                   serve a directory called check\n",
        "`python -m tfsrv` is the same as `tfsrv`. A flag is written --name=value or --name value;"
        "\na boolean --name, --noname or --name=false.",
    ]
    for group, flags in FLAG_GROUPS.items():
        working = [flag for flag in flags if flag.status is Status.WORKS]
        if not working:
            continue
        parts.append(f"\n{group}:")
        for flag in working:
            parts.append(f"  --{_usage(flag)}")
            parts.append(paragraph(flag.help, " " * 6))
    for status, title in (
        (Status.WITHOUT_MEANING, "Accepted, and without meaning here:"),
        (Status.NOT_YET, "Not built yet (accepted at the default):"),
        (Status.NEVER, "Not part of this server (accepted at the default):"),
    ):
        names = [f"--{flag.name}" for flag in FLAGS.values() if flag.status is status]
        parts.append(f"\n{title}")
        parts.append(paragraph(", ".join(names), "  "))
    return "\n".join(parts) + "\n"


def _usage(flag: Flag) -> str:
    if flag.name in ("help", "version"):
        return flag.name
    default = shown(flag.default) if flag.default != "" else "none"
    return f"{flag.name}={_placeholder(flag)}  (default: {default})"
