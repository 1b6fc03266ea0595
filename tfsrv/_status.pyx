"""A code and a message, built without the GIL and raised with it.

A message is built in pieces, `status_set` first:

    status_set(status, NOT_FOUND, "Could not find version ")
    status_add_int(status, 7)
    status.reason = VERSION_NOT_FOUND

Nothing here fails: without memory the message is shorter, and so it is when a client sent a name
of megabytes.
"""

from tfsrv._buffer cimport (
    buffer_append_bytes,
    buffer_append_int,
    buffer_append_text,
    buffer_free,
    buffer_init,
)

from tfsrv.errors import ServingError

cdef size_t LONGEST = 65536  # bytes of a message; gRPC clients get the first 1,024


cdef void status_init(Status* status) noexcept nogil:
    status.code = OK
    status.reason = NO_REASON
    buffer_init(&status.message)


cdef void status_free(Status* status) noexcept nogil:
    status.code = OK
    buffer_free(&status.message)


cdef void status_clear(Status* status) noexcept nogil:
    """OK again; the message's memory is kept for the next one."""
    status.code = OK
    status.reason = NO_REASON
    status.message.size = 0


cdef int status_set(Status* status, int code, const char* text) noexcept nogil:
    """Replace code and message. Returns `code`, so that a caller can return it at once."""
    status.code = code
    status.reason = NO_REASON
    status.message.size = 0
    buffer_append_text(&status.message, text)
    return code


cdef void status_copy(Status* target, const Status* source) noexcept nogil:
    """Have `target` say what `source` says."""
    target.code = source.code
    target.reason = source.reason
    target.message.size = 0
    status_add_bytes(target, Bytes(source.message.data, source.message.size))


cdef void status_add(Status* status, const char* text) noexcept nogil:
    buffer_append_text(&status.message, text)


cdef void status_add_bytes(Status* status, Bytes text) noexcept nogil:
    """Append what may have come from the wire, as much of it as fits into LONGEST bytes."""
    if text.size > LONGEST or status.message.size + text.size > LONGEST:
        text.size = LONGEST - min(status.message.size, LONGEST)
    buffer_append_bytes(&status.message, text)


cdef void status_add_int(Status* status, int64_t value) noexcept nogil:
    buffer_append_int(&status.message, value)


cdef object status_error(const Status* status):
    """The ServingError that says what `status` says."""
    text = status.message.data[: status.message.size] if status.message.size else b""
    return ServingError(status.code, text.decode("utf-8", "replace"))


def make_error(code: int, text: bytes, *parts: int | bytes) -> ServingError:
    """The error that native code makes of a code and the pieces of a message."""
    cdef Status status
    cdef Bytes view
    status_init(&status)
    try:
        status_set(&status, code, text)
        for part in parts:
            if isinstance(part, int):
                status_add_int(&status, part)
            else:
                view.data = part
                view.size = len(part)
                status_add_bytes(&status, view)
        return status_error(&status)
    finally:
        status_free(&status)


def reasons() -> dict[str, int]:
    """The numbers that native code has for tfsrv.errors.Reason."""
    return {
        "MODEL_NOT_FOUND": MODEL_NOT_FOUND,
        "VERSION_NOT_FOUND": VERSION_NOT_FOUND,
        "LABEL_NOT_FOUND": LABEL_NOT_FOUND,
        "SIGNATURE_NOT_FOUND": SIGNATURE_NOT_FOUND,
        "MODEL_LOADING": MODEL_LOADING,
        "QUEUE_FULL": QUEUE_FULL,
        "INVALID_INPUT": INVALID_INPUT,
        "RUN_FAILED": RUN_FAILED,
    }
