"""What programs are told of an error, beside its code and its message: the trailer with details.

`grpc-status-details-bin` holds a google.rpc.Status, which says code and message once more, and
has a google.rpc.ErrorInfo with the reason and with the model, version and signature that the
error is about. It is written for errors that have a reason, and only if it is short.

https://github.com/googleapis/googleapis/blob/master/google/rpc/status.proto and
error_details.proto; https://google.aip.dev/193; base64 as the `-bin` headers of
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md want it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t

from tfsrv._buffer cimport (
    Bytes,
    buffer_append,
    buffer_append_bytes,
    buffer_append_int,
    buffer_free,
    buffer_init,
)
from tfsrv._call cimport call_signature_name
from tfsrv._status cimport NO_REASON
from tfsrv._wire_format cimport is_utf8
from tfsrv.frontends._grpc cimport CUT_MARK, kept_size

from tfsrv.errors import Reason, ServingError

DETAILS_HEADER = "grpc-status-details-bin"

cdef size_t LONGEST_DETAILS = 4096      # bytes of the trailer; clients take 8 KiB of headers in all
cdef size_t LONGEST_NAME = 1024         # bytes; a request with a longer one is told its code only

cdef char* DOMAIN = b"tfsrv"
cdef char* TYPE_URL = b"type.googleapis.com/google.rpc.ErrorInfo"
cdef char* BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

cdef dict reason_names = {int(reason): reason.name.encode() for reason in Reason}


# What is told of one error.
cdef struct Told:
    int code
    Bytes message
    int reason
    Bytes model
    bint has_version
    int64_t version
    Bytes label
    Bytes signature


cdef bint write_details(const Call* call, Buffer* into) noexcept:
    """Append the trailer's value for a call that ended with an error; False if it has none.

    The loop's thread, with the GIL. The call's view is that of its request still.
    """
    cdef Told told
    cdef bint written = False
    if call.status.reason == NO_REASON:
        return False
    told.code = call.status.code
    told.message = Bytes(call.status.message.data, call.status.message.size)
    told.reason = call.status.reason
    told.model = call.view.spec.name
    told.has_version = call.has_version or call.view.spec.has_version
    told.version = call.version if call.has_version else call.view.spec.version
    told.label = call.view.spec.version_label
    told.signature = call_signature_name(call)
    try:
        written = write_encoded(&told, into)
    except BaseException:
        pass  # the code and the message say enough
    return written


cdef bint write_encoded(const Told* told, Buffer* into) except -1:
    """Append the trailer's value; False if there should be none."""
    cdef Buffer status
    cdef bint written = False
    buffer_init(&status)
    if write_status(told, &status) and (status.size * 4 + 2) // 3 <= LONGEST_DETAILS:
        written = put_base64(into, Bytes(status.data, status.size)) == 0
    buffer_free(&status)
    return written


cdef bint write_status(const Told* told, Buffer* into) except -1:
    """Append a google.rpc.Status; False if something cannot be put into one."""
    cdef bytes reason = reason_names.get(told.reason)
    cdef Buffer info, any_message, message
    cdef int failed
    if reason is None or not (
        is_name(told.model) and is_name(told.label) and is_name(told.signature)
        and is_utf8(told.message)
    ):
        return False
    buffer_init(&info)
    buffer_init(&any_message)
    buffer_init(&message)
    failed = write_info(told, Bytes(PyBytes_AS_STRING(reason), <size_t>len(reason)), &info)
    failed |= put_field(&any_message, 1, Bytes(TYPE_URL, 40))
    failed |= put_field(&any_message, 2, Bytes(info.data, info.size))
    # As the client gets it in grpc-message, or else it would not believe the rest.
    failed |= buffer_append(&message, told.message.data, kept_size(told.message))
    if message.size < told.message.size:
        failed |= buffer_append(&message, CUT_MARK, 12)
    failed |= put_varint_field(into, 1, <uint32_t>told.code)
    failed |= put_field(into, 2, Bytes(message.data, message.size))
    failed |= put_field(into, 3, Bytes(any_message.data, any_message.size))
    buffer_free(&info)
    buffer_free(&any_message)
    buffer_free(&message)
    return failed == 0


cdef bint is_name(Bytes text) noexcept:
    return text.size <= LONGEST_NAME and is_utf8(text)


cdef int write_info(const Told* told, Bytes reason, Buffer* into) noexcept:
    """Append a google.rpc.ErrorInfo. 0, or -1 without memory."""
    cdef Buffer version
    cdef int failed = put_field(into, 1, reason)
    failed |= put_field(into, 2, Bytes(DOMAIN, 5))
    failed |= put_metadata(into, Bytes(b"model", 5), told.model)
    if told.has_version:
        buffer_init(&version)
        failed |= buffer_append_int(&version, told.version)
        failed |= put_metadata(into, Bytes(b"version", 7), Bytes(version.data, version.size))
        buffer_free(&version)
    failed |= put_metadata(into, Bytes(b"label", 5), told.label)
    failed |= put_metadata(into, Bytes(b"signature", 9), told.signature)
    return failed


cdef int put_metadata(Buffer* into, Bytes key, Bytes value) noexcept:
    """Append an entry of ErrorInfo.metadata, if it has a value."""
    cdef Buffer entry
    cdef int failed
    if value.size == 0:
        return 0
    buffer_init(&entry)
    failed = put_field(&entry, 1, key)
    failed |= put_field(&entry, 2, value)
    failed |= put_field(into, 3, Bytes(entry.data, entry.size))
    buffer_free(&entry)
    return failed


cdef int put_field(Buffer* into, int number, Bytes value) noexcept:
    """Append a field of bytes, a string or a message, of a number under 16."""
    cdef char tag = <char>(number << 3 | 2)
    cdef int failed = buffer_append(into, &tag, 1)
    failed |= put_varint(into, <uint32_t>value.size)
    failed |= buffer_append_bytes(into, value)
    return failed


cdef int put_varint_field(Buffer* into, int number, uint32_t value) noexcept:
    cdef char tag = <char>(number << 3)
    return buffer_append(into, &tag, 1) | put_varint(into, value)


cdef int put_varint(Buffer* into, uint32_t value) noexcept:
    cdef char byte
    cdef int failed = 0
    while value > 0x7F:
        byte = <char>(value & 0x7F | 0x80)
        failed |= buffer_append(into, &byte, 1)
        value >>= 7
    byte = <char>value
    return failed | buffer_append(into, &byte, 1)


cdef int put_base64(Buffer* into, Bytes data) noexcept:
    """Append `data` in base64, without padding. 0, or -1 without memory."""
    cdef unsigned char group[3]
    cdef char encoded[4]
    cdef size_t at = 0, have, i
    cdef int failed = 0
    while at < data.size:
        have = min(<size_t>3, data.size - at)
        for i in range(3):
            group[i] = <unsigned char>data.data[at + i] if i < have else 0
        encoded[0] = BASE64[group[0] >> 2]
        encoded[1] = BASE64[(group[0] & 3) << 4 | group[1] >> 4]
        encoded[2] = BASE64[(group[1] & 15) << 2 | group[2] >> 6]
        encoded[3] = BASE64[group[2] & 63]
        failed |= buffer_append(into, encoded, have + 1)
        at += have
    return failed


# ---- for transports that are not ours ------------------------------------------------------------

cdef Bytes view(bytes text) noexcept:
    return Bytes(PyBytes_AS_STRING(text), <size_t>len(text))


def error_details(error: ServingError) -> bytes:
    """The google.rpc.Status for an error, as DETAILS_HEADER carries it; empty if it has none.

    Without base64: that is the transport's.
    """
    cdef Told told
    cdef Buffer status
    details = error.details
    if details is None:
        return b""
    message = error.message.encode("utf-8", "replace")
    model = details.model.encode("utf-8", "replace")
    label = details.label.encode("utf-8", "replace")
    signature = details.signature.encode("utf-8", "replace")
    told.code = error.code
    told.message = view(message)
    told.reason = details.reason
    told.model = view(model)
    told.has_version = details.version is not None
    told.version = details.version or 0
    told.label = view(label)
    told.signature = view(signature)
    buffer_init(&status)
    try:
        if not write_status(&told, &status) or (status.size * 4 + 2) // 3 > LONGEST_DETAILS:
            return b""
        return PyBytes_FromStringAndSize(status.data, <Py_ssize_t>status.size)
    finally:
        buffer_free(&status)


def encode_base64(data: bytes) -> bytes:
    """`data` as the trailer has it, for tests."""
    cdef Buffer encoded
    buffer_init(&encoded)
    try:
        if put_base64(&encoded, view(data)) != 0:
            raise MemoryError
        return encoded.data[: encoded.size] if encoded.size else b""
    finally:
        buffer_free(&encoded)
