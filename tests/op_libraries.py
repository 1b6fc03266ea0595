"""Libraries of custom ops, written in C and compiled for a test."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

# x: float → y: float, the same and one more. By TensorFlow's C API, so that no C++ is needed;
# its functions are declared here, because tensorflow/c/ops.h is no C in all versions.
OP_SOURCE = """
#include <stdint.h>
#include <unistd.h>

enum { FLOAT = 1 };
typedef void Builder, Context, Status, Tensor;
Status* TF_NewStatus(void);
void TF_DeleteStatus(Status*);
int TF_GetCode(const Status*);
Builder* TF_NewOpDefinitionBuilder(const char* name);
void TF_OpDefinitionBuilderAddInput(Builder*, const char* spec);
void TF_OpDefinitionBuilderAddOutput(Builder*, const char* spec);
void TF_OpDefinitionBuilderSetShapeInferenceFunction(Builder*, void (*)(Context*, Status*));
void TF_ShapeInferenceContextSetUnknownShape(Context*, Status*);
void TF_RegisterOpDefinition(Builder*, Status*);
Builder* TF_NewKernelBuilder(
    const char* op, const char* device, void* (*create)(void*), void (*compute)(void*, Context*),
    void (*delete)(void*));
void TF_RegisterKernelBuilder(const char* name, Builder*, Status*);
void TF_GetInput(Context*, int index, Tensor**, Status*);
Tensor* TF_AllocateOutput(
    Context*, int index, int type, const int64_t* dims, int rank, size_t size, Status*);
void TF_OpKernelContext_Failure(Context*, Status*);
int TF_NumDims(const Tensor*);
int64_t TF_Dim(const Tensor*, int);
size_t TF_TensorByteSize(const Tensor*);
int64_t TF_TensorElementCount(const Tensor*);
void* TF_TensorData(const Tensor*);
void TF_DeleteTensor(Tensor*);

#ifdef SLOW
__attribute__((constructor)) static void dawdle(void) { usleep(700000); }
#endif
#ifdef BROKEN
void tfsrv_no_such_function(void);
void call_it(void) { tfsrv_no_such_function(); }
#endif

static void compute(void* kernel, Context* context) {
  Status* status = TF_NewStatus();
  Tensor* x = NULL;
  TF_GetInput(context, 0, &x, status);
  if (TF_GetCode(status) == 0) {
    int64_t dims[8];
    int rank = TF_NumDims(x);
    for (int i = 0; i < rank; i++) dims[i] = TF_Dim(x, i);
    Tensor* y = TF_AllocateOutput(context, 0, FLOAT, dims, rank, TF_TensorByteSize(x), status);
    if (TF_GetCode(status) == 0) {
      const float* from = TF_TensorData(x);
      float* to = TF_TensorData(y);
      for (int64_t i = 0; i < TF_TensorElementCount(x); i++) to[i] = from[i] + 1;
      TF_DeleteTensor(y);
    }
    TF_DeleteTensor(x);
  }
  if (TF_GetCode(status) != 0) TF_OpKernelContext_Failure(context, status);
  TF_DeleteStatus(status);
}

__attribute__((constructor)) static void register_op(void) {
  Status* status = TF_NewStatus();
  Builder* op = TF_NewOpDefinitionBuilder(OP);
  TF_OpDefinitionBuilderAddInput(op, "x: float");
  TF_OpDefinitionBuilderAddOutput(op, "y: float");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, TF_ShapeInferenceContextSetUnknownShape);
  TF_RegisterOpDefinition(op, status);
  TF_RegisterKernelBuilder(OP, TF_NewKernelBuilder(OP, "CPU", NULL, compute, NULL), status);
  TF_DeleteStatus(status);
}
"""

# Ends the process that loads it. With PYTHON it looks like an extension module that uses the
# registration of ops all the same.
TRAP_SOURCE = """
#include <stdlib.h>
__attribute__((constructor)) static void trap(void) { abort(); }
#ifdef PYTHON
void* TF_NewOpDefinitionBuilder(const char* name);
void* PyInit_trap(void) { return TF_NewOpDefinitionBuilder("Trap"); }
#endif
"""


def build_op_library(path: Path, op: str, *defines: str) -> Path:
    """Compile a library at `path` with the op of that name. Skips the test if that can't be.

    "SLOW" makes its loading take 0.7 s, "BROKEN" makes it fail.
    """
    libraries = [f"-L{_tensorflow_folder()}", "-l:libtensorflow_framework.so.2"]
    words = [f'-DOP="{op}"', *(f"-D{name}" for name in defines)]
    return _compile(path, OP_SOURCE, *words, libraries=libraries)


def build_trap(path: Path, *defines: str) -> Path:
    """Compile a library that must not be loaded."""
    return _compile(path, TRAP_SOURCE, *(f"-D{name}" for name in defines), libraries=[])


def _compile(path: Path, source: str, *options: str, libraries: list[str]) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_suffix(".c")
    file.write_text(source)
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wl,-z,now", "-Wl,--no-as-needed"]
    subprocess.run(
        [*command, *options, "-o", path, file, *libraries],
        check=True,
        capture_output=True,
        text=True,
    )
    file.unlink()
    return path


def _tensorflow_folder() -> Path:
    spec = find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs TensorFlow")
    return Path(spec.submodule_search_locations[0])
