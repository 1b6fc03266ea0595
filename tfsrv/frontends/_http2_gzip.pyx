"""Compressed messages of streams: gzip works in a thread while the loop goes on.

A stream in CODING waits for it. One that ends meanwhile lets go of the work, whose result is
then thrown away.
"""

import asyncio

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t

from tfsrv._budget cimport budget_give
from tfsrv._buffer cimport Bytes, buffer_append
from tfsrv._call cimport Call
from tfsrv._message cimport message_clear, message_read, message_seal
from tfsrv._status cimport INTERNAL, RESOURCE_EXHAUSTED
from tfsrv.frontends._grpc_messages cimport PREFIX
from tfsrv.frontends._http2_connection cimport Connection
from tfsrv.frontends._http2_stream cimport CODING, Stream

from tfsrv.errors import ServingError
from tfsrv.frontends.compression import deflate, inflate


cdef class _Coding:
    """gzip at work in a thread on a message of a stream."""

    cdef Connection connection
    cdef Stream* stream     # NULL once the stream is gone

    cdef Stream* end(self):
        cdef Stream* stream = self.stream
        self.stream = NULL
        if stream != NULL:
            stream.coding = NULL
            Py_DECREF(self)  # the stream's reference
        return stream

    cdef void refuse(self, Stream* stream, object error) noexcept:
        """Answer with what went wrong, if anybody waits for it."""
        cdef bytes text
        if stream == NULL:
            return
        if isinstance(error, ServingError):
            text = error.message.encode()
            self.connection.refuse_bytes(stream, error.code, Bytes(<const char*>text, <size_t>len(text)), b"200")
        else:
            self.connection.refuse(stream, INTERNAL, b"gzip failed.")
        self.connection.touch()
        self.connection.server.calls.flush()

    def inflated(self, future: asyncio.Future[bytes]) -> None:
        """The request is unpacked: dispatch it."""
        cdef Stream* stream = self.end()
        cdef Call* call
        cdef bytes body
        try:
            body = future.result()
        except BaseException as error:
            self.refuse(stream, error)
            return
        if stream == NULL:
            budget_give(<int64_t>len(body))
            return
        call = stream.call
        call.charged_bytes += len(body)
        self.connection.held += len(body)
        stream.charged += len(body)
        call.request.size = 0
        if buffer_append(&call.request, PyBytes_AS_STRING(body), <size_t>len(body)) != 0:
            self.connection.refuse(stream, RESOURCE_EXHAUSTED, b"out of memory")
        else:
            call.body = Bytes(call.request.data, call.request.size)
            self.connection.dispatch(stream)
        self.connection.touch()
        self.connection.server.calls.flush()

    def deflated(self, future: asyncio.Future[bytes]) -> None:
        """The answer is packed: send it."""
        cdef Stream* stream = self.end()
        cdef bytes body
        cdef Call* call
        try:
            body = future.result()
        except BaseException as error:
            self.refuse(stream, error)
            return
        if stream == NULL:
            return
        call = stream.call
        message_clear(&call.response)
        if (
            buffer_append(&call.response.head, b"\1\0\0\0\0", PREFIX) != 0
            or buffer_append(&call.response.head, PyBytes_AS_STRING(body), <size_t>len(body)) != 0
        ):
            self.connection.refuse(stream, RESOURCE_EXHAUSTED, b"out of memory")
        else:
            message_seal(&call.response)
            stream.compressed = True
            self.connection.submit_message(stream)
        self.connection.touch()
        self.connection.server.calls.flush()


cdef _Coding begin(Connection connection, Stream* stream):
    """The stream's from now on; its methods are for the work's future."""
    cdef _Coding coding = _Coding.__new__(_Coding)
    coding.connection = connection
    coding.stream = stream
    stream.phase = CODING
    stream.coding = <void*>coding
    Py_INCREF(coding)  # the stream's reference, given back in _Coding.end
    return coding


cdef void inflate_request(Connection connection, Stream* stream) noexcept:
    """Unpack the request; it is dispatched when that is done."""
    cdef Call* call = stream.call
    cdef _Coding coding
    try:
        body = PyBytes_FromStringAndSize(call.body.data, <Py_ssize_t>call.body.size)
        future = connection.server.loop.run_in_executor(
            None, inflate, body, connection.server.max_message_bytes)
    except BaseException:  # no memory, or no thread
        connection.refuse(stream, RESOURCE_EXHAUSTED, b"The request cannot be decompressed now.")
        return
    coding = begin(connection, stream)
    future.add_done_callback(coding.inflated)


cdef void deflate_answer(Connection connection, Stream* stream) noexcept:
    """Pack the answer; it is sent when that is done."""
    cdef Call* call = stream.call
    cdef char prefix[5]
    cdef _Coding coding
    try:
        body = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(call.response.left - PREFIX))
        message_read(&call.response, prefix, PREFIX)
        message_read(&call.response, PyBytes_AS_STRING(body), call.response.left)
        future = connection.server.loop.run_in_executor(None, deflate, body)
    except BaseException:  # no memory, or no thread
        connection.refuse(stream, RESOURCE_EXHAUSTED, b"The answer cannot be compressed now.")
        return
    coding = begin(connection, stream)
    future.add_done_callback(coding.deflated)


cdef void let_go(Stream* stream) noexcept:
    """The stream, which has something with gzip, wants it no more."""
    (<_Coding>stream.coding).end()
