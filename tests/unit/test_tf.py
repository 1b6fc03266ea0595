"""TensorFlow's library is found, opened once, and kept quiet; without it one sentence says so.

The library can be opened only once in a process, so most of these tests start one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT, tensorflow_version
from tfsrv import _meta_graph, _tf
from tfsrv.errors import Code, ServingError

needs_tensorflow = pytest.mark.skipif(tensorflow_version() is None, reason="needs TensorFlow")


def python(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a new process, without our own settings of TensorFlow's log."""
    inherited: Mapping[str, str] = {
        key: value for key, value in os.environ.items() if not key.startswith("TF_")
    }
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
    )


OPEN_AND_PRINT_ERROR = """
import sys
from tfsrv import _tf
from tfsrv.errors import ServingError
exec(sys.argv[1])
try:
    _tf.open_library()
except ServingError as error:
    print(error.code.name, error.message, sep="|")
"""


def test_missing_tensorflow_gives_the_line_to_type() -> None:
    done = python(OPEN_AND_PRINT_ERROR, "sys.modules['tensorflow'] = None")
    assert done.stdout == (
        "FAILED_PRECONDITION|TensorFlow is not installed; "
        "install it with: pip install 'tfsrv[cpu]'\n"
    )


def test_package_without_the_library_gives_the_line_to_type(tmp_path: Path) -> None:
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").touch()
    done = python(OPEN_AND_PRINT_ERROR, f"sys.path.insert(0, {str(tmp_path)!r})")
    assert done.stdout == (
        f"FAILED_PRECONDITION|The TensorFlow package in {tmp_path}/tensorflow has no "
        "libtensorflow_cc.so.2; install one with: pip install 'tfsrv[cpu]'\n"
    )


@needs_tensorflow
def test_too_old_tensorflow_gives_the_line_to_type() -> None:
    done = python(OPEN_AND_PRINT_ERROR, "_tf.OLDEST = (99, 1)")
    assert "needs 99.1 or newer; install it with: pip install 'tfsrv[cpu]'" in done.stdout


def test_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "libtensorflow_cc.so.2"
    path.write_text("not a library")
    done = python(
        OPEN_AND_PRINT_ERROR.replace("open_library()", "open_library(sys.argv[2])"), "", str(path)
    )
    assert done.stdout.startswith("FAILED_PRECONDITION|TensorFlow cannot be opened (")
    assert str(path) in done.stdout


def test_library_without_a_function_that_is_used_is_refused() -> None:
    other = str(_meta_graph.__file__)
    script = OPEN_AND_PRINT_ERROR.replace("open_library()", "open_library(sys.argv[2])")
    script += "\nassert not _tf.is_open() and _tf.version() == ''"
    done = python(script, "", other)
    assert f"in {other} cannot be used: tfsrv needs 2.16 or newer with TF_Version" in done.stdout


@needs_tensorflow
def test_many_threads_open_it_once() -> None:
    done = python(
        """
from concurrent.futures import ThreadPoolExecutor
from tfsrv import _tf
assert not _tf.is_open()
with ThreadPoolExecutor(8) as pool:
    versions = set(pool.map(lambda _: _tf.open_library(), range(16)))
assert _tf.is_open()
assert versions == {_tf.version()} == {_tf.open_library("/no/matter")}
print(_tf.version())
"""
    )
    assert done.stdout.strip() == tensorflow_version()


LOAD_AND_FAIL = """
import sys
from tests.graphs import request
from tfsrv._run import run
from tfsrv._session import SavedModelSession
from tfsrv.errors import ServingError
session = SavedModelSession.load(sys.argv[1])
try:
    run(session, request(x=[-1.0]))
except ServingError as error:
    print(error.message)
assert "tensorflow" not in sys.modules
"""


@needs_tensorflow
def test_log_is_quiet_and_errors_come_by_status_and_python_package_stays_out(
    models: Path,
) -> None:
    done = python(LOAD_AND_FAIL, str(models / "fails_for_negative" / "1"))
    assert "x must not be negative" in done.stdout
    assert done.stderr == ""


@needs_tensorflow
def test_log_speaks_when_the_user_wants_it(models: Path) -> None:
    done = python(LOAD_AND_FAIL, str(models / "fails_for_negative" / "1"), TF_CPP_MIN_LOG_LEVEL="0")
    assert "SavedModel load for tags { serve }" in done.stderr


@needs_tensorflow
def test_what_others_write_to_stderr_meanwhile_is_not_lost() -> None:
    done = python(
        """
import os, threading, time
from tfsrv import _tf
opened = threading.Event()
wrote = threading.Event()
def write():
    number = 0
    while not opened.is_set() or number < 100:
        os.write(2, b"line %d\\n" % number)
        number += 1
        wrote.set()
        time.sleep(0.0005)
    print(number)
thread = threading.Thread(target=write)
thread.start()
wrote.wait()
_tf.open_library()
opened.set()
thread.join()
"""
    )
    lines = done.stderr.splitlines()  # at the end, late ones may overtake those in the pipe
    assert sorted(lines) == sorted(f"line {i}" for i in range(int(done.stdout)))


@needs_tensorflow
def test_opens_without_a_standard_error() -> None:
    done = python("import os; os.close(2); from tfsrv import _tf; print(_tf.open_library())")
    assert done.stdout.strip() == tensorflow_version()


@needs_tensorflow
def test_environment_of_the_user_is_kept() -> None:
    script = """
import ctypes
from tfsrv import _tf
_tf.open_library()
getenv = ctypes.CDLL(None).getenv  # what TensorFlow reads
getenv.restype = ctypes.c_char_p
for name in (b"TF_CPP_MIN_LOG_LEVEL", b"TF_ONEDNN_USE_SYSTEM_ALLOCATOR"):
    print(getenv(name).decode())
"""
    assert python(script).stdout.split() == ["2", "1"]
    done = python(script, TF_CPP_MIN_LOG_LEVEL="3", TF_ONEDNN_USE_SYSTEM_ALLOCATOR="0")
    assert done.stdout.split() == ["3", "0"]


@needs_tensorflow
def test_missing_op_library_carries_tensorflows_error() -> None:
    with pytest.raises(ServingError, match="no_such_library") as caught:
        _tf.load_op_library("/no_such_library.so")
    assert caught.value.code == Code.NOT_FOUND


LIMIT_AND_PRINT = """
import ctypes
from concurrent.futures import ThreadPoolExecutor
from tfsrv import _tf
_tf.open_library()
limit = ctypes.CDLL(_tf.library_path())._ZN10tensorflow26GetPerThreadMaxParallelismEv
seen = [limit()]
for to_one in (True, False):
    assert _tf.limit_own_threads(to_one)
    seen += [limit(), ThreadPoolExecutor(1).submit(limit).result()]
print(*seen)
"""


@needs_tensorflow
def test_a_thread_limits_itself_and_no_other_to_one_thread_inside_of_ops() -> None:
    any_threads, limited, other, back, still = python(LIMIT_AND_PRINT).stdout.split()
    assert (limited, back) == ("1", any_threads)
    assert other == still == any_threads
