"""The server with several models, for which it has no flag yet. Else as `python -m tfsrv`.

python -m tests.functional.serve_several NAME=BASE_PATH [NAME@PLATFORM=BASE_PATH ...] [FLAG ...]
"""

from __future__ import annotations

import dataclasses
import sys

from tfsrv._opening import Opening
from tfsrv.cli import options_from
from tfsrv.config import ModelConfig
from tfsrv.flags import parse
from tfsrv.parts import make_parts
from tfsrv.server import leave, run


def model(word: str) -> ModelConfig:
    name, _, base_path = word.partition("=")
    name, _, platform = name.partition("@")
    return ModelConfig(name, base_path, platform=platform or "tensorflow")


def main(arguments: list[str]) -> int:
    flags = [word for word in arguments if word.startswith("-")]
    models = tuple(model(word) for word in arguments if not word.startswith("-"))
    line = parse([*flags, f"--model_base_path={models[0].base_path}"])
    return run(dataclasses.replace(options_from(line), models=models), make_parts, Opening)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
