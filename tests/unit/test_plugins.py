"""Platforms and sources by name, ours and those of other packages."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.plugging import write_metadata, write_package
from tfsrv.config import ModelConfig, ServerOptions
from tfsrv.core.platform import Platform
from tfsrv.errors import Code, ServingError
from tfsrv.plugins import load_platforms, load_source, platform_names, source_names
from tfsrv.servables.lookup_table import LookupTableSourceAdapter
from tfsrv.servables.saved_model import SavedModelSourceAdapter

OPTIONS = ServerOptions(models=(ModelConfig("m", "/m"),))
PLATFORM = """
from tfsrv.servables.lookup_table import lookup_table_platform
made = []
def make(options):
    made.append(options)
    return lookup_table_platform(options)
"""
SOURCE = """
class Source:
    def __init__(self, argument):
        self.argument = argument
    def set_aspired_versions_callback(self, callback): pass
    def start(self): pass
    def stop(self): pass
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def add_platform(site: Path, package: str, source: str = PLATFORM, name: str = "extra") -> None:
    write_package(site, package, {"tfsrv.platforms": {name: f"{package}:make"}}, source)


def add_source(site: Path, package: str, source: str = SOURCE) -> None:
    write_package(site, package, {"tfsrv.sources": {"extra": f"{package}:Source"}}, source)


def refusal(name: str) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught:
        load_platforms(OPTIONS, [name])
    return caught.value.code, caught.value.message


# --- platforms


def test_what_is_built_in_is_there() -> None:
    assert platform_names() == ("lookup_table", "tensorflow")
    platforms = load_platforms(OPTIONS, ["tensorflow"])
    assert isinstance(platforms["tensorflow"].adapter, SavedModelSourceAdapter)
    assert isinstance(platforms["lookup_table"].adapter, LookupTableSourceAdapter)
    assert sorted(platforms) == ["lookup_table", "tensorflow"]
    assert len(platforms) == 2


def test_a_platform_is_made_once_when_it_is_first_asked_for(site: Path) -> None:
    add_platform(site, "lazy_platform")
    platforms = load_platforms(OPTIONS)
    assert "extra" in platforms
    assert "lazy_platform" not in sys.modules
    assert isinstance(platforms["extra"], Platform)
    assert platforms["extra"] is platforms["extra"]
    assert sys.modules["lazy_platform"].made == [OPTIONS]
    assert platform_names() == ("extra", "lookup_table", "tensorflow")


def test_threads_that_ask_at_a_time_get_the_same_platform(site: Path) -> None:
    add_platform(site, "shared_platform")
    platforms = load_platforms(OPTIONS)
    got: list[Platform] = []
    threads = [threading.Thread(target=lambda: got.append(platforms["extra"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert len({id(platform) for platform in got}) == 1


def test_an_unknown_platform_is_told_with_those_that_there_are(site: Path) -> None:
    add_platform(site, "known_platform")
    assert refusal("nope") == (
        Code.INVALID_ARGUMENT,
        "Unknown platform 'nope'; there are: extra, lookup_table, tensorflow",
    )
    platforms = load_platforms(OPTIONS)
    assert "nope" not in platforms
    assert platforms.get("nope") is None
    with pytest.raises(KeyError):
        platforms["nope"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("", "AttributeError: module 'broken_{}' has no attribute 'make'"),
        ("def make(options): 1 / 0", "ZeroDivisionError: division by zero"),
        ("def make(): pass", "TypeError: make() takes 0 positional arguments but 1 was given"),
        ("def make(options): return 'text'", "it made a str"),
        ("this is no Python", "SyntaxError: invalid syntax (broken_{}.py, line 1)"),
    ],
    ids=["import", "attribute", "call", "signature", "result", "syntax"],
)
def test_a_broken_platform_is_told_with_its_package_and_hurts_no_other_one(
    site: Path, source: str, reason: str, request: pytest.FixtureRequest
) -> None:
    id = request.node.callspec.id
    add_platform(site, f"broken_{id}", source)
    add_platform(site, f"good_{id}", name="good")
    for _ in range(2):
        assert refusal("extra") == (
            Code.FAILED_PRECONDITION,
            f"Platform 'extra' of broken_{id} (broken_{id}:make) cannot be loaded: "
            + reason.format(id),
        )
    assert load_platforms(OPTIONS, ["good", "tensorflow", "lookup_table"])


def test_what_a_platform_says_of_the_options_is_passed_on(site: Path) -> None:
    source = """
from tfsrv.errors import Code, ServingError
def make(options):
    raise ServingError(Code.UNIMPLEMENTED, "not on this machine")
"""
    add_platform(site, "refusing_platform", source)
    assert refusal("extra") == (Code.UNIMPLEMENTED, "not on this machine")


def test_a_built_in_name_cannot_be_taken(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_platform(site, "taking_platform", name="tensorflow")
    platforms = load_platforms(OPTIONS)
    assert isinstance(platforms["tensorflow"].adapter, SavedModelSourceAdapter)
    assert platform_names() == ("lookup_table", "tensorflow")
    assert caplog.messages == [
        "Platform tensorflow of taking_platform is ignored: it has the name of a built-in one."
    ]


def test_two_packages_with_one_name_are_both_told(site: Path) -> None:
    add_platform(site, "first_platform")
    add_platform(site, "second_platform")
    assert refusal("extra") == (
        Code.FAILED_PRECONDITION,
        "'extra' in tfsrv.platforms is ambiguous: first_platform and second_platform have one",
    )


def test_built_in_platforms_are_found_without_a_look_at_what_is_installed() -> None:
    code = (
        "import sys; from tfsrv.plugins import load_platforms;"
        " from tfsrv.config import ModelConfig, ServerOptions;"
        " platforms = load_platforms(ServerOptions(models=(ModelConfig('m', '/m'),)));"
        " assert platforms and 'lookup_table' in platforms and platforms['tensorflow'];"
        " assert not {'importlib.metadata', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# --- sources


@pytest.mark.parametrize(
    ("spec", "argument"),
    [("extra", ""), ("extra:", ""), ("extra:/a/b", "/a/b"), ("extra:a:b,c=d", "a:b,c=d")],
)
def test_a_source_gets_what_stands_behind_its_name(site: Path, spec: str, argument: str) -> None:
    add_source(site, "some_source")
    assert source_names() == ("extra",)
    assert load_source(spec).argument == argument  # type: ignore[attr-defined]
    sys.modules.pop("some_source")


def test_an_unknown_source_is_told_with_those_that_there_are(site: Path) -> None:
    with pytest.raises(ServingError) as caught:
        load_source("nope:x")
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == "Unknown source 'nope'; there are: none is installed"
    add_source(site, "other_source")
    with pytest.raises(ServingError, match="Unknown source ''; there are: extra"):
        load_source("")


def test_what_is_no_source_is_told_with_its_package(site: Path) -> None:
    add_source(site, "lame_source", SOURCE.replace("def stop", "def halt"))
    with pytest.raises(ServingError) as caught:
        load_source("extra")
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.message == (
        "Source 'extra' of lame_source (lame_source:Source) cannot be loaded: Source has no stop()"
    )


def test_a_source_whose_package_is_gone_is_told(site: Path) -> None:
    write_metadata(site, "gone-source", {"tfsrv.sources": {"extra": "gone_source:Source"}})
    with pytest.raises(ServingError, match=r"'extra' of gone-source \(gone_source:Source\)"):
        load_source("extra")
