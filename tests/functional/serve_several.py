"""The server with several models, for which it has no flag yet. Else as `python -m tfsrv`.

python -m tests.functional.serve_several NAME=BASE_PATH [NAME=BASE_PATH ...] [FLAG ...]
"""

from __future__ import annotations

import dataclasses
import sys

from tfsrv.cli import options_from
from tfsrv.config import ModelConfig
from tfsrv.flags import parse
from tfsrv.parts import make_parts, open_library
from tfsrv.server import leave, run


def main(arguments: list[str]) -> int:
    pairs = [word.split("=", 1) for word in arguments if not word.startswith("-")]
    flags = [word for word in arguments if word.startswith("-")]
    models = tuple(ModelConfig(name, base_path) for name, base_path in pairs)
    line = parse([*flags, f"--model_base_path={models[0].base_path}"])
    options = dataclasses.replace(options_from(line), models=models)
    return run(options, make_parts, lambda: open_library(options))


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
