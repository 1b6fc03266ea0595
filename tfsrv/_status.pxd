"""What went wrong, for code that cannot raise: a gRPC code and a message."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes


cdef enum Code:  # https://grpc.github.io/grpc/core/md_doc_statuscodes.html
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


cdef enum Reason:  # tfsrv.errors.Reason
    NO_REASON = 0           # none that a program would want to know
    MODEL_NOT_FOUND = 1
    VERSION_NOT_FOUND = 2
    LABEL_NOT_FOUND = 3
    SIGNATURE_NOT_FOUND = 4
    MODEL_LOADING = 5
    QUEUE_FULL = 6
    INVALID_INPUT = 7
    RUN_FAILED = 8


cdef struct Status:
    int code                # a Code
    int reason              # a Reason; status_set and status_clear take it back
    Buffer message          # owned; UTF-8 when it comes from us, anything when from the wire

cdef void status_init(Status* status) noexcept nogil
cdef void status_free(Status* status) noexcept nogil
cdef void status_clear(Status* status) noexcept nogil
cdef int status_set(Status* status, int code, const char* text) noexcept nogil
cdef void status_copy(Status* target, const Status* source) noexcept nogil
cdef void status_add(Status* status, const char* text) noexcept nogil
cdef void status_add_bytes(Status* status, Bytes text) noexcept nogil
cdef void status_add_int(Status* status, int64_t value) noexcept nogil
cdef object status_error(const Status* status)
