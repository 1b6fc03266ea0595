"""One connection of the client that waits: gRPC on HTTP/2, one call at a time.

gRPC's own channels hand each call to threads of theirs and back, which takes more of a processor
than all the rest of a small Predict. Here the calling thread sends and waits itself. That is all
this is for: calls with one request and one answer, over TCP or a unix socket, without TLS. See
RFC 9113 and https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.

Thread-safety: none; a connection belongs to one call at a time. The GIL is let go while waiting
and while the kernel copies. Whatever the other side sends, it is an error of the call at worst:
the connection is not `usable` afterwards, and nothing is read beyond what came.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset, strerror

from tfsrv._buffer cimport Bytes
from tfsrv._clock cimport now_ns
from tfsrv.client._hpack cimport HeaderDecoder

from base64 import b64decode
from binascii import Error as Base64Error

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* fds, unsigned long count, int timeout_ms)
    enum:
        POLLIN
        POLLOUT

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    ssize_t recv(int fd, void* target, size_t size, int flags)
    enum:
        MSG_NOSIGNAL
        MSG_DONTWAIT

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

# Kinds of frames, and flags.
cdef enum:
    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9

    ACK = 0x1
    END_STREAM = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20

    INITIAL_WINDOW_SIZE = 4     # settings
    MAX_FRAME_SIZE = 5
    ENABLE_PUSH = 2

cdef enum:
    FRAME_HEAD = 9              # bytes
    MESSAGE_HEAD = 5            # of gRPC: a flag and a length
    SMALLEST_FRAME_SIZE = 16384
    LARGEST_FRAME_SIZE = 16777215
    OWN_FRAME_SIZE = 65536      # that we take: fewer heads, and no large buffer
    DEFAULT_WINDOW = 65535
    LARGEST_WINDOW = 0x7fffffff
    LARGEST_MESSAGE = 0x7fffffff    # of protobuf
    FIRST_CAPACITY = 16384
    LARGEST_CAPACITY = 4 * 65536
    FRAMES_AT_ONCE = 32
    LARGEST_BLOCK = 1 << 20     # bytes of a header block
    MOST_BLOCKS = 16            # of a call, those with informational statuses included
    LARGEST_QUEUE = 1 << 20     # bytes that we have to say and the server does not take
    LARGEST_STREAM = 0x7fffffff
    MOST_LOOKS = 16             # at what a server sends between calls: there should be little

# gRPC's codes.
cdef enum:
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    DEADLINE_EXCEEDED = 4
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16

cdef enum:
    ERROR_REFUSED_STREAM = 7    # of HTTP/2
    ERROR_CANCEL = 8

cdef dict CODE_OF_RESET = {7: UNAVAILABLE, 8: CANCELLED, 11: RESOURCE_EXHAUSTED,
                           12: PERMISSION_DENIED}
cdef dict CODE_OF_HTTP_STATUS = {
    b"400": INTERNAL, b"401": UNAUTHENTICATED, b"403": PERMISSION_DENIED, b"404": UNIMPLEMENTED,
    b"429": UNAVAILABLE, b"502": UNAVAILABLE, b"503": UNAVAILABLE, b"504": UNAVAILABLE,
}


cdef double now() noexcept nogil:
    return now_ns() * 1e-9


cdef inline uint32_t load_32(const unsigned char* at) noexcept nogil:
    return (<uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8
            | <uint32_t>at[3])


cdef inline void put_32(unsigned char* at, uint32_t value) noexcept nogil:
    at[0] = <unsigned char>(value >> 24)
    at[1] = <unsigned char>(value >> 16)
    at[2] = <unsigned char>(value >> 8)
    at[3] = <unsigned char>value


cdef inline void put_frame_head(
    unsigned char* at, size_t size, int kind, int flags, uint32_t stream
) noexcept nogil:
    at[0] = <unsigned char>(size >> 16)
    at[1] = <unsigned char>(size >> 8)
    at[2] = <unsigned char>size
    at[3] = <unsigned char>kind
    at[4] = <unsigned char>flags
    put_32(at + 5, stream)


cdef bytes frame_head(size_t size, int kind, int flags, uint32_t stream):
    cdef unsigned char head[FRAME_HEAD]
    put_frame_head(head, size, kind, flags, stream)
    return (<char*>head)[:FRAME_HEAD]


cdef bytes big_endian_32(uint32_t value):
    cdef unsigned char written[4]
    put_32(written, value)
    return (<char*>written)[:4]


cdef bytes setting(int name, uint32_t value):
    return bytes((0, name)) + big_endian_32(value)


cdef bytes beginning():
    """What a client says first. Pushes are not wanted; answers may come as fast as they can."""
    settings = (
        setting(ENABLE_PUSH, 0) + setting(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)
        + setting(MAX_FRAME_SIZE, OWN_FRAME_SIZE))
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame_head(<size_t>len(settings), SETTINGS, 0, 0) + settings
        + frame_head(4, WINDOW_UPDATE, 0, 0) + big_endian_32(LARGEST_WINDOW - DEFAULT_WINDOW))


cdef bytes BEGINNING = beginning()


# ---- request headers ------------------------------------------------------------------------------


def header_field(name: bytes, value: bytes) -> bytes:
    """A field in HPACK that no table remembers."""
    return b"\0" + header_text(name) + header_text(value)


cdef bytes header_text(bytes text):
    """A text of HPACK, not in Huffman code."""
    cdef size_t size = <size_t>len(text)
    cdef bytearray written = bytearray()
    if size < 127:
        written.append(size)
    else:
        written.append(127)
        size -= 127
        while size >= 128:
            written.append(size & 127 | 128)
            size >>= 7
        written.append(size)
    return bytes(written) + text


def header_block(path: bytes, authority: bytes, user_agent: bytes) -> bytes:
    """The fields that all calls of a method have: gRPC's, in the order that it wants."""
    return (
        b"\x83\x86"  # :method POST, :scheme http
        + b"\x04" + header_text(path)
        + b"\x01" + header_text(authority)
        + header_field(b"te", b"trailers")
        + b"\x0f\x10" + header_text(b"application/grpc")
        + b"\x0f\x2b" + header_text(user_agent))


# ---- the connection -------------------------------------------------------------------------------


cdef class Answer:
    """What became of a call: a status, and the response if that is 0."""


cdef class Connection:
    """Takes over a connected socket: it is detached from its object, and not blocking any more.

    After a call that failed on its way it is not usable; after an error of the server's it is.
    """

    def __cinit__(self, socket):
        self._fd = -1
        self._capacity = FIRST_CAPACITY
        self._in = <char*>malloc(self._capacity)
        if self._in == NULL:
            raise MemoryError
        socket.setblocking(False)
        self._fd = socket.detach()
        self._out = bytearray(BEGINNING)
        self._decoder = HeaderDecoder()
        self._window = DEFAULT_WINDOW
        self._initial_window = DEFAULT_WINDOW
        self._frame_size = SMALLEST_FRAME_SIZE
        self._last_stream = <uint32_t>-1  # the first call is 1
        self._answer = Answer()
        self._fields = []
        self.usable = True

    def __dealloc__(self):
        free(self._in)
        if self._fd >= 0:
            close(self._fd)

    def close(self) -> None:
        """Close the socket. Closed again, it stays closed."""
        self.usable = False
        if self._fd >= 0:
            close(self._fd)
        self._fd = -1

    def is_fresh(self) -> bool:
        """Whether another call may be sent: looks at what has come since the last one."""
        cdef int looks = 0
        while self.usable and looks < MOST_LOOKS and self._receive_if_any():
            looks += 1
            if self.usable and self._out:
                self._flush(now())
        return self.usable and looks < MOST_LOOKS

    def call(self, headers: bytes, request: bytes, end: float) -> Answer:
        """Send a request, and wait for its answer until `end` on the monotonic clock.

        `headers` is a header block. Raises nothing but what signal handlers raise, and
        MemoryError.
        """
        cdef Answer answer
        try:
            self._begin()
            self._queue_headers(headers)
            self._send_call(request, end)
            while not self._done:
                if self._wait(POLLIN, end):
                    self._receive()
                    if self._out:
                        self._flush(end)
        except BaseException:
            self.usable = False
            raise
        self._stream = 0
        self._message = None
        answer = self._answer
        self._answer = None
        return answer

    cdef int _begin(self) except -1:
        self._answer = Answer()
        self._done = False
        self._fields = []
        self._blocks = 0
        self._prefix_size = 0
        self._message = None
        self._message_filled = 0
        self._stream_consumed = 0
        self._last_stream += 2
        self._stream = self._last_stream
        self._stream_window = self._initial_window
        if self._last_stream + 2 > LARGEST_STREAM:
            self.usable = False  # after this call
        return 0

    cdef int _queue_headers(self, bytes headers) except -1:
        cdef size_t left = <size_t>len(headers)
        cdef size_t begin = 0
        cdef size_t size
        cdef int kind = HEADERS
        while left or kind == HEADERS:
            size = min(left, self._frame_size)
            left -= size
            self._out += frame_head(size, kind, 0 if left else END_HEADERS, self._stream)
            self._out += headers[begin:begin + size]
            begin += size
            kind = CONTINUATION
        return 0

    # ---- out

    cdef int _send_call(self, bytes request, double end) except -1:
        """Send what is queued and the request; ends early when the answer has come."""
        cdef unsigned char prefix[MESSAGE_HEAD]
        cdef size_t size = <size_t>len(request)
        cdef size_t room = <size_t>max(0, min(self._window, self._stream_window))
        prefix[0] = 0
        put_32(prefix + 1, <uint32_t>size)
        if size + MESSAGE_HEAD <= min(room, self._frame_size):  # one frame for all of it
            self._out += frame_head(size + MESSAGE_HEAD, DATA, END_STREAM, self._stream)
            self._out += (<char*>prefix)[:MESSAGE_HEAD]
            self._out += request
            self._window -= size + MESSAGE_HEAD
            return self._flush(end)
        while not self._done and min(self._window, self._stream_window) < MESSAGE_HEAD:
            self._flush(end)
            if not self._done and self._wait(POLLIN, end):
                self._receive()
        if self._done:
            return 0
        self._out += frame_head(MESSAGE_HEAD, DATA, 0 if size else END_STREAM, self._stream)
        self._out += (<char*>prefix)[:MESSAGE_HEAD]
        self._window -= MESSAGE_HEAD
        self._stream_window -= MESSAGE_HEAD
        return self._send(request, end)

    cdef int _send(self, bytes request, double end) except -1:
        """Send a request in many frames, as the other side lets us."""
        cdef unsigned char heads[FRAMES_AT_ONCE * FRAME_HEAD]
        cdef iovec parts[2 * FRAMES_AT_ONCE]
        cdef char* data = PyBytes_AS_STRING(request)
        cdef size_t size = <size_t>len(request)
        cdef size_t sent = 0
        cdef size_t part, frames
        cdef int first = 0
        cdef int count = 0
        self._flush(end)
        while sent < size and not self._done:
            frames = 0
            while sent < size and frames < FRAMES_AT_ONCE:
                part = <size_t>max(0, min(self._window, self._stream_window))
                part = min(part, self._frame_size, size - sent)
                if part == 0:
                    break
                put_frame_head(
                    &heads[frames * FRAME_HEAD], part, DATA,
                    END_STREAM if sent + part == size else 0, self._stream)
                parts[2 * frames].iov_base = &heads[frames * FRAME_HEAD]
                parts[2 * frames].iov_len = FRAME_HEAD
                parts[2 * frames + 1].iov_base = data + sent
                parts[2 * frames + 1].iov_len = part
                sent += part
                self._window -= part
                self._stream_window -= part
                frames += 1
            first = 0
            count = <int>(2 * frames)
            while first < count and not self._done:
                first = self._send_parts(parts, first, count, end)
            if sent < size and not self._done and frames < FRAMES_AT_ONCE:
                if self._wait(POLLIN, end):
                    self._receive()
            if self._out and not self._done:
                self._flush(end)
        if sent < size or first < count:
            self.usable = False  # in the middle of a request that nobody wants any more
        return 0

    cdef int _send_parts(self, iovec* parts, int first, int count, double end) except -1:
        """Send some of it. The first part that is left, from its beginning."""
        cdef msghdr message
        cdef ssize_t sent
        cdef size_t rest
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts + first
        message.msg_iovlen = <size_t>(count - first)
        with nogil:
            sent = sendmsg(self._fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent < 0:
            if errno == EAGAIN:
                if self._wait(POLLIN | POLLOUT, end):
                    self._receive_if_any()
            elif errno != EINTR:
                self._lose(UNAVAILABLE, f"the connection is lost: {strerror(errno).decode()}")
            PyErr_CheckSignals()
            return first
        rest = <size_t>sent
        while first < count and rest >= parts[first].iov_len:
            rest -= parts[first].iov_len
            first += 1
        if rest:
            parts[first].iov_base = <char*>parts[first].iov_base + rest
            parts[first].iov_len -= rest
        return first

    cdef int _flush(self, double end) except -1:
        """Send what is queued."""
        cdef bytearray out = self._out
        cdef iovec part
        cdef int sent = 0
        self._out = bytearray()
        part.iov_base = PyByteArray_AS_STRING(out)
        part.iov_len = <size_t>len(out)
        while sent == 0 and part.iov_len and self._fd >= 0:
            sent = self._send_parts(&part, 0, 1, end)
            if self._done and sent == 0:
                self.usable = False  # a frame may be cut off
                break
        return 0

    # ---- in

    cdef int _wait(self, short events, double end) except -1:
        """Wait for the socket. 0 when the call has failed meanwhile."""
        cdef pollfd waiting
        cdef double left
        cdef int found
        cdef int milliseconds
        waiting.fd = self._fd
        waiting.events = events
        while True:
            left = end - now()
            if left <= 0:
                self._out += frame_head(4, RST_STREAM, 0, self._stream)
                self._out += big_endian_32(ERROR_CANCEL)
                self._lose(DEADLINE_EXCEEDED, "Deadline Exceeded")
                self._say_goodbye()
                return 0
            milliseconds = <int>min(left * 1000 + 1, 3600e3)
            with nogil:
                found = poll(&waiting, 1, milliseconds)
            if found > 0:
                return 1
            PyErr_CheckSignals()

    cdef int _say_goodbye(self) except -1:
        """Send what is queued if that takes no waiting."""
        cdef iovec part
        cdef msghdr message
        memset(&message, 0, sizeof(message))
        part.iov_base = PyByteArray_AS_STRING(self._out)
        part.iov_len = <size_t>len(self._out)
        message.msg_iov = &part
        message.msg_iovlen = 1
        sendmsg(self._fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
        return 0

    cdef int _receive_if_any(self) except -1:
        """1 if there was something."""
        cdef pollfd waiting
        waiting.fd = self._fd
        waiting.events = POLLIN
        waiting.revents = 0
        if poll(&waiting, 1, 0) <= 0:
            return 0
        self._receive()
        return 1

    cdef int _receive(self) except -1:
        """Take what has come, and read the frames that are whole."""
        cdef ssize_t received
        cdef char* target
        cdef size_t room
        self._make_room()
        target = self._in + self._end
        room = self._capacity - self._end
        with nogil:
            received = recv(self._fd, target, room, MSG_DONTWAIT)
        if received == 0:
            return self._lose(UNAVAILABLE, "the server has closed the connection")
        if received < 0:
            if errno != EAGAIN and errno != EINTR:
                self._lose(UNAVAILABLE, f"the connection is lost: {strerror(errno).decode()}")
            return 0
        self._end += <size_t>received
        self._read_frames()
        if len(self._out) > LARGEST_QUEUE:
            self._lose(INTERNAL, "the server wants acknowledgements that it does not take")
        return 0

    cdef int _make_room(self) except -1:
        """Room for the rest of a frame at least; more when there was not enough the last time."""
        cdef size_t wanted = self._capacity
        cdef void* grown
        if self._start == self._end:
            self._start = 0
            self._end = 0
        elif self._start:
            memmove(self._in, self._in + self._start, self._end - self._start)
            self._end -= self._start
            self._start = 0
        if self._end > self._capacity // 2 and self._capacity < LARGEST_CAPACITY:
            wanted = min(<size_t>LARGEST_CAPACITY, 4 * self._capacity)
        if wanted != self._capacity:
            grown = realloc(self._in, wanted)
            if grown == NULL:
                raise MemoryError
            self._in = <char*>grown
            self._capacity = wanted
        return 0

    cdef int _read_frames(self) except -1:
        cdef const unsigned char* at
        cdef size_t size
        while self._end - self._start >= FRAME_HEAD and self._fd >= 0:
            at = <const unsigned char*>self._in + self._start
            size = <size_t>at[0] << 16 | <size_t>at[1] << 8 | at[2]
            if size > OWN_FRAME_SIZE:
                if memcmp(at, b"HTTP/1.", 7) == 0:
                    return self._lose(INTERNAL, "the server answers in HTTP/1, not gRPC: a REST port?")
                return self._lose(INTERNAL, "the server has sent a frame that is too long")
            if self._end - self._start < FRAME_HEAD + size:
                return 0
            self._start += FRAME_HEAD + size
            self._read_frame(at[3], at[4], load_32(at + 5) & LARGEST_STREAM, at + FRAME_HEAD, size)
        return 0

    cdef int _read_frame(
        self, int kind, int flags, uint32_t stream, const unsigned char* at, size_t size
    ) except -1:
        if self._block is not None and kind != CONTINUATION:
            return self._lose(INTERNAL, "the server has sent half a header block")
        if kind == DATA:
            return self._read_data(flags, stream, at, size)
        if kind == HEADERS or kind == CONTINUATION:
            if kind == CONTINUATION and self._block is None:
                return self._lose(INTERNAL, "the server has sent half a header block")
            if kind == CONTINUATION:
                flags &= END_HEADERS  # it has no other
            return self._read_headers(flags, stream, at, size)
        if kind == SETTINGS:
            return self._read_settings(flags, at, size)
        if kind == WINDOW_UPDATE:
            return self._read_window(stream, at, size)
        if kind == PING:
            if size == 8 and not flags & ACK:
                self._out += frame_head(8, PING, ACK, 0)
                self._out += (<const char*>at)[:8]
            return 0
        if kind == RST_STREAM:
            if stream == self._stream and stream and size == 4 and not self._done:
                self._answer.unprocessed = load_32(at) == ERROR_REFUSED_STREAM
                self._fail(
                    CODE_OF_RESET.get(load_32(at), INTERNAL),
                    f"the server has reset the call: HTTP/2 error {load_32(at)}")
            return 0
        if kind == GOAWAY:
            self.usable = False
            if size >= 8 and self._stream > (load_32(at) & LARGEST_STREAM) and not self._done:
                self._answer.unprocessed = True
                self._fail(UNAVAILABLE, "the server takes no more calls on this connection")
            return 0
        if kind == PUSH_PROMISE:
            return self._lose(INTERNAL, "the server has pushed something")
        return 0  # what a later HTTP/2 may have

    cdef int _read_data(
        self, int flags, uint32_t stream, const unsigned char* at, size_t size
    ) except -1:
        cdef size_t padding = 0
        cdef size_t whole = size
        if flags & PADDED:
            if size == 0 or at[0] >= size:
                return self._lose(INTERNAL, "the server has sent padding that is too long")
            padding = 1 + <size_t>at[0]
            at += 1
        if stream == self._stream and stream and not self._done:
            self._read_message(at, size - padding)
            if flags & END_STREAM and not self._done:
                self._finish()
        return self._give_back(whole)

    cdef int _read_message(self, const unsigned char* at, size_t size) except -1:
        """Some bytes of gRPC's message with its prefix."""
        cdef size_t part
        while size and self._prefix_size < MESSAGE_HEAD:
            self._prefix[self._prefix_size] = at[0]
            self._prefix_size += 1
            at += 1
            size -= 1
            if self._prefix_size == MESSAGE_HEAD:
                if self._prefix[0]:
                    return self._fail(INTERNAL, "the server has sent a compressed response")
                self._message_size = load_32(self._prefix + 1)
                if self._message_size > LARGEST_MESSAGE:
                    return self._fail(
                        RESOURCE_EXHAUSTED,
                        f"the server wants to send a response of {self._message_size} bytes")
                self._message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>self._message_size)
        if size == 0:
            return 0
        part = self._message_size - self._message_filled
        if size > part:
            return self._fail(INTERNAL, "the server has sent more than one response")
        memcpy(PyBytes_AS_STRING(self._message) + self._message_filled, at, size)
        self._message_filled += size
        return 0

    cdef int _read_headers(
        self, int flags, uint32_t stream, const unsigned char* at, size_t size
    ) except -1:
        cdef size_t head = 0
        cdef size_t padding = 0
        if flags & PADDED:
            head = 1
            padding = at[0] if size else 0
        if flags & PRIORITY:
            head += 5
        if head + padding > size:
            return self._lose(INTERNAL, "the server has sent padding that is too long")
        if self._block is None:
            self._block = bytearray()
            self._block_is_ours = stream == self._stream and stream and not self._done
            self._block_ends = flags & END_STREAM
        self._block += (<const char*>at)[head:size - padding]
        if len(self._block) > LARGEST_BLOCK:
            return self._lose(INTERNAL, "the server has sent a header block that is too long")
        return self._end_block() if flags & END_HEADERS else 0

    cdef int _end_block(self) except -1:
        cdef bytes block = bytes(self._block)
        cdef list fields
        self._block = None
        try:
            fields = self._decoder.decode_block(
                Bytes(PyBytes_AS_STRING(block), <size_t>PyBytes_GET_SIZE(block)))
        except ValueError as error:
            return self._lose(INTERNAL, f"the server has sent bad headers: {error}")
        if self._done or not self._block_is_ours:
            return 0
        self._blocks += 1
        if self._blocks > MOST_BLOCKS:
            return self._lose(INTERNAL, "the server has sent too many headers")
        self._fields += fields
        return self._finish() if self._block_ends else 0

    cdef int _read_settings(self, int flags, const unsigned char* at, size_t size) except -1:
        cdef size_t i
        cdef uint32_t value
        if flags & ACK:
            return 0
        for i in range(0, size // 6 * 6, 6):
            value = load_32(at + i + 2)
            if at[i] == 0 and at[i + 1] == INITIAL_WINDOW_SIZE:
                if value > LARGEST_WINDOW:
                    return self._lose(INTERNAL, "the server has set a window that is too large")
                self._stream_window += <int64_t>value - self._initial_window
                self._initial_window = value
            elif at[i] == 0 and at[i + 1] == MAX_FRAME_SIZE:
                if not SMALLEST_FRAME_SIZE <= value <= LARGEST_FRAME_SIZE:
                    return self._lose(INTERNAL, "the server has set a frame size that is none")
                self._frame_size = value
        self._out += frame_head(0, SETTINGS, ACK, 0)
        return 0

    cdef int _read_window(self, uint32_t stream, const unsigned char* at, size_t size) except -1:
        cdef int64_t more
        if size != 4:
            return self._lose(INTERNAL, "the server has sent a window that is none")
        more = load_32(at) & LARGEST_WINDOW
        if stream == 0:
            self._window += more
        elif stream == self._stream:
            self._stream_window += more
        if self._window > LARGEST_WINDOW or self._stream_window > LARGEST_WINDOW:
            return self._lose(INTERNAL, "the server has set a window that is too large")
        return 0

    cdef int _give_back(self, size_t size) except -1:
        """Let the other side send as much again, when it is half of what it may."""
        self._consumed += <int64_t>size
        self._stream_consumed += <int64_t>size
        if self._consumed > LARGEST_WINDOW // 2:
            self._out += frame_head(4, WINDOW_UPDATE, 0, 0)
            self._out += big_endian_32(<uint32_t>self._consumed)
            self._consumed = 0
        if self._stream_consumed > LARGEST_WINDOW // 2 and not self._done and self._stream:
            self._out += frame_head(4, WINDOW_UPDATE, 0, self._stream)
            self._out += big_endian_32(<uint32_t>self._stream_consumed)
            self._stream_consumed = 0
        return 0

    # ---- what it came to

    cdef int _finish(self) except -1:
        """The stream has ended: tell from its headers what the call came to."""
        cdef dict fields = dict(self._fields)
        cdef Answer answer = self._answer
        cdef bytes status = fields.get(b"grpc-status")
        cdef bytes http_status = fields.get(b":status", b"")
        if status is None:
            return self._fail(
                CODE_OF_HTTP_STATUS.get(http_status, UNKNOWN),
                f"the server answers without gRPC's status, HTTP {http_status.decode('latin-1')}")
        if status != b"0":
            message = fields.get(b"grpc-message", b"")
            self._fail(status_code(status), decoded_message(message))
            answer.details = decoded_details(fields.get(b"grpc-status-details-bin"))
            return 0
        if self._message is None or self._message_filled < self._message_size:
            return self._fail(INTERNAL, "the server has sent no whole response")
        answer.code = OK
        answer.message = ""
        answer.response = self._message
        self._done = True
        return 0

    cdef int _fail(self, int code, str message) except -1:
        """End the call, unless there is none."""
        if not self._done and self._answer is not None:
            self._done = True
            self._answer.code = code
            self._answer.message = message
        return 0

    cdef int _lose(self, int code, str message) except -1:
        """End the call and the connection."""
        self.usable = False
        self._start = self._end
        return self._fail(code, message)


cdef int status_code(bytes status) except -1:
    return int(status) if status.isdigit() and len(status) < 3 and int(status) <= 16 else UNKNOWN


cdef str decoded_message(bytes message):
    """gRPC's percent encoding of UTF-8. What is no UTF-8 is read as Latin-1, as gRPC does."""
    if b"%" in message:
        from urllib.parse import unquote_to_bytes

        message = unquote_to_bytes(message)
    try:
        return message.decode()
    except UnicodeDecodeError:
        return message.decode("latin-1")


cdef bytes decoded_details(bytes details):
    """A binary header; None if it is not valid."""
    if details is None:
        return None
    try:
        return b64decode(details + b"=" * ((4 - len(details) % 4) % 4))
    except (Base64Error, ValueError):
        return None
