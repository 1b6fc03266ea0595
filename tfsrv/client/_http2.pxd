"""One connection of the client that waits: gRPC on HTTP/2, one call at a time."""

from libc.stdint cimport int64_t, uint32_t

from tfsrv.client._hpack cimport HeaderDecoder

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len


cdef class Answer:
    cdef readonly:
        int code                # gRPC's status
        str message
        bytes details           # grpc-status-details-bin, or None
        bytes response          # the message if `code` is 0, or None
        bint unprocessed        # the server says that it has not begun with it


cdef class Connection:
    cdef:
        readonly bint usable    # for another call
        int _fd                 # owned; -1 when closed
        # What has come and is not looked at yet: _in[_start:_end].
        char* _in               # owned
        size_t _start
        size_t _end
        size_t _capacity
        bytearray _out          # frames that go out before all others
        HeaderDecoder _decoder
        # Flow control: what we may send.
        int64_t _window
        int64_t _stream_window
        int64_t _initial_window
        size_t _frame_size
        int64_t _consumed       # bytes that came and were not given back to the other side
        int64_t _stream_consumed
        # The call.
        uint32_t _stream        # 0 between calls
        uint32_t _last_stream
        bint _done
        Answer _answer
        bytearray _block        # of a header block that goes on in other frames, or None
        bint _block_is_ours     # it is the call's; its fields are of no interest otherwise
        bint _block_ends        # the stream ends with it
        list _fields            # of all header blocks of the call
        int _blocks             # how many there were
        unsigned char _prefix[5]
        size_t _prefix_size
        bytes _message
        size_t _message_size
        size_t _message_filled

    cdef int _begin(self) except -1
    cdef int _queue_headers(self, bytes headers) except -1
    cdef int _send_call(self, bytes request, double end) except -1
    cdef int _send(self, bytes request, double end) except -1
    cdef int _send_parts(self, iovec* parts, int first, int count, double end) except -1
    cdef int _flush(self, double end) except -1
    cdef int _wait(self, short events, double end) except -1
    cdef int _say_goodbye(self) except -1
    cdef int _receive_if_any(self) except -1
    cdef int _receive(self) except -1
    cdef int _make_room(self) except -1
    cdef int _read_frames(self) except -1
    cdef int _read_frame(
        self, int kind, int flags, uint32_t stream, const unsigned char* at, size_t size) except -1
    cdef int _read_data(
        self, int flags, uint32_t stream, const unsigned char* at, size_t size) except -1
    cdef int _read_message(self, const unsigned char* at, size_t size) except -1
    cdef int _read_headers(
        self, int flags, uint32_t stream, const unsigned char* at, size_t size) except -1
    cdef int _end_block(self) except -1
    cdef int _read_settings(self, int flags, const unsigned char* at, size_t size) except -1
    cdef int _read_window(self, uint32_t stream, const unsigned char* at, size_t size) except -1
    cdef int _give_back(self, size_t size) except -1
    cdef int _finish(self) except -1
    cdef int _fail(self, int code, str message) except -1
    cdef int _lose(self, int code, str message) except -1
