"""Methods that run a signature of a loaded SavedModel, without Python."""

from tfsrv._call cimport Call
from tfsrv._method cimport Method
from tfsrv._run_queue cimport RunQueue
from tfsrv._workers cimport Pool
from tfsrv.handlers._predict_python cimport PythonAnswering, PythonPredictor


# How a method differs from the others; the rest is the same for all.
cdef struct Steps:
    # Make of the body of a REST call, whose servable was looked for, the gRPC request that it stands for.
    # The status' code.
    int (*transcode)(Call* call, size_t most_bytes) noexcept nogil     # NULL: it has no REST
    int (*read)(char* data, size_t size, void* view) noexcept nogil    # a PredictView; a WireResult
    # Whether a call can be done by the servable that it has, whatever its examples are. The status' code.
    int (*check)(const Settings* settings, Call* call) noexcept nogil  # NULL: there are none
    # Choose the signature and make the plan of a call that has its servable. The status' code.
    int (*plan)(const Settings* settings, Call* call) noexcept nogil
    const char* unreadable      # what a request that does not parse is told
    const char* rare_too_large  # what one is told that takes Python protobuf, which holds the loop up

cdef struct Settings:
    Steps steps
    void* map               # of `SessionMethod.serving_map`
    Pool* pool              # of `SessionMethod.workers`
    void* python            # SessionMethod.python, borrowed
    RunQueue* unread        # large requests that wait to be parsed; owned by the SessionMethod
    RunQueue* rest_unread   # likewise REST's, of which not all workers may have one at a time
    bint as_content         # --enable_serialization_as_tensor_content
    bint checks_method_name   # --enable_signature_method_name_check
    size_t max_message_bytes


cdef class SessionMethod(Method):
    cdef Settings settings  # `context` points to it
    cdef readonly object serving_map
    cdef readonly object workers
    cdef PythonPredictor python
    cdef PythonAnswering python_answering(self)


cdef int session_read(const Settings* settings, Call* call) noexcept nogil
cdef int session_prepare(const Settings* settings, Call* call) noexcept nogil
