"""`tfsrv check FILE`: a ModelServerConfig and the directories that it names.

models.config:12: model m: version 3: /models/m/3/saved_model.pb is empty
models.config: ModelServerConfig: 3 models, 5 versions: 1 problem
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from tfsrv import _proto
from tfsrv.batching_parameters_file import BATCHING_PARAMETERS
from tfsrv.checking.base_path import check_base_path, nothing_wrong
from tfsrv.checking.batching_parameters import problem_of_batching_parameters
from tfsrv.checking.version import VersionCheck
from tfsrv.config import ModelConfig
from tfsrv.errors import ServingError
from tfsrv.model_config import (
    CANNOT_PARSE,
    CUSTOM_MODEL_CONFIG,
    check_model,
    parse_model_server_config,
)
from tfsrv.model_config_checks import problems_of
from tfsrv.model_config_file import folder_of, read_content
from tfsrv.text_places import model_lines

PLATFORMS = ("tensorflow",)

# What else is written in text format and given to a server of this kind.
_OTHER_CONFIGS = (
    BATCHING_PARAMETERS,
    "tensorflow.serving.MonitoringConfig",
    "tensorflow.serving.PlatformConfigMap",
    "tensorflow.serving.SSLConfig",
    "tensorflow.serving.ModelConfig",
    "tensorflow.serving.ModelConfigList",
    "tensorflow.ConfigProto",
)


@dataclass(frozen=True)
class Finding:
    """Something wrong or odd. `line` 0 is the whole file."""

    line: int
    sentence: str
    is_warning: bool = False

    def told(self, path: str) -> str:
        """One line, as compilers write it."""
        place = f"{path}:{self.line}" if self.line else path
        return f"{place}: {'warning: ' if self.is_warning else ''}{self.sentence}"


def check(
    path: str,
    *,
    tags: Collection[str],
    platforms: Collection[str] = PLATFORMS,
    batching_parameters_file: str = "",
    reads_version_batching: bool = False,
) -> int:
    """Check a file, and print what is wrong with it and a summary; the exit status.

    It is 1 if there are problems, and 0 if there are none but warnings. SavedModels are looked
    for the MetaGraph with these `tags`. Also checks a `batching_parameters_file`, if one is named,
    and those of the versions: what is wrong with these is a warning unless the server that is
    meant reads them.
    """
    problem = problem_of_batching_parameters(batching_parameters_file)
    if problem:
        _say(problem)
    status = _check_models(path, VersionCheck(tags, reads_version_batching), platforms)
    return 1 if problem else status


def _check_models(path: str, version_check: VersionCheck, platforms: Collection[str]) -> int:
    """Check the file with the ModelServerConfig."""
    try:
        text = read_content(path)
    except ServingError as error:
        _say(error.message.replace(f"{path}; ", f"{path}: ", 1))
        return 1
    try:
        config: Any = parse_model_server_config(text, path)
    except ServingError as error:
        _say(error.message.removeprefix(CANNOT_PARSE))
        _say(f"{path}: {_kind(text, path)}: 1 problem")
        return 1
    checker = _Checker(folder_of(path), version_check, platforms)
    checker.check_config(config, model_lines(text.decode()))
    findings = sorted(checker.findings, key=lambda finding: finding.line)  # keeps their order
    for finding in findings:
        _say(finding.told(path))
    warnings = sum(finding.is_warning for finding in findings)
    problems = len(findings) - warnings
    counts = f"{_count(checker.num_models, 'model')}, {_count(checker.num_versions, 'version')}"
    verdict = [_count(problems, "problem") if problems else "ok"]
    verdict += [_count(warnings, "warning")] if warnings else []
    _say(f"{path}: ModelServerConfig: {counts}: {', '.join(verdict)}")
    return 1 if problems else 0


class _Checker:
    """Collects what is wrong."""

    def __init__(
        self, root_dir: str, version_check: VersionCheck, platforms: Collection[str]
    ) -> None:
        self.findings: list[Finding] = []
        self.num_models = 0
        self.num_versions = 0
        self._root_dir = root_dir
        self._version_check = version_check
        self._platforms = platforms

    def check_config(self, config: Any, lines: list[int]) -> None:
        """Check a ModelServerConfig; `lines` are those of its models."""
        kind = config.WhichOneof("config")
        if kind == "custom_model_config":
            self.findings.append(Finding(0, CUSTOM_MODEL_CONFIG))
            return
        models = config.model_config_list.config
        self.num_models = len(models)
        if not models:
            self.findings.append(Finding(0, "it names no models", is_warning=True))
        broken = set()
        for position, sentence in problems_of(
            models, root_dir=self._root_dir, platforms=self._platforms
        ):
            self._add(lines[position], models[position].name, [sentence])
            broken.add(position)
        sound = [
            (line, check_model(model, root_dir=self._root_dir))
            for position, (model, line) in enumerate(zip(models, lines, strict=True))
            if position not in broken
        ]
        for line, model in sound:
            self._check_base_path(line, model)
        self._check_shared_paths(sound)

    def _check_base_path(self, line: int, model: ModelConfig) -> None:
        if model.platform == "tensorflow":
            look = self._version_check
            report = check_base_path(model, look.problems, look.warnings)
        else:
            report = check_base_path(model, nothing_wrong)
        self.num_versions += len(report.versions)
        self._add(line, model.name, report.problems)
        self._add(line, model.name, report.warnings, is_warning=True)

    def _check_shared_paths(self, models: Iterable[tuple[int, ModelConfig]]) -> None:
        first: dict[str, str] = {}
        for line, model in models:
            path = os.path.realpath(model.base_path)
            if path in first:
                sentence = f"its base path is also that of model {first[path]}"
                self._add(line, model.name, [sentence], is_warning=True)
            first.setdefault(path, model.name)

    def _add(
        self, line: int, model: str, sentences: Iterable[str], *, is_warning: bool = False
    ) -> None:
        self.findings += (
            Finding(line, f"model {model}: {sentence}", is_warning) for sentence in sentences
        )


def _kind(text: bytes, path: str) -> str:
    """What a text seems to be that can't be read as a ModelServerConfig."""
    for name in _OTHER_CONFIGS:
        with contextlib.suppress(ValueError):
            _proto.parse_text(name, text, path)
            return f"{name.rpartition('.')[2]}, not ModelServerConfig"
    return "ModelServerConfig"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _say(line: str) -> None:
    """Print one line, whatever is in the names and whatever the terminal can show."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)
    encoding = sys.stdout.encoding or "ascii"
    print(shown.encode(encoding, "backslashreplace").decode(encoding))
