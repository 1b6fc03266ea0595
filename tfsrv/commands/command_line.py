"""What the commands share: options, targets, and how errors are told."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from tfsrv.client import Client, ClientError, Signature

TIMEOUT = 30.0  # seconds
_INTERNAL = "__saved_model_"  # signatures that TensorFlow keeps for itself


class UsageError(Exception):
    """What was typed is wrong; the message is one line."""


class CommandError(Exception):
    """It could not be done; the message is one line."""


class Parser(argparse.ArgumentParser):
    """Tells of a wrong command line in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parser(name: str, description: str) -> Parser:
    return Parser(f"tfsrv {name}", description=description, allow_abbrev=False)


def add_connection_options(parser: Parser) -> None:
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT,
        metavar="SECONDS",
        help="of each call: %(default)s",
    )


def run(program: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    """The exit status of a command: 2 for what was typed wrong, 1 for what failed."""
    try:
        return program(arguments)
    except UsageError as error:
        message, status = str(error), 2
    except (CommandError, ClientError) as error:
        message, status = str(error), 1
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"tfsrv: {' '.join(message.split())}", file=sys.stderr)
    return status


def is_address(target: str) -> bool:
    """Whether a word is a server's address rather than a directory: the latter if there is one."""
    return target.startswith("unix:") or (":" in target and not os.path.exists(target))


def connect(target: str, timeout: float) -> Client:
    if not timeout > 0:
        raise UsageError(f"--timeout={timeout:g}: give more than 0 seconds")
    return Client(target, timeout=timeout, retries=2)


def visible(signatures: Mapping[str, Signature]) -> dict[str, Signature]:
    """The signatures that are there to be asked."""
    return {name: each for name, each in signatures.items() if not name.startswith(_INTERNAL)}
