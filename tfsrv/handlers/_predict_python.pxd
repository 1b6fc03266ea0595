"""Methods on servables that are written in Python."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes
from tfsrv._call cimport Call
from tfsrv.handlers._rest_read cimport RestBody


cdef class PythonAnswering:
    """What is particular to a method: what it asks a servable, and how it answers."""

    cdef readonly str method    # its name, of counters and texts
    cdef int refuse_signature(self, Call* call, Bytes name) except -1
    cdef int read_body(self, PythonTurn turn, RestBody* body, object signature_defs) except -1
    cdef int respond(self, PythonTurn turn, object servable, object signature_defs) except -1


cdef class PredictAnswering(PythonAnswering):
    cdef bint as_content        # --enable_serialization_as_tensor_content
    cdef int read_for_signature(self, PythonTurn turn, RestBody* body, signature_defs) except -1
    cdef int write(self, PythonTurn turn, dict outputs, Bytes signature_name) except -1


cdef class PythonPredictor:
    cdef readonly object threads    # python_threads.PythonThreads
    cdef PythonAnswering answering
    cdef size_t max_message_bytes
    cdef object failures            # DampedLog, under `failures_lock`
    cdef object failures_lock
    cdef int start(self, Call* call) except -1
    cdef int log_failure(self, str text, error) except -1


cdef class PythonTurn:
    """A call's turn: a Task of PythonThreads. Lent the call until it completes it."""

    cdef Call* call             # NULL once it is completed
    cdef PythonPredictor predictor
    cdef str name               # of the servable
    cdef object version         # what is loaded as that version, as PythonThreads is told
    cdef dict inputs            # once they are made
    cdef dict outputs           # once they are there
    cdef bint submit(self) except -1
    cdef void complete(self) noexcept
    cdef void answer(self) noexcept
    cdef int respond(self) except -1
    cdef void let_go(self) noexcept
    # For PythonAnswering:
    cdef int count(self, str signature_name) except -1
    cdef int read_rest(self, signature_defs) except -1
    cdef int charge_inputs(self) except -1
    cdef int make_inputs(self) except -1
    cdef void drop_inputs(self) noexcept
    cdef object ask(self, servable, str signature_name, tuple wanted)
    cdef int begin_answer(self, int64_t copies) except -1
    cdef int end_answer(self, int64_t copies) except -1


cdef enum:
    LONGEST_NAME = 65536    # bytes; longer ones are refused, and no text is made of them

cdef int start_in_python(void* predictor, Call* call) noexcept with gil
cdef dict chosen(returned, list wanted)
cdef str text_of(Bytes text)
