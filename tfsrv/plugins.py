"""Platforms and sources by name: ours, and those that other packages bring along.

A package adds one by an entry point (https://packaging.python.org/specifications/entry-points/):

    [project.entry-points."tfsrv.platforms"]
    my_platform = "my_package:make_platform"    # make_platform(ServerOptions) -> Platform

    [project.entry-points."tfsrv.sources"]
    my_source = "my_package:MySource"           # MySource(argument: str) -> a source of paths

Installed is enough: a model asks for it by name. What is not asked for is not imported, so one
package that is broken harms nobody else. The names of what is built in cannot be taken.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tfsrv.config import ServerOptions
from tfsrv.core.platform import Platform
from tfsrv.errors import Code, ServingError
from tfsrv.further_sources import StoragePathSource
from tfsrv.servables.lookup_table import lookup_table_platform
from tfsrv.servables.saved_model import saved_model_platform

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PLATFORMS = "tfsrv.platforms"  # the groups of entry points
SOURCES = "tfsrv.sources"

MakePlatform = Callable[[ServerOptions], Platform]

BUILT_IN_PLATFORMS: Mapping[str, MakePlatform] = {
    "tensorflow": saved_model_platform,
    "lookup_table": lookup_table_platform,
}

logger = logging.getLogger("tfsrv")


def platform_names() -> tuple[str, ...]:
    """All platforms that there are, built in or installed; nothing is imported."""
    return tuple(sorted({*BUILT_IN_PLATFORMS, *_installed(PLATFORMS)}))


def source_names() -> tuple[str, ...]:
    """All sources that are installed; nothing is imported."""
    return tuple(sorted(_installed(SOURCES)))


def load_platforms(
    options: ServerOptions,
    names: Iterable[str] = (),
    *,
    making: Mapping[str, MakePlatform] = BUILT_IN_PLATFORMS,
) -> Mapping[str, Platform]:
    """All platforms, those in `names` at once, every other one when it is first asked for.

    `making` makes those that are built in.
    ServingError INVALID_ARGUMENT for a name that there is not, FAILED_PRECONDITION for one that
    can't be loaded; the mapping raises the second, too, and KeyError for the first.
    """
    platforms = _Platforms(options, making)
    for name in names:
        if name not in platforms:
            raise _unknown("platform", name, platform_names())
        platforms[name]
    return platforms


def load_source(spec: str) -> StoragePathSource:
    """The source that `spec` asks for: "name", or "name:argument" with any argument.

    ServingError INVALID_ARGUMENT for an unknown name, FAILED_PRECONDITION for one that can't be
    loaded; what the source itself says of its argument is passed on.
    """
    name, _, argument = spec.partition(":")
    entry_point = _find(SOURCES, name)
    if entry_point is None:
        raise _unknown("source", name, source_names())
    source = _make(entry_point, "Source", argument)
    for method in ("set_aspired_versions_callback", "start", "stop"):
        if not callable(getattr(source, method, None)):
            raise _broken(entry_point, "Source", f"{type(source).__name__} has no {method}()")
    made: StoragePathSource = source
    return made


class _Platforms(Mapping[str, Platform]):
    """Platforms by name, made lazily, each once. Any thread may ask."""

    def __init__(self, options: ServerOptions, built_in: Mapping[str, MakePlatform]) -> None:
        self._options = options
        self._built_in = built_in
        self._made: dict[str, Platform] = {}
        self._lock = threading.Lock()  # of what follows
        self._making: dict[str, threading.Lock] = {}

    def __getitem__(self, name: str) -> Platform:
        made = self._made.get(name)
        if made is not None:
            return made
        with self._lock:
            making = self._making.setdefault(name, threading.Lock())
        with making:  # an import that hangs holds up only those who want the same
            if name not in self._made:
                self._made[name] = self._make(name)
            return self._made[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is one of that name; it may turn out to be broken."""
        if name in BUILT_IN_PLATFORMS or name in self._made:
            return True
        return isinstance(name, str) and _find(PLATFORMS, name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(platform_names())

    def __len__(self) -> int:
        return len(platform_names())

    def __bool__(self) -> bool:
        return True  # without a look at what is installed, which takes a while

    def _make(self, name: str) -> Platform:
        built_in = self._built_in.get(name)
        if built_in is not None:
            return built_in(self._options)
        entry_point = _find(PLATFORMS, name)
        if entry_point is None:
            raise KeyError(name)
        platform = _make(entry_point, "Platform", self._options)
        if not isinstance(platform, Platform):
            raise _broken(entry_point, "Platform", f"it made a {type(platform).__name__}")
        return platform


# -- entry points


def _find(group: str, name: str) -> EntryPoint | None:
    """The entry point of that name. ServingError if two packages have one, and they differ."""
    found = _installed(group).get(name, [])
    if len({entry_point.value for entry_point in found}) > 1:
        places = " and ".join(sorted(map(_distribution, found)))
        raise ServingError(
            Code.FAILED_PRECONDITION, f"'{name}' in {group} is ambiguous: {places} have one"
        )
    return found[0] if found else None


def _installed(group: str) -> Mapping[str, list[EntryPoint]]:
    """The entry points of a group, by name, but for those that have the name of a built-in one."""
    found: dict[str, list[EntryPoint]] = {}
    for entry_point in _entry_points(group):
        if group == PLATFORMS and entry_point.name in BUILT_IN_PLATFORMS:
            logger.warning(
                "Platform %s of %s is ignored: it has the name of a built-in one.",
                entry_point.name,
                _distribution(entry_point),
            )
            continue
        found.setdefault(entry_point.name, []).append(entry_point)
    return found


def _entry_points(group: str) -> Iterator[EntryPoint]:
    """Those of all packages, but for packages whose list of them can't be read."""
    from importlib.metadata import distributions  # imports much, and few servers need it

    seen = set()
    for distribution in distributions():
        name = str(distribution.name)
        if name in seen:  # shadowed by one before it on the path
            continue
        seen.add(name)
        try:
            points = distribution.entry_points
        except Exception as error:
            logger.warning("The entry points of package %s cannot be read: %s", name, error)
            continue
        yield from (point for point in points if point.group == group)


def _make(entry_point: EntryPoint, what: str, argument: Any) -> Any:
    """Import the entry point and call it. Its own ServingErrors pass."""
    try:
        return entry_point.load()(argument)
    except ServingError:
        raise
    except BaseException as error:  # also sys.exit() in an import
        reason = f"{type(error).__name__}: {error}"
        raise _broken(entry_point, what, reason) from error


def _broken(entry_point: EntryPoint, what: str, reason: str) -> ServingError:
    return ServingError(
        Code.FAILED_PRECONDITION,
        f"{what} '{entry_point.name}' of {_distribution(entry_point)} ({entry_point.value})"
        f" cannot be loaded: {reason}",
    )


def _distribution(entry_point: EntryPoint) -> str:
    distribution = entry_point.dist
    return "an unknown package" if distribution is None else distribution.name


def _unknown(what: str, name: str, names: tuple[str, ...]) -> ServingError:
    there_are = ", ".join(names) or "none is installed"
    return ServingError(Code.INVALID_ARGUMENT, f"Unknown {what} '{name}'; there are: {there_are}")
