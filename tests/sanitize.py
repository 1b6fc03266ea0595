"""Runs the tests of native modules under a sanitizer, in a build of its own.

    python tests/sanitize.py                            # thread, address and leak
    python tests/sanitize.py thread                     # one of them
    python tests/sanitize.py thread -k serving_map -x   # what follows goes to pytest

`thread` finds data races, `address` wrong uses of memory, `leak` memory of ours that nobody
points to at the end. The tree is copied to build/sanitize-KIND, built there with
TFSRV_SANITIZE, and TESTS are run there with the sanitizer's library preloaded. The exit status
is not 0 if a test failed or the sanitizer found something. It takes minutes, so it is no part
of the ordinary test run. It needs gcc with its sanitizer libraries (Debian: they come with gcc).

To have another module checked, add its test file to TESTS; a false alarm that cannot be avoided
goes with its reason into tests/sanitizers/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUPPRESSIONS = ROOT / "tests" / "sanitizers"

TESTS = (
    "tests/integration/test_client_http2.py",
    "tests/unit/test_arrays.py",
    "tests/unit/test_batching.py",
    "tests/unit/test_batching_library.py",
    "tests/unit/test_batching_library_load.py",
    "tests/unit/test_batching_model.py",
    "tests/unit/test_batching_served.py",
    "tests/unit/test_budget.py",
    "tests/unit/test_buffer.py",
    "tests/unit/test_call.py",
    "tests/unit/test_client_hpack.py",
    "tests/unit/test_client_wire.py",
    "tests/unit/test_counters.py",
    "tests/unit/test_crc32.py",
    "tests/unit/test_error_details.py",
    "tests/unit/test_grpc_text.py",
    "tests/unit/test_gzip.py",
    "tests/unit/test_http1_answer.py",
    "tests/unit/test_http1_chunks.py",
    "tests/unit/test_http1_head.py",
    "tests/unit/test_inference_python.py",
    "tests/unit/test_inference_request.py",
    "tests/unit/test_base64.py",
    "tests/unit/test_json_conformance.py",
    "tests/unit/test_json_document.py",
    "tests/unit/test_json_inference_request.py",
    "tests/unit/test_json_numbers.py",
    "tests/unit/test_json_predict_request.py",
    "tests/unit/test_json_quick.py",
    "tests/unit/test_json_response.py",
    "tests/unit/test_json_text.py",
    "tests/unit/test_memory.py",
    "tests/unit/test_message.py",
    "tests/unit/test_npy.py",
    "tests/unit/test_npz.py",
    "tests/unit/test_predict_python.py",
    "tests/unit/test_prediction_log.py",
    "tests/unit/test_queue.py",
    "tests/unit/test_run_counts.py",
    "tests/unit/test_serving_map.py",
    "tests/unit/test_status.py",
    "tests/unit/test_tfrecord.py",
    "tests/unit/test_wire.py",
    "tests/unit/test_workers.py",
)

# Predict and batches through TensorFlow; its own races and leaks are not ours to find.
WITH_TENSORFLOW = {
    "address": (
        "tests/integration/test_batch_tensors.py",
        "tests/integration/test_batched_predict.py",
        "tests/integration/test_inference.py",
        "tests/integration/test_predict.py",
        "tests/integration/test_session_run.py",
        "tests/integration/test_warmup.py",
    )
}

# The native transport in processes of its own, under clients that do everything wrong.
SERVERS = {
    "address": (
        "tests/functional/test_http1_transport.py",
        "tests/functional/test_http2_streaming.py",
        "tests/functional/test_http2_transport.py",
    )
}

# The C libraries of numpy, protobuf and gRPC keep some Python objects where LeakSanitizer does not
# find them; tfsrv.client imports gRPC.
LEFT_OUT = {
    "leak": (
        "tests/integration/test_client_http2.py",
        "tests/unit/test_arrays.py",
        "tests/unit/test_error_details.py",
        "tests/unit/test_inference_python.py",
        "tests/unit/test_inference_request.py",
        "tests/unit/test_client_hpack.py",
        "tests/unit/test_client_wire.py",
        "tests/unit/test_npy.py",
        "tests/unit/test_npz.py",
        "tests/unit/test_predict_python.py",
        "tests/unit/test_prediction_log.py",
        "tests/unit/test_wire.py",
    )
}

FINDING = 66  # exit status of a process in which a sanitizer found something

# What each kind is built with, what has to be preloaded into an ordinary Python, and its options.
BUILDS = {"thread": "thread", "address": "address", "leak": "address"}
PRELOADED = {
    "thread": ("libtsan.so",),
    # ASan looks for C++ exceptions as it starts, so that C++ loaded later can throw.
    "address": ("libasan.so", "libstdc++.so"),
    "leak": ("libasan.so", "libstdc++.so"),
}
# Tests ask for more memory than there is, to see that it is refused.
COMMON = f"exitcode={FINDING}:allocator_may_return_null=1"
ENVIRONMENT = {
    "thread": {
        "TSAN_OPTIONS": f"{COMMON}:second_deadlock_stack=1:history_size=4"
        f":suppressions={SUPPRESSIONS / 'thread.supp'}",
    },
    "address": {
        "ASAN_OPTIONS": f"{COMMON}:detect_leaks=0:detect_stack_use_after_return=1"
        ":strict_string_checks=1",
        # Each Python object by itself, so that a use after its end is seen.
        "PYTHONMALLOC": "malloc",
    },
    "leak": {
        # Stacks of two frames: who called the allocator decides, not who called Python.
        "ASAN_OPTIONS": f"{COMMON}:detect_leaks=1:malloc_context_size=2",
        "LSAN_OPTIONS": f"exitcode={FINDING}:print_suppressions=0"
        f":suppressions={SUPPRESSIONS / 'leak.supp'}",
        # Python's own pool would hide the pointers that Python objects hold.
        "PYTHONMALLOC": "malloc",
    },
}


def main(arguments: list[str]) -> int:
    """Check each kind that is named first in `arguments`, or all; the status of the worst."""
    kinds: list[str] = []
    while arguments and arguments[0] in BUILDS:
        kinds.append(arguments.pop(0))
    worst = 0
    for kind in kinds or BUILDS:
        tree = copied_tree(BUILDS[kind])
        build(tree, BUILDS[kind])
        status = run_tests(tree, kind, arguments)
        print(f"{kind}: {'nothing found' if status == 0 else f'FAILED, status {status}'}")
        worst = max(worst, abs(status))
    return worst


def copied_tree(sanitizer: str) -> Path:
    """The sources in a folder of their own: builds of two kinds must not mix."""
    tree = ROOT / "build" / f"sanitize-{sanitizer}"
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "node_modules")
    for stale in sources(tree / "tfsrv"):
        if not (ROOT / stale.relative_to(tree)).exists():
            stale.unlink()
    for folder in ("tfsrv", "tests", "protos", "examples"):
        if (ROOT / folder).exists():
            # Times are kept, so that only what was changed is built again.
            shutil.copytree(ROOT / folder, tree / folder, ignore=ignored, dirs_exist_ok=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, tree)
    return tree


def sources(folder: Path) -> Iterable[Path]:
    """Files that Python or Cython would take from `folder`."""
    return [path for ending in ("py", "pyx", "pxd", "h") for path in folder.rglob(f"*.{ending}")]


def build(tree: Path, sanitizer: str) -> None:
    """Build the native modules of `tree` in place."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree,
        env={**os.environ, "TFSRV_SANITIZE": sanitizer},
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"the build in {tree} failed")


def run_tests(tree: Path, kind: str, arguments: list[str]) -> int:
    """Run the tests in `tree`; pytest's status, or FINDING."""
    environment = {
        **os.environ,
        **ENVIRONMENT[kind],
        "LD_PRELOAD": " ".join(library(name) for name in PRELOADED[kind]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # capture=sys: what a sanitizer writes, below Python, is to be seen.
    options = ["-q", "--capture=sys", "-p", "no:cacheprovider", "--timeout=900"]
    pytest = [sys.executable, "-m", "pytest", *options]
    files = [file for file in TESTS if file not in LEFT_OUT.get(kind, ())]
    files += (*WITH_TENSORFLOW.get(kind, ()), *SERVERS.get(kind, ()))
    command = [*without_random_addresses(), *pytest, *files, *arguments]
    return subprocess.run(command, cwd=tree, env=environment, check=False).returncode


def library(name: str) -> str:
    """The full path of one of gcc's libraries."""
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(found):
        sys.exit(f"gcc has no {name}: install its sanitizer libraries")
    return os.path.realpath(found)


def without_random_addresses() -> list[str]:
    """The words before a command that keep addresses where ThreadSanitizer expects them.

    With many random bits (vm.mmap_rnd_bits of 32) it stops at once with "unexpected memory
    mapping". Some containers do not allow the switch; then it has to do without.
    """
    setarch = shutil.which("setarch")
    if setarch is None:
        return []
    allowed = subprocess.run([setarch, "-R", "true"], capture_output=True, check=False)
    return [setarch, "-R"] if allowed.returncode == 0 else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
