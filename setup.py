"""The native modules. Everything declarative is in pyproject.toml."""

import os
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("TFSRV_DEBUG") == "1"
SANITIZE = os.environ.get("TFSRV_SANITIZE", "")  # "address" or "thread"

CPP_MARK = "# distutils: language = c++"  # the first line of a .pyx that becomes C++

compile_args = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function"]
compile_args += ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0"]
link_args: list[str] = []
if SANITIZE:
    compile_args += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g", "-O1"]
    link_args += [f"-fsanitize={SANITIZE}"]


def standard(path: str) -> str:
    """The C or C++ standard of a .pyx file, which says which of them it becomes in its head."""
    with open(path, encoding="utf-8") as file:
        return "-std=gnu++17" if file.readline().strip() == CPP_MARK else "-std=gnu11"


def extension(path: str) -> Extension:
    """The extension module of one .pyx file."""
    name = path.removesuffix(".pyx").replace(os.sep, ".")
    return Extension(
        name,
        [path],
        depends=glob("tfsrv/**/*.h", recursive=True),
        include_dirs=["tfsrv"],
        libraries=["dl", "pthread"],
        extra_compile_args=[standard(path), *compile_args],
        extra_link_args=link_args,
    )


setup(
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        [extension(path) for path in sorted(glob("tfsrv/**/*.pyx", recursive=True))],
        build_dir="build/cython",
        nthreads=os.cpu_count() or 1,
        annotate=DEBUG,
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "initializedcheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "autotestdict": False,
            "embedsignature": True,
            "embedsignature.format": "python",
        },
    ),
)
