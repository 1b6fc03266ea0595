"""Whether the versions that a model's configuration speaks of are under its base path."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tfsrv.config import AllVersions, LatestVersions, ModelConfig, SpecificVersions, VersionPolicy
from tfsrv.core.servable import ServableData, ServableId
from tfsrv.core.storage_path import StoragePath
from tfsrv.errors import Code, ServingError
from tfsrv.model_config_checks import scheme_of
from tfsrv.servables.saved_model import FILE_NAMES
from tfsrv.sources.version_policy import choose
from tfsrv.sources.watched import INT64_MAX, INT64_MIN

ProblemsOfVersion = Callable[[str], Iterable[str]]
"""What is wrong, or only odd, with one version's directory. May raise OSError."""

_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)  # as sources.file_system reads names


@dataclass
class Report:
    """What was found under one base path."""

    versions: list[int] = field(default_factory=list)  # those that a server would try to load
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def nothing_wrong(path: str) -> Iterable[str]:
    """The ProblemsOfVersion of files of which nothing is known."""
    return ()


def check_base_path(
    model: ModelConfig,
    problems_of_version: ProblemsOfVersion,
    warnings_of_version: ProblemsOfVersion = nothing_wrong,
) -> Report:
    """Look at what is there now; a server may find something else. Raises nothing."""
    report = Report()
    problem = _problem_of_directory(model.base_path)
    if problem:
        report.problems.append(problem)
        return report
    try:
        paths = _find_versions(model.base_path, report)
        _check_versions(model, paths, problems_of_version, report)
        for version in report.versions:
            warnings = _problems_of(paths[version], warnings_of_version)
            report.warnings += (f"version {version}: {warning}" for warning in warnings)
    except OSError as error:
        report.problems.append(_told(error))
    return report


def _problem_of_directory(path: str) -> str:
    """Why `path` can't be a base path; "" if it can."""
    scheme = scheme_of(path)
    if scheme:
        return (
            f"{path} is not read here: only local directories are; mount or copy what"
            f" {scheme} leads to"
        )
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        return _told(error)
    if not is_directory:
        return f"{path} is a file: a base path is the directory above the versions"
    return ""


def _told(error: OSError) -> str:
    path = os.fsdecode(error.filename or "")
    if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path):
        return f"{path} is a dangling link to {os.readlink(path)}"
    return f"{path}: {error.strerror}"


def _find_versions(base_path: str, report: Report) -> dict[int, str]:
    """The version directories by number, as sources.file_system finds them."""
    paths: dict[int, str] = {}
    for name in sorted(filter(_INTEGER.fullmatch, os.listdir(base_path))):
        path = os.path.join(base_path, name)
        version = int(name)
        if not os.path.exists(path) and os.path.islink(path):
            report.problems.append(f"{path} is a dangling link to {os.readlink(path)}")
        elif not os.path.isdir(path):
            report.warnings.append(f"{path} is ignored: it is not a directory")
        elif not INT64_MIN <= version <= INT64_MAX:
            report.warnings.append(f"{path} is ignored: a version has at most 64 bits")
        else:
            if version in paths:
                report.warnings.append(f"{paths[version]} is ignored: {path} is the same version")
            paths[version] = path
    return paths


def _check_versions(
    model: ModelConfig,
    paths: dict[int, str],
    problems_of_version: ProblemsOfVersion,
    report: Report,
) -> None:
    if not paths:
        report.problems.append(_nothing_found(model.base_path))
        return

    def look(version: int) -> ServableData[StoragePath]:
        id = ServableId(model.name, version)
        report.versions.append(version)
        problems = _problems_of(paths[version], problems_of_version)
        report.problems += (f"version {version}: {problem}" for problem in problems)
        if problems:
            return ServableData(id, error=ServingError(Code.NOT_FOUND, problems[0]))
        return ServableData(id, StoragePath(paths[version]))

    choose(model.version_policy, sorted(paths, reverse=True), look)
    if isinstance(model.version_policy, SpecificVersions):
        report.problems += (
            f"version {version} is not under base path {model.base_path}"
            for version in sorted(model.version_policy.versions - paths.keys())
        )
    report.problems += _problems_of_labels(model, paths, report.versions)


def _nothing_found(base_path: str) -> str:
    if any(os.path.isfile(os.path.join(base_path, name)) for name in FILE_NAMES):
        return (
            f"{base_path} is itself a SavedModel: a base path is the directory above the versions,"
            " which are directories with numbers for names"
        )
    return (
        f"no versions found under base path {base_path}. Did you forget to name your leaf"
        " directory as a number (eg. '/1/')?"
    )


def _problems_of(path: str, problems_of_version: ProblemsOfVersion) -> list[str]:
    try:
        return list(problems_of_version(path))
    except OSError as error:
        return [_told(error)]


def _problems_of_labels(
    model: ModelConfig, paths: dict[int, str], chosen: list[int]
) -> Iterable[str]:
    for label, version in model.version_labels:
        if version in chosen:
            continue
        if version in paths:
            yield (
                f"label {label} points to version {version}, which {_shown(model.version_policy)}"
                " leaves out"
            )
        elif not isinstance(model.version_policy, SpecificVersions):  # else it is told already
            yield f"label {label} points to version {version}, which is not there"


def _shown(policy: VersionPolicy) -> str:
    """A policy in the words of the file."""
    match policy:
        case LatestVersions(num_versions):
            return f"latest {{ num_versions: {num_versions} }}"
        case AllVersions():
            return "all {}"
        case SpecificVersions(versions):
            return f"specific {{ versions: {sorted(versions)} }}"
