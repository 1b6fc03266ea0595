"""TensorFlow's C API, opened at run time.

The library is found without importing TensorFlow's Python package, opened once and never
closed. Only the functions of `Api` are looked up (tensorflow/c/c_api.h), so one build of tfsrv
works with many versions of TensorFlow and needs none of them to be built.
"""

import os
import threading
from importlib.util import find_spec

from tfsrv._buffer cimport buffer_append_text
from tfsrv._status cimport Status, status_clear, status_error, status_free, status_init
from tfsrv._status cimport FAILED_PRECONDITION, RESOURCE_EXHAUSTED

from tfsrv._meta_graph import op_names
from tfsrv.errors import ServingError

cdef extern from "<dlfcn.h>" nogil:
    int RTLD_NOW
    int RTLD_LOCAL
    void* dlopen(const char* path, int flags)
    void* dlsym(void* library, const char* name)
    const char* dlerror()

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned int pthread_key_t
    int pthread_key_create(pthread_key_t* key, void (*destructor)(void*) noexcept nogil)
    void* pthread_getspecific(pthread_key_t key)
    int pthread_setspecific(pthread_key_t key, const void* value)

cdef enum:
    ANY_THREADS = 1_000_000     # a thread's limit to begin with (core/util/work_sharder.cc)

LIBRARY = "libtensorflow_cc.so.2"
OLDEST = (2, 16)  # the oldest TensorFlow that is tested
INSTALL = "pip install 'tfsrv[cpu]'"

# What TensorFlow says while it is being opened, whatever TF_CPP_MIN_LOG_LEVEL: its logging is not
# set up yet. Lines that start or go on like these are of no use to anybody.
_NOISE = (b"All log messages before absl::InitializeLog()", b"oneDNN custom operations are on.")

_opening = threading.Lock()  # guards the opening and the three below
_version = ""
_path = ""
_custom_ops: frozenset[bytes] = frozenset()

_sessions_may_begin = threading.Event()  # not set between hold_sessions and release_sessions
_sessions_may_begin.set()
_why_no_sessions: ServingError | None = None

cdef pthread_key_t status_key   # each thread's TF_Status; made before `api` is filled in


cdef void delete_status(void* status) noexcept nogil:
    """A thread ends: its TF_Status goes with it. Called by the C library."""
    api.DeleteStatus(<TF_Status*>status)


cdef TF_Status* thread_status() noexcept nogil:
    """The calling thread's TF_Status, OK, to be used until the next call of any of our functions.

    Owned by the thread, native or Python's, and deleted when it ends. NULL without memory.
    """
    cdef void* status = pthread_getspecific(status_key)
    if status == NULL:
        status = api.NewStatus()
        if status != NULL and pthread_setspecific(status_key, status) != 0:
            api.DeleteStatus(<TF_Status*>status)
            return NULL
    if status != NULL:  # not every function of TensorFlow's sets it when all went well
        api.SetStatus(<TF_Status*>status, 0, "")
    return <TF_Status*>status


cdef int take_status(TF_Status* status, Status* into) noexcept nogil:
    """Copy code and message; returns the code. TensorFlow's codes are gRPC's."""
    status_clear(into)
    into.code = api.GetCode(status)
    if into.code != 0:
        buffer_append_text(&into.message, api.Message(status))
    return into.code


cdef bint can_limit_threads() noexcept nogil:
    """Does limit_threads do anything? TensorFlow is open."""
    return api.SetPerThreadMaxParallelism != NULL


cdef void limit_threads(bint to_one) noexcept nogil:
    """Whether ops that run in the calling thread do all of their work in it, or split it.

    For Eigen's ops, and what is split by Shard (core/framework/device_base.cc, core/util/
    work_sharder.cc). Those of oneDNN take all threads of the session's device in any case
    (EigenThreadPoolFromTfContext of core/util/mkl_util.h).
    """
    if api.SetPerThreadMaxParallelism != NULL:
        api.SetPerThreadMaxParallelism(1 if to_one else ANY_THREADS)


cdef void want(void* library, const char* name, void** slot, const char** missing) noexcept nogil:
    slot[0] = dlsym(library, name)
    if slot[0] == NULL and missing[0] == NULL:
        missing[0] = name


cdef const char* resolve(void* library, Api* into) noexcept nogil:
    """Look up every function; the name of one that is not there, or NULL."""
    cdef const char* missing = NULL
    want(library, "TF_Version", <void**>&into.Version, &missing)
    want(library, "TF_DataTypeSize", <void**>&into.DataTypeSize, &missing)
    want(library, "TF_NewStatus", <void**>&into.NewStatus, &missing)
    want(library, "TF_DeleteStatus", <void**>&into.DeleteStatus, &missing)
    want(library, "TF_SetStatus", <void**>&into.SetStatus, &missing)
    want(library, "TF_GetCode", <void**>&into.GetCode, &missing)
    want(library, "TF_Message", <void**>&into.Message, &missing)
    want(library, "TF_NewBuffer", <void**>&into.NewBuffer, &missing)
    want(library, "TF_DeleteBuffer", <void**>&into.DeleteBuffer, &missing)
    want(library, "TF_NewTensor", <void**>&into.NewTensor, &missing)
    want(library, "TF_DeleteTensor", <void**>&into.DeleteTensor, &missing)
    want(library, "TF_TensorType", <void**>&into.TensorType, &missing)
    want(library, "TF_NumDims", <void**>&into.NumDims, &missing)
    want(library, "TF_Dim", <void**>&into.Dim, &missing)
    want(library, "TF_TensorByteSize", <void**>&into.TensorByteSize, &missing)
    want(library, "TF_TensorData", <void**>&into.TensorData, &missing)
    want(library, "TF_TensorElementCount", <void**>&into.TensorElementCount, &missing)
    want(library, "TF_NewGraph", <void**>&into.NewGraph, &missing)
    want(library, "TF_DeleteGraph", <void**>&into.DeleteGraph, &missing)
    want(library, "TF_GraphOperationByName", <void**>&into.GraphOperationByName, &missing)
    want(library, "TF_OperationNumOutputs", <void**>&into.OperationNumOutputs, &missing)
    want(library, "TF_OperationOutputType", <void**>&into.OperationOutputType, &missing)
    want(library, "TF_NewSessionOptions", <void**>&into.NewSessionOptions, &missing)
    want(library, "TF_DeleteSessionOptions", <void**>&into.DeleteSessionOptions, &missing)
    want(library, "TF_SetConfig", <void**>&into.SetConfig, &missing)
    want(library, "TF_NewSession", <void**>&into.NewSession, &missing)
    want(library, "TF_LoadSessionFromSavedModel", <void**>&into.LoadSessionFromSavedModel,
         &missing)
    want(library, "TF_SessionRun", <void**>&into.SessionRun, &missing)
    want(library, "TF_CloseSession", <void**>&into.CloseSession, &missing)
    want(library, "TF_DeleteSession", <void**>&into.DeleteSession, &missing)
    want(library, "TF_SessionListDevices", <void**>&into.SessionListDevices, &missing)
    want(library, "TF_DeleteDeviceList", <void**>&into.DeleteDeviceList, &missing)
    want(library, "TF_DeviceListCount", <void**>&into.DeviceListCount, &missing)
    want(library, "TF_DeviceListName", <void**>&into.DeviceListName, &missing)
    want(library, "TF_DeviceListType", <void**>&into.DeviceListType, &missing)
    want(library, "TF_LoadLibrary", <void**>&into.LoadLibrary, &missing)
    want(library, "TF_GetOpList", <void**>&into.GetOpList, &missing)
    # tensorflow::SetPerThreadMaxParallelism(int) of core/util/work_sharder.h: not of the C API, but
    # it takes and returns nothing that could change, and nothing is missing without it.
    into.SetPerThreadMaxParallelism = <void (*)(int) noexcept nogil>dlsym(
        library, "_ZN10tensorflow26SetPerThreadMaxParallelismEi")
    return missing


def open_library(path: str | None = None) -> str:
    """Open TensorFlow, and return its version; later calls only return it.

    Any thread may call it; the GIL is free while the library loads. `path` names the library's
    file; without it the library comes from the installed TensorFlow package. A ServingError
    FAILED_PRECONDITION says in one sentence what is missing and what to type.

    The environment is prepared first, where it does not say otherwise: TensorFlow's log is kept
    to errors (TF_CPP_MIN_LOG_LEVEL), and oneDNN takes its memory from malloc, without a pool of
    its own (TF_ONEDNN_USE_SYSTEM_ALLOCATOR).
    """
    global _version, _path
    with _opening:
        if not _version:
            found = _find_library() if path is None else path
            quiet = "TF_CPP_MIN_LOG_LEVEL" not in os.environ
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
            # Otherwise the operations of oneDNN have a BFC allocator to themselves
            # (core/common_runtime/mkl_cpu_allocator.h), which keeps what an unloaded model had:
            # malloc_trim can give back only what malloc has.
            os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
            if quiet:
                with _StderrFilter():
                    _version = _open(found)
            else:
                _version = _open(found)
            _path = found
        return _version


def hold_sessions() -> None:
    """Let every open_for_sessions wait until release_sessions: who opens the library has more to do.

    Libraries of ops, say, that must be there before the first model is loaded.
    """
    global _why_no_sessions
    _why_no_sessions = None
    _sessions_may_begin.clear()


def release_sessions(error: ServingError | None = None) -> None:
    """Let those go on that wait, and those that come; with `error`, to fail with its text."""
    global _why_no_sessions
    _why_no_sessions = error
    _sessions_may_begin.set()


def open_for_sessions() -> None:
    """Have the library open, and ready for sessions: whoever makes one calls this before.

    Opens it as open_library does, unless somebody holds sessions: then it waits. Raises what
    either of them ended with.
    """
    _sessions_may_begin.wait()
    if _why_no_sessions is not None:
        raise ServingError(_why_no_sessions.code, _why_no_sessions.message)
    open_library()


def is_open() -> bool:
    return bool(_version)


def library_path() -> str:
    """The path of the library that is open; "" before."""
    return _path


def version() -> str:
    """TensorFlow's version, such as "2.21.0"; "" before it is open."""
    return _version


def load_op_library(path: str) -> list[str]:
    """Load a library of custom ops, for models loaded from then on; the names of its ops.

    The library stays loaded. A ServingError carries TensorFlow's own code and message.
    """
    global _custom_ops
    open_library()
    encoded = os.fsencode(path)
    cdef const char* encoded_path = encoded
    cdef Status status
    cdef TF_Status* tf_status
    cdef TF_Library* library = NULL
    cdef TF_Buffer ops
    status_init(&status)
    try:
        with nogil:
            tf_status = thread_status()
            if tf_status == NULL:
                status.code = RESOURCE_EXHAUSTED
            else:
                library = api.LoadLibrary(encoded_path, tf_status)
                take_status(tf_status, &status)
        if status.code != 0:
            raise status_error(&status)
    finally:
        status_free(&status)
    ops = api.GetOpList(library)  # belongs to the library
    names = op_names((<const char*>ops.data)[: ops.length])
    with _opening:
        _custom_ops |= frozenset(names)
    return [name.decode("utf-8", "replace") for name in names]


def custom_ops() -> list[bytes]:
    """The ops of all libraries that load_op_library has loaded, sorted."""
    return sorted(_custom_ops)


def limit_own_threads(to_one: bool) -> bool:
    """limit_threads for the calling thread, for tests; whether it does anything."""
    limit_threads(to_one)
    return can_limit_threads()


def _find_library() -> str:
    """The path of the installed package's library; TensorFlow is not imported."""
    try:
        spec = find_spec("tensorflow")
    except (ImportError, ValueError):  # ValueError: something put a bare module in sys.modules
        spec = None
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if not folders:
        raise ServingError(
            FAILED_PRECONDITION, f"TensorFlow is not installed; install it with: {INSTALL}"
        )
    for folder in folders:
        path = os.path.join(folder, LIBRARY)
        if os.path.exists(path):
            return path
    raise ServingError(
        FAILED_PRECONDITION,
        f"The TensorFlow package in {folders[0]} has no {LIBRARY}; install one with: {INSTALL}",
    )


def _open(path: str) -> str:
    """Open `path` and fill in `api`; the GIL is free while the library loads."""
    cdef Api found
    cdef void* library
    cdef const char* missing
    cdef const char* text
    encoded = os.fsencode(path)
    cdef const char* encoded_path = encoded
    with nogil:
        # RTLD_LOCAL: with RTLD_GLOBAL a later `import tensorflow` in the process crashes
        library = dlopen(encoded_path, RTLD_NOW | RTLD_LOCAL)
        text = dlerror() if library == NULL else NULL
    if library == NULL:
        why = "" if text == NULL else text.decode("utf-8", "replace")
        raise ServingError(
            FAILED_PRECONDITION,
            f"TensorFlow cannot be opened ({why}); install it with: {INSTALL}",
        )
    missing = resolve(library, &found)
    version = "" if found.Version == NULL else found.Version().decode("utf-8", "replace")
    if missing != NULL or _numbers(version) < OLDEST:
        reason = f"needs {OLDEST[0]}.{OLDEST[1]} or newer"
        if missing != NULL:
            reason += f" with {missing.decode()}"
        raise ServingError(
            FAILED_PRECONDITION,
            f"The TensorFlow {version} in {path} cannot be used: tfsrv {reason}; "
            f"install it with: {INSTALL}",
        )
    if pthread_key_create(&status_key, delete_status) != 0:
        raise MemoryError
    global api
    api = found
    return version


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 21) of "2.21.0-rc1"; () of what is no version."""
    try:
        return tuple(int(number) for number in version.split(".")[:2])
    except ValueError:
        return ()


class _StderrFilter:
    """Keeps `_NOISE` off the process's standard error; everything else goes through at once.

    The lines come from initialisers that run inside dlopen, before TensorFlow's logging takes
    settings, so file descriptor 2 itself is a pipe for that time. It is read by a thread and not
    afterwards, so that what a dying initialiser says still gets out.
    """

    def __enter__(self) -> None:
        self._real = -1
        try:
            self._real = os.dup(2)
            source, target = os.pipe()
        except OSError:  # no standard error: nothing to keep quiet
            if self._real >= 0:
                os.close(self._real)
                self._real = -1
            return
        self._forwarding = threading.Thread(
            target=_forward, args=(source, self._real), daemon=True
        )
        self._forwarding.start()
        os.dup2(target, 2)
        os.close(target)

    def __exit__(self, *exception: object) -> None:
        if self._real < 0:
            return
        os.dup2(self._real, 2)  # closes the pipe's writing end, so the thread ends
        # ... unless a process was started meanwhile and writes to the pipe: it is served on
        self._forwarding.join(timeout=1)


def _forward(source: int, target: int) -> None:
    """Copy lines from `source` until its end, but for the noise; then close both."""
    rest = b""
    with os.fdopen(source, "rb", buffering=0) as pipe:
        while piece := pipe.read(65536):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if not any(noise in line for noise in _NOISE):
                    _write(target, line + b"\n")
    _write(target, rest)
    os.close(target)


def _write(target: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(target, data) :]
        except OSError:  # nobody reads it any more
            return
