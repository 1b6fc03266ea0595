"""Base paths and versions that are not what they should be: what is told, and who serves on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.functional.conftest import Serve, config_file, config_text
from tests.functional.launching import Client, Launched, client, launched, until
from tests.functional.managing import Management, model, refused_reload, reload
from tests.functional.messages import array
from tests.functional.sites import (
    AVAILABLE,
    END,
    Site,
    ask_for,
    errors,
    refusal,
    states,
    under_load,
)

INT64_MAX = 2**63 - 1

Make = Callable[[Path], object]


def make_file(path: Path) -> None:
    path.write_text("no directory")


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_empty(path: Path) -> None:
    path.mkdir()


def make_without_versions(path: Path) -> None:
    for name in ("v1", "one", "1.5", "latest"):
        (path / name).mkdir(parents=True)
    (path / "7").write_text("a file is no version")


def make_link_to_no_version(path: Path) -> None:
    path.mkdir()
    (path / "1").symlink_to("nowhere")


def make_below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("no directory")


def make_long(path: Path) -> None:
    """A name that is longer than a file system takes."""


def make_nothing(path: Path) -> None:
    """Nothing is there."""


NO_VERSIONS = "No versions of servable {name} found under base path {path}."

# How to make it, the path's last part, and what is told of it.
BAD: dict[str, tuple[Make, str, str]] = {
    "nothing": (make_nothing, "m", "NOT_FOUND: No such file or directory: {path}"),
    "file": (make_file, "m", "FAILED_PRECONDITION: Not a directory: {path}"),
    "dangling link": (make_dangling_link, "m", "NOT_FOUND: No such file or directory: {path}"),
    "loop of links": (
        make_loop,
        "m",
        "FAILED_PRECONDITION: Too many levels of symbolic links: {path}",
    ),
    "below a file": (make_below_a_file, "m", "FAILED_PRECONDITION: Not a directory: {path}"),
    "too long": (make_long, "m" * 300, "File name too long: {path}"),
    "empty": (make_empty, "m", NO_VERSIONS),
    "no numbers": (make_without_versions, "m", NO_VERSIONS),
    "link to no version": (make_link_to_no_version, "m", NO_VERSIONS),
}


@pytest.fixture(scope="module")
def started_badly(
    models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Launched, dict[str, Path]]]:
    """A server that was started with all of them, and a good model."""
    folder = tmp_path_factory.mktemp("bad")
    paths = {}
    for how, (make, last, _) in BAD.items():
        path = folder / how.replace(" ", "_") / last
        path.parent.mkdir()
        make(path)
        paths[how] = path
    every = paths | {"good": models / "half_plus_two"}
    with (
        config_file(every) as config,
        launched(config, "--port=0", "--bind_address=127.0.0.1", "--enable_model_management") as it,
    ):
        yield it, paths
        assert it.stop() == 0
        assert not [line for line in it.log if "Traceback" in line]


def told(how: str, name: str, path: Path) -> str:
    return BAD[how][2].format(name=name, path=path)


@pytest.mark.parametrize("how", BAD)
def test_a_bad_base_path_at_the_start_is_told_and_holds_up_nobody(
    started_badly: tuple[Launched, dict[str, Path]], how: str
) -> None:
    server, paths = started_badly
    text = told(how, how, paths[how])
    line = server.line_with(text)
    assert " ERROR " in line
    assert f"servable {how} " in line
    with client(server.address()) as ask:
        until(lambda: Management(ask).model(how).status.error_code != 0)
        listed = Management(ask).model(how)
        assert text in listed.status.error_message
        assert f"servable {how} " in listed.status.error_message
        assert not listed.pending
        assert refusal(ask, ask_for(1, how)) == (
            "NOT_FOUND",
            f"Servable not found for request: Latest({how})",
        )
        assert array(ask.predict(ask_for(2, "good")).outputs["y"]) == [5.0]
    assert len([line for line in errors(server) if text in line and "(seen " not in line]) == 1


@pytest.mark.parametrize("how", BAD)
def test_a_bad_base_path_in_a_reload_is_told_and_what_served_goes_on(
    site: Site,
    managed: Client,
    management: Management,
    tmp_path: Path,
    how: str,
) -> None:
    site.link(1, "good")
    make, last, _ = BAD[how]
    path = tmp_path / "folder" / last
    path.parent.mkdir()
    make(path)
    serves = f"serves {how}"
    text = told(how, serves, path)
    reload(managed, model(serves, site.base("good")))
    code, details = refused_reload(managed, model(serves, path))
    assert code == "UNKNOWN"
    assert f"{{{serves} due to error: " in details
    assert text in details
    listed = management.model(serves)
    assert text in listed.status.error_message
    assert [version.state for version in listed.version] == [AVAILABLE]
    assert array(managed.predict(ask_for(2, serves)).outputs["y"]) == [3.0]


SCHEMES = ["s3://bucket/m", "gs://bucket/m", "hdfs://host/m", "S3://bucket/m"]


@pytest.mark.parametrize("path", SCHEMES)
def test_a_scheme_that_is_not_served_is_refused_in_calls(
    site: Site, managed: Client, management: Management, path: str
) -> None:
    site.link(1, "local")
    reload(managed, model("local", site.base("local")))
    before = management.models()
    code, text = refused_reload(managed, *[before["local"].config, model("remote", path)])
    assert code == "UNIMPLEMENTED"
    assert f"(file: '{path}'); supported are local paths and file://" in text
    future = management.future("SetModel", config=model("remote", path))
    assert future.exception().details() == text
    assert management.models() == before


def test_a_scheme_that_is_not_served_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(config_text({"m": Path("unused")}).replace("unused", "s3://bucket/m"))
    with launched(f"--model_config_file={file}", "--port=0") as server:
        assert server.wait() == 1
        (line,) = server.log
        assert line.startswith("Failed to start server. Error: UNIMPLEMENTED: ")
        assert "s3://bucket/m" in line


def test_file_urls_are_local_paths(site: Site, managed: Client) -> None:
    site.link(1, "url")
    reload(managed, model("url", f"file://{site.base('url')}"))
    assert array(managed.predict(ask_for(2, "url")).outputs["y"]) == [3.0]


# --- version numbers


def test_numbers_beyond_int64_are_ignored_and_told_once(site: Site, serve: Serve) -> None:
    site.link(INT64_MAX, files=1)
    for number in ("9223372036854775808", "1" * 40, "9" * 200):
        (site.base() / number).symlink_to(site.base() / str(INT64_MAX))
    server = serve({"m": site.base()})
    with client(server.address()) as ask:
        assert states(ask) == {INT64_MAX: AVAILABLE}
        response = ask.predict(ask_for(2, version=INT64_MAX))
        assert response.model_spec.version.value == INT64_MAX
    server.line_with("9223372036854775808 is ignored: the version of a servable has at most 64")


def test_a_version_that_is_there_twice_is_served_once(site: Site, serve: Serve) -> None:
    site.link(7, files=1)
    (site.base() / "007").symlink_to(site.base() / "7")
    server = serve({"m": site.base()})
    with client(server.address()) as ask:
        assert states(ask) == {7: AVAILABLE}
    server.line_with("Version 7 of servable m is taken from ")


# --- files that may not be read

WITHOUT_OVERRIDE = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):  # else root may read everything
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "tfsrv", *sys.argv[1:]])
"""


def test_what_may_not_be_read_is_told_and_served_when_it_may(site: Site) -> None:
    for name in ("good", "closed", "closed_version", "closed_graph"):
        site.add(1, name)
    site.add(2, "closed_version")
    closed = [
        site.base("closed"),
        site.base("closed_version") / "2",
        site.base("closed_graph") / "1" / "saved_model.pb",
    ]
    modes = [path.stat().st_mode for path in closed]
    for path in closed:
        path.chmod(0)
    paths = {name: site.base(name) for name in ("good", "closed", "closed_version", "closed_graph")}
    program = ("-c", WITHOUT_OVERRIDE)
    where = ("--port=0", "--bind_address=127.0.0.1", "--enable_model_management")
    try:
        with (
            config_file(paths) as config,
            launched(config, *where, program=program) as server,
            client(server.address()) as ask,
        ):
            until(lambda: ask.states("good") == [AVAILABLE])
            server.line_with(
                f"for servable closed with error PERMISSION_DENIED: {denied(closed[0])}"
            )
            status = Management(ask).model("closed").status
            assert denied(closed[0]) in status.error_message
            until(lambda: states(ask, "closed_version") == {2: END, 1: AVAILABLE})
            failed = ask.model_status("closed_version")[0].status
            assert failed.error_code == 7
            assert str(closed[1]) in failed.error_message
            until(lambda: ask.states("closed_graph") == [END])
            (failed,) = ask.model_status("closed_graph")
            assert failed.status.error_code == 7
            assert str(closed[2].parent) in failed.status.error_message
            for path, mode in zip(closed, modes, strict=True):
                path.chmod(mode)
            until(lambda: ask.states("closed") == [AVAILABLE])
            until(lambda: states(ask, "closed_version") == {2: AVAILABLE, 1: END})
            until(lambda: ask.states("closed_graph") == [AVAILABLE])
            assert server.stop() == 0
    finally:
        for path, mode in zip(closed, modes, strict=True):
            path.chmod(mode)


def denied(path: Path) -> str:
    return f"Permission denied: {path}"


# --- what goes wrong while it serves


def test_a_base_path_that_goes_or_becomes_something_else_takes_no_model_away(
    site: Site, serve: Serve
) -> None:
    site.add(1)
    server = serve({"m": site.base()}, "--enable_model_management", errors_are_meant=True)
    with client(server.address()) as ask, under_load(server):
        management = Management(ask)
        shutil.rmtree(site.base())
        line = server.line_with(f"No such file or directory: {site.base()}.")
        assert "What is loaded of it stays." in line
        site.base().write_text("a file")
        server.line_with(f"Not a directory: {site.base()}.")
        until(lambda: "Not a directory" in management.model("m").status.error_message)
        assert states(ask) == {1: AVAILABLE}
        site.base().unlink()
        site.add(1, "other")
        os.rename(site.base("other"), site.base())
        server.line_with("Versions of servable m are found again")
        until(lambda: management.model("m").status.error_code == 0)
        assert states(ask) == {1: AVAILABLE}
    with client(server.address()) as ask:
        site.add(2)
        until(lambda: states(ask) == {2: AVAILABLE, 1: END})


def test_files_that_are_deleted_under_a_version_that_serves_do_not_matter(
    site: Site, serve: Serve
) -> None:
    site.add(1)
    server = serve({"m": site.base()})
    with under_load(server):
        for file in (site.base() / "1").rglob("*"):
            if file.is_file():
                file.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, mounted on a folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ("-t", "tmpfs", "-o", "size=64k", "tmpfs")
    try:
        done = subprocess.run(["mount", *options, folder], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs mount")
    if done.returncode:
        pytest.skip("may not mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], capture_output=True, check=False)


def test_a_disk_that_fills_and_disappears_takes_no_version_away(
    site: Site, models: Path, small_disk: Path, serve: Serve
) -> None:
    base = small_disk / "m"
    shutil.copytree(models / "half_plus_two" / "1", base / "1")
    (small_disk / "ballast").write_bytes(bytes(free_bytes(small_disk) - 12 * 1024))
    server = serve({"m": base}, "--enable_model_management", errors_are_meant=True)
    with client(server.address()) as ask, under_load(server) as load:
        with pytest.raises(shutil.Error, match="No space left"):
            shutil.copytree(models / "half_plus_two" / "2", base / "2")
        until(lambda: states(ask) == {2: END, 1: AVAILABLE})
        failed = ask.model_status("m")[0].status
        assert failed.error_code
        assert str(base / "2") in failed.error_message
        (small_disk / "ballast").unlink()
        shutil.copytree(models / "half_plus_two" / "2", base / "2", dirs_exist_ok=True)
        until(lambda: states(ask) == {2: AVAILABLE, 1: END})
        subprocess.run(["umount", "-l", small_disk], check=True)
        server.line_with("What is loaded of it stays.")
        assert states(ask) == {2: AVAILABLE, 1: END}
    assert load.versions[-1] == 2


def free_bytes(folder: Path) -> int:
    return os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
