"""One HTTP/1.1 connection: requests in, answers out, one after the other, and how it ends.

What happens to a request is read from top to bottom: take_head, begin_request, take_body, end_body,
dispatch; then begin_answer and send_on, or refuse; at last end_request. `advance` goes through
these stages as far as the input and the client's reading allow. While a request is answered, what
comes behind it waits, and reading stops when that is much.

The transport's write limit is zero, so writing is paused exactly while it holds bytes of ours. As
long as it holds none, we send by ourselves, which saves most of what a small write costs.
"""

import asyncio
import logging

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memmove, memset, strlen

from tfsrv._budget cimport budget_give, budget_take
from tfsrv._buffer cimport Bytes, buffer_append, buffer_free, buffer_reserve
from tfsrv._call cimport Call, call_charge, call_free, call_new, call_take_spare
from tfsrv._call_loop cimport call_abandon, call_dispatch
from tfsrv._clock cimport now_ns
from tfsrv._message cimport message_clear, message_pieces, message_read, message_seal, message_skip, message_splice
from tfsrv._rest_call cimport FORM_JSON
from tfsrv._status cimport OK
from tfsrv.frontends._http1 cimport INPUT_BYTES, OUTPUT_BYTES, Http1Server
from tfsrv.frontends._http1_answer cimport ANSWER_HEAD_BYTES, AnswerHead, answer_head, error_json, http_status
from tfsrv.frontends._http1_chunks cimport CHUNK_DATA, CHUNK_END, CHUNK_MORE, chunks_read
from tfsrv.frontends._http1_head cimport (
    BAD_REQUEST_LINE,
    FAULT,
    LATE_ANSWER,
    LONG_BODY,
    MEMORY_IS_SHORT,
    NO_MEMORY,
    NO_ORIGIN,
    NO_PROBLEM,
    SLOW_BODY,
    SLOW_HEAD,
    STALLED_BODY,
    VERB_HEAD,
    VERB_OPTIONS,
    HttpHead,
    http_head_end,
    http_head_parse,
    problem_status,
    problem_text,
)
from tfsrv.frontends._http1_text cimport same_word

from tfsrv.frontends._http1_answer import date_line, status_line
from tfsrv.frontends.http_answering import Answered, Asked, has_no_body
from tfsrv.frontends.peers import is_local

cdef extern from "Python.h":
    int PyBUF_WRITE

cdef extern from "<poll.h>":
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* files, unsigned long size, int milliseconds)
    int POLLERR
    int POLLHUP

cdef extern from "<sys/ioctl.h>":
    int ioctl(int file, unsigned long request, int* size)

cdef extern from "<linux/sockios.h>":
    unsigned long SIOCOUTQ

cdef extern from "<sys/socket.h>":
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t sendmsg(int file, const msghdr* message, int flags)
    ssize_t send(int file, const void* data, size_t size, int flags)
    int MSG_NOSIGNAL
    int MSG_DONTWAIT

cdef enum:
    PIECES = 16                 # of an answer that leave by one system call
    PROGRESS_BYTES = 4096       # what moves less between two looks does not move
    BLANK_LINES = 8             # that may stand before a request line (RFC 9112, 2.2)
    DIRECT_BYTES = 16384        # a body with so much to come is read straight into its call
    PENDING_BYTES = 65536       # input that may wait behind a request before reading stops
    KEPT_PENDING_BYTES = 1024   # of an empty buffer
    AHEAD_BYTES = 1 << 24       # reserved for a body on the strength of its Content-Length
    TURN_REQUESTS = 64          # of a pipeline that are answered in a turn of the loop
    TURN_BYTES = 1 << 17        # of a long answer that one connection sends in a turn of the loop
    HANDED_BYTES = 1 << 17      # of it that the transport gets when the socket is full

cdef char* CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
cdef char* PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"

_logger = logging.getLogger("tfsrv")


cdef void call_done(void* owner, Call* call) noexcept:
    """A call of ours has its answer, or (NULL) its deadline has passed."""
    cdef HttpConnection connection = <HttpConnection>owner
    connection.call = call
    connection.stage = READY
    if call == NULL:
        connection.problem = LATE_ANSWER
    connection.touch()


cdef void release_object(void* holder) noexcept nogil:
    with gil:
        Py_DECREF(<object>holder)  # the message's reference


cdef class HttpConnection:
    """One HTTP/1.1 connection; an asyncio BufferedProtocol by its methods.

    Ownership: the call, but while it is RUNNING, when the loop may end it; the input that waits.
    Everything happens in the loop's thread.
    """

    def __cinit__(self, server: Http1Server) -> None:
        self.server = server
        self.file = -1

    # What uvloop calls.

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin: wait for a request."""
        cdef Http1Server server = self.server
        self.transport = transport
        self.received_ns = self.since_ns = now_ns()
        self.following = server.connections
        if server.connections != NULL:
            (<HttpConnection>server.connections).preceding = <void*>self
        # uvloop keeps a transport, and with it us, only while it reads or writes.
        Py_INCREF(self)  # the list's reference
        server.connections = <void*>self
        server.connections_size += 1
        server.idle.clear()
        self.local = is_local(transport)
        transport.set_write_buffer_limits(high=0)
        if transport.get_extra_info("sslcontext") is None:
            self.file = transport.get_extra_info("socket").fileno()
        if server.dropping:
            self.abort()

    def get_buffer(self, size_hint: int) -> memoryview:
        """Where to read into: the buffer that all connections share, or a long body's own."""
        cdef size_t room
        self.direct = False
        if self.stage == BODY and not self.chunked and self.left >= DIRECT_BYTES and self.pending.size == 0:
            room = INPUT_BYTES if self.left > INPUT_BYTES else <size_t>self.left
            if self.reserve(room):
                self.direct = True
                return PyMemoryView_FromMemory(
                    self.call.request.data + self.call.request.size, <Py_ssize_t>room, PyBUF_WRITE)
        return self.server.input_view

    def buffer_updated(self, size: int) -> None:
        """Bytes came: handle what they complete, write what that answers."""
        cdef Http1Server server = self.server
        cdef bint direct = self.direct
        self.direct = False
        if self.closing:
            return
        self.received_ns = now_ns()
        server.calls.state.event_ns = self.received_ns
        if size == INPUT_BYTES:
            # There is more, and libuv would read on until there is none: others have a turn first.
            self.resting = True
            self.go_on_later()
        if direct:
            self.in_event = True
            self.take_direct(<size_t>size)
            self.advance(Bytes(NULL, 0))
        else:
            self.advance(Bytes(server.input, <size_t>size))
        server.calls.state.event_ns = 0
        flush_dirty(<void*>server)  # other connections' requests may have been refused for this one

    def eof_received(self) -> bool:
        """The client sends no more. It may still want its answer; or it is gone altogether."""
        self.at_end = True
        if self.closing or self.stage == LINGERING:
            return False
        if (self.stage == HEAD or self.stage == BODY) and not self.writing_paused:
            self.closing = True  # nothing is asked, or nothing that will ever be whole
            return False
        if self.stage == RUNNING:
            self.probe()
        return True

    def _look(self) -> None:
        if self.stage == RUNNING and not self.closing and self.is_gone():
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: give up what was asked."""
        cdef Http1Server server = self.server
        self.closing = True
        self.file = -1
        self.drop_request()
        self.clear_pending()
        if self.preceding != NULL:
            (<HttpConnection>self.preceding).following = self.following
        else:
            server.connections = self.following
        if self.following != NULL:
            (<HttpConnection>self.following).preceding = self.preceding
        self.preceding = self.following = NULL
        server.connections_size -= 1
        if server.connections_size == 0:
            server.idle.set()
        self.transport = None
        Py_DECREF(self)  # the list's reference

    def pause_writing(self) -> None:
        """The socket is full: leave the answers where they are."""
        self.writing_paused = True
        self.sent_ns = now_ns()

    def resume_writing(self) -> None:
        """The transport has sent all it had."""
        self.writing_paused = False
        self.sent_ns = now_ns()
        if not self.in_event:
            self.advance(Bytes(NULL, 0))

    # From stage to stage.

    cdef void advance(self, Bytes fresh) noexcept:
        """Go as far as it goes with the input that waits and `fresh` behind it."""
        cdef Bytes rest = fresh
        cdef bint is_pending = self.pending.size > 0
        self.in_event = True
        if is_pending:
            if not self.add_pending(fresh):
                self.abort()
            rest = Bytes(self.pending.data + self.taken, self.pending.size - self.taken)
            if fresh.size == 0:
                self.received_ns = now_ns()  # for a request that has waited, time begins now
        self.answered = 0
        while not self.closing and self.step(&rest):
            if self.answered >= TURN_REQUESTS and rest.size:
                self.go_on_later()
                break
        self.write_out()
        self.keep(rest, is_pending)
        self.in_event = False
        self.pace()

    cdef bint step(self, Bytes* rest) noexcept:
        """One step; False when there is none to take now."""
        if self.stage == LINGERING:
            rest.size = 0
            return False
        if self.writing_paused:  # who does not read answers gets none
            return False
        if self.stage == READY:
            self.begin_answer()
            return True
        if self.stage == SENDING:
            return self.send_on()
        if self.stage == HEAD:
            return rest.size > 0 and self.take_head(rest)
        if self.stage == BODY:
            return rest.size > 0 and self.take_body(rest)
        return False

    # Requests.

    cdef bint take_head(self, Bytes* rest) noexcept:
        """Read a head, if it is whole."""
        cdef HttpHead head
        cdef size_t end = 0
        cdef int problem
        while self.scanned == 0 and rest.size >= 2 and rest.data[0] == c"\r" and rest.data[1] == c"\n":
            rest[0] = Bytes(rest.data + 2, rest.size - 2)
            self.blank_lines += 1
        if self.blank_lines > BLANK_LINES:
            self.refuse(BAD_REQUEST_LINE)
            return True
        if rest.size == 0 or (rest.size == 1 and rest.data[0] == c"\r"):
            return False
        if self.scanned == 0:
            self.since_ns = self.received_ns
        problem = http_head_end(rest.data, rest.size, &self.scanned, &end)
        if problem == NO_PROBLEM and end == 0:
            return False
        if problem == NO_PROBLEM:
            problem = http_head_parse(rest.data, end, &head)
        if problem != NO_PROBLEM:
            self.refuse(problem)
            return True
        self.scanned = 0
        self.blank_lines = 0
        rest[0] = Bytes(rest.data + end, rest.size - end)
        self.begin_request(&head, rest.size > 0)
        return True

    cdef void begin_request(self, const HttpHead* head, bint has_more) noexcept:
        """The head is whole: find who answers, refuse at once what nobody will, and go on to the body."""
        self.was_asked = True
        self.old = head.old
        self.head_only = head.verb == VERB_HEAD
        self.keep_alive = head.keep_alive
        self.call = call_new(&self.server.calls.state)
        if self.call == NULL:
            self.abort()
            return
        self.call.received_ns = self.received_ns
        self.call.low_priority = head.low_priority
        if head.has_length and <size_t>head.length > self.server.max_body_bytes:
            self.refuse(LONG_BODY)
            return
        if head.verb == VERB_OPTIONS:
            self.prepare_preflight(head)
            if self.stage == READY:
                return
            if not is_site(head.origin) and not (head.path.size == 1 and head.path.data[0] == c"*"):
                self.problem = NO_ORIGIN
        else:
            self.find_method(head)
            if self.stage == READY:
                return
        self.body_at = self.call.request.size
        self.chunked = head.chunked
        self.left = head.length
        self.new_bytes = 0
        self.since_ns = self.received_ns
        self.stage = BODY
        if head.chunked:
            memset(&self.chunks, 0, sizeof(self.chunks))
        elif head.length == 0:
            self.end_body()
            return
        if head.expects_continue and not has_more:
            self.say(Bytes(CONTINUE, strlen(CONTINUE)))

    cdef void prepare_preflight(self, const HttpHead* head) noexcept:
        """OPTIONS: what the path takes (RFC 9110, 9.3.7), and what pages of other sites may ask."""
        try:
            allow = self.server.routes.allow(head)
            self.options = b"Allow: %s\r\n%s" % (allow, self.server.extra_text)
            self.preflight = True
        except BaseException:
            _logger.exception("a request cannot be routed")
            self.refuse(FAULT)

    cdef void find_method(self, const HttpHead* head) noexcept:
        """A native method, or what Python is asked."""
        cdef Call* call = self.call
        try:
            self.method = self.server.routes.find(head, call)
            if self.method is not None:
                call.rest.gzipped = head.gzipped
                call.rest.accepts_gzip = head.accepts_gzip
                self.pretty = call.rest.pretty
                return
            call.request.size = 0
            memset(&call.rest, 0, sizeof(call.rest))
            self.asked = Asked(
                head.method.data[:head.method.size].decode("latin-1"),
                head.path.data[:head.path.size].decode("latin-1"),
                head.query.data[:head.query.size].decode("latin-1") if head.query.size else "",
                head.fields.data[:head.fields.size],
                head.gzipped,
                head.accepts_gzip,
                self.local,
            )
        except BaseException:
            _logger.exception("a request cannot be routed")
            self.refuse(FAULT)

    cdef bint take_body(self, Bytes* rest) noexcept:
        """Take bytes of the body."""
        cdef Bytes piece
        if self.chunked:
            return self.take_chunks(rest)
        piece = Bytes(rest.data, rest.size if <int64_t>rest.size < self.left else <size_t>self.left)
        rest[0] = Bytes(rest.data + piece.size, rest.size - piece.size)
        if self.collect(piece):
            self.left -= <int64_t>piece.size
            if self.left == 0:
                self.end_body()
        return True

    cdef bint take_chunks(self, Bytes* rest) noexcept:
        cdef Bytes piece
        cdef int step
        while True:
            step = chunks_read(&self.chunks, rest, &piece)
            if step == CHUNK_DATA:
                if not self.collect(piece):
                    return True
            elif step == CHUNK_MORE:
                return False
            elif step == CHUNK_END:
                self.end_body()
                return True
            else:
                self.refuse(self.chunks.problem)
                return True

    cdef void take_direct(self, size_t size) noexcept:
        """Bytes of the body were read to where they belong."""
        if not self.charge(size):
            return
        self.call.request.size += size
        self.left -= <int64_t>size
        if self.left == 0:
            self.end_body()

    cdef bint collect(self, Bytes piece) noexcept:
        """Append to the call's request; False when that refused it."""
        if piece.size > self.server.max_body_bytes - (self.call.request.size - self.body_at):
            self.refuse(LONG_BODY)
            return False
        if not self.charge(piece.size):
            return False
        if not self.reserve(piece.size):
            self.refuse(NO_MEMORY)
            return False
        buffer_append(&self.call.request, piece.data, piece.size)
        return True

    cdef bint charge(self, size_t size) noexcept:
        """Count bytes of the body, against the connection's share and everybody's; False: refused."""
        self.new_bytes += size
        if self.new_bytes >= PROGRESS_BYTES:
            self.new_bytes = 0
            self.since_ns = self.received_ns
        if self.call.charged_bytes + <int64_t>size <= self.server.connection_share:
            if call_charge(self.call, <int64_t>size):
                return True
            if self.server.relieve(self) and call_charge(self.call, <int64_t>size):
                return True
        self.refuse(MEMORY_IS_SHORT)
        return False

    cdef bint reserve(self, size_t size) noexcept:
        """Have room for `size` bytes more of the body; False without memory."""
        cdef Call* call = self.call
        cdef size_t room
        if call.request.capacity - call.request.size >= size:
            return True
        # Grow with what came: by as much as there is, at first by what is announced up to 16 MiB, so
        # that bodies up to there are not copied while they grow. Pages that nobody writes cost nothing.
        room = max(size, call.request.size)
        if not self.chunked:
            room = max(size, min(<size_t>self.left, max(room, <size_t>AHEAD_BYTES)))
        call_take_spare(call, call.request.size + room)
        return buffer_reserve(&call.request, room) == 0

    cdef void end_body(self) noexcept:
        """The request is whole."""
        if self.preflight:
            self.stage = READY
        elif self.method is not None:
            self.dispatch()
        else:
            self.ask_python()

    cdef void dispatch(self) noexcept:
        cdef Call* call = self.call
        self.stage = RUNNING
        call.owner = <void*>self
        call.done = call_done
        call.local = self.local
        call.body = Bytes(call.request.data + self.body_at, call.request.size - self.body_at)
        if self.server.timeout_ns:
            call.deadline_ns = self.received_ns + self.server.timeout_ns
        call_dispatch(call, self.method)

    cdef void ask_python(self) noexcept:
        self.stage = RUNNING
        try:
            body = None
            if self.call.request.size <= self.server.max_handled_bytes:
                body = PyBytes_FromStringAndSize(self.call.request.data, <Py_ssize_t>self.call.request.size)
            buffer_free(&self.call.request)
            self.task = self.server.loop.create_task(self.server.answering.answer(self.asked, body))
            self.task.add_done_callback(self._answered)
        except BaseException:
            self.refuse(NO_MEMORY)

    # Answers.

    cdef void refuse(self, int problem) noexcept:
        """Answer with what is wrong, and close: where the next request would begin is not known."""
        self.stage = BODY  # nobody else has the call
        self.drop_request()
        self.problem = problem
        self.keep_alive = False
        self.stage = READY

    def _answered(self, task: asyncio.Task[Answered]) -> None:
        """The handler's task is done."""
        if task is not self.task or self.closing:
            return
        self.task = None
        try:
            self.render(task.result())
        except BaseException:
            self.refuse(FAULT)
        self.stage = READY
        self.advance(Bytes(NULL, 0))

    cdef void render(self, object answered) except *:
        """Make the call's response of an answer from Python, with its head."""
        cdef Call* call = self.call
        cdef bytes fields = answered.fields
        cdef bytes body = answered.body
        cdef bytes extra = self.server.extra_text
        self.keep_alive = self.keep_alive and not self.server.draining
        fields = status_line(answered.status) + fields + date_line() + extra
        if not has_no_body(answered.status):
            fields += b"Content-Length: %d\r\n" % len(body)
        if not self.keep_alive:
            fields += b"Connection: close\r\n"
        elif self.old:
            fields += b"Connection: keep-alive\r\n"
        fields += b"\r\n"
        if buffer_append(&call.response.head, PyBytes_AS_STRING(fields), <size_t>len(fields)) != 0:
            raise MemoryError
        if body and not self.head_only:
            if message_splice(
                &call.response, PyBytes_AS_STRING(body), <size_t>len(body), <void*>body, release_object
            ) != 0:
                raise MemoryError
            Py_INCREF(body)  # the message's reference
        message_seal(&call.response)
        self.rendered = True

    cdef void begin_answer(self) noexcept:
        """Write the answer's head, and a short body with it."""
        cdef AnswerHead head
        cdef Call* call
        cdef size_t extra = <size_t>len(self.options) if self.preflight else self.server.extra.size
        if OUTPUT_BYTES - self.filled < ANSWER_HEAD_BYTES + extra:
            self.write_out()
            if self.writing_paused:
                return
        if not self.prepare(&head):
            self.abort()
            return
        call = self.call
        if not self.rendered:
            self.filled += answer_head(self.server.output + self.filled, &head, &self.server.clock)
            if self.head_only:
                self.end_request()
                return
        if call.response.left <= OUTPUT_BYTES - self.filled:
            self.filled += message_read(
                &call.response, self.server.output + self.filled, OUTPUT_BYTES - self.filled)
            self.end_request()
            return
        self.stage = SENDING
        self.sent_ns = now_ns()

    cdef bint prepare(self, AnswerHead* head) noexcept:
        """Have the answer's body in the call's response, and say what its head is; False without memory."""
        cdef Call* call = self.call
        cdef const char* text
        cdef int failed = 0
        if self.rendered:
            return True
        if call == NULL:
            call = self.call = call_new(&self.server.calls.state)
            if call == NULL:
                return False
        head.form = FORM_JSON
        head.gzipped = False
        head.extra = self.server.extra
        if self.preflight:
            head.extra = Bytes(<const char*>self.options, <size_t>len(self.options))
        if self.problem != NO_PROBLEM:
            head.status = problem_status(self.problem)
            text = problem_text(self.problem)
            message_clear(&call.response)
            failed = error_json(Bytes(text, strlen(text)), self.pretty, &call.response.head)
            message_seal(&call.response)
        elif self.preflight:
            head.status = 200
            head.form = -1
        elif call.status.code != OK:
            head.status = http_status(call.status.code)
            message_clear(&call.response)
            failed = error_json(
                Bytes(call.status.message.data, call.status.message.size), self.pretty, &call.response.head)
            message_seal(&call.response)
        else:
            head.status = 200
            head.form = call.rest.answer_form
            head.gzipped = call.rest.sends_gzip
        self.keep_alive = self.keep_alive and not self.server.draining
        head.keep_alive = self.keep_alive
        head.old = self.old
        head.length = call.response.left
        return failed == 0

    cdef bint send_on(self) noexcept:
        """Send more of a long answer; False when that is all for now."""
        if not self.send_pieces():
            return False
        self.end_request()
        return True

    cdef bint send_pieces(self) noexcept:
        """Send the output and the response from where they lie; False if there is more to send later."""
        cdef Bytes[PIECES] pieces
        cdef int count
        cdef size_t asked, turn = TURN_BYTES, from_output
        cdef ssize_t sent
        while self.filled or self.call.response.left:
            if turn == 0:
                self.go_on_later()
                return False
            count = 0
            from_output = self.filled
            if self.filled:
                pieces[0] = Bytes(self.server.output, self.filled)
                count = 1
            asked = min(self.call.response.left, turn)
            count += message_pieces(&self.call.response, &pieces[count], PIECES - count, asked)
            sent = self.send(pieces, count)
            if sent < 0:
                self.abort()
                return False
            if <size_t>sent >= from_output:
                self.filled = 0
                message_skip(&self.call.response, <size_t>sent - from_output)
            else:
                self.filled -= <size_t>sent
                memmove(self.server.output, self.server.output + sent, self.filled)
            turn -= min(turn, <size_t>sent)
            if sent == 0:
                turn -= min(turn, self.filled + self.call.response.left, <size_t>HANDED_BYTES)
                self.hand_over_pieces()
                if self.writing_paused or self.closing:
                    return False
        return True

    cdef void hand_over_pieces(self) noexcept:
        """Give the transport the next bytes, which will tell when they are gone."""
        cdef size_t size = min(self.filled + self.call.response.left, <size_t>HANDED_BYTES)
        cdef char* target
        try:
            data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        except MemoryError:
            self.abort()
            return
        target = PyBytes_AS_STRING(data)
        memcpy(target, self.server.output, self.filled)
        message_read(&self.call.response, target + self.filled, size - self.filled)
        self.filled = 0
        self.hand_over(data)

    cdef void end_request(self) noexcept:
        """The answer has left, or is in the output: be ready for the next request, or say good-bye."""
        self.drop_request()
        self.head_only = False
        self.answered += 1
        if self.keep_alive:
            self.stage = HEAD
            self.since_ns = now_ns()
        else:
            self.write_out()
            self.linger()

    cdef void drop_request(self) noexcept:
        """Give up everything of the request, in whatever stage."""
        cdef Call* call = self.call
        self.call = NULL
        if self.task is not None:
            task = self.task
            self.task = None
            try:
                task.cancel()
            except BaseException:
                _logger.exception("a request cannot be cancelled")
        elif self.stage == RUNNING and call != NULL:
            call_abandon(call)
            call = NULL
        if call != NULL:
            call_free(call)
        self.method = None
        self.asked = None
        self.problem = NO_PROBLEM
        self.preflight = False
        self.rendered = False
        self.pretty = False
        self.was_probed = False
        self.stage = HEAD

    # Writing.

    cdef void say(self, Bytes text) noexcept:
        """Put a short text into the output."""
        if OUTPUT_BYTES - self.filled < text.size:
            self.write_out()
        memcpy(self.server.output + self.filled, text.data, text.size)
        self.filled += text.size

    cdef void write_out(self) noexcept:
        """Send what is in the output; the transport gets what the socket does not take."""
        cdef Bytes output = Bytes(self.server.output, self.filled)
        cdef ssize_t sent
        if self.filled == 0:
            return
        self.filled = 0
        if self.closing:
            return
        sent = self.send(&output, 1)
        if sent < 0:
            self.abort()
        elif <size_t>sent < output.size:
            try:
                self.hand_over(PyBytes_FromStringAndSize(output.data + sent, <Py_ssize_t>output.size - sent))
            except MemoryError:
                self.abort()

    cdef ssize_t send(self, Bytes* pieces, int count) noexcept:
        """Send by ourselves what the socket takes: 0 if the transport has to, below 0 if it failed."""
        cdef iovec[PIECES] vector
        cdef msghdr message
        cdef ssize_t sent
        cdef int i
        # The transport closes the file only after connection_lost, but asking it costs little.
        if self.file < 0 or self.writing_paused or self.transport.is_closing():
            return 0
        if count == 1:
            sent = send(self.file, pieces[0].data, pieces[0].size, MSG_NOSIGNAL | MSG_DONTWAIT)
        else:
            for i in range(count):
                vector[i].iov_base = <void*>pieces[i].data
                vector[i].iov_len = pieces[i].size
            memset(&message, 0, sizeof(message))
            message.msg_iov = vector
            message.msg_iovlen = <size_t>count
            sent = sendmsg(self.file, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        return sent

    cdef void hand_over(self, object data) noexcept:
        """Let the transport write, which calls pause_writing if it cannot do so at once."""
        try:
            self.transport.write(data)
        except BaseException:
            self.abort()

    # Input that waits.

    cdef void keep(self, Bytes rest, bint is_pending) noexcept:
        """Keep what was not taken of the input: `rest`, the end of what waited or fresh."""
        if self.closing or rest.size == 0 or self.stage == LINGERING:
            self.clear_pending()
        elif is_pending:
            self.taken = self.pending.size - rest.size
        elif not self.add_pending(rest):
            self.abort()

    cdef bint add_pending(self, Bytes fresh) noexcept:
        """Append to the input that waits; False when there is no memory for it."""
        cdef int64_t more
        if self.taken and fresh.size:
            self.pending.size -= self.taken
            memmove(self.pending.data, self.pending.data + self.taken, self.pending.size)
            self.taken = 0
        more = <int64_t>(self.pending.size + fresh.size) - self.pending_charged
        if more > 0:
            if not budget_take(more) and not (self.server.relieve(self) and budget_take(more)):
                return False
            self.pending_charged += more
        return buffer_append(&self.pending, fresh.data, fresh.size) == 0

    cdef void clear_pending(self) noexcept:
        budget_give(self.pending_charged)
        self.pending_charged = 0
        self.pending.size = 0
        self.taken = 0
        if self.pending.capacity > KEPT_PENDING_BYTES:
            buffer_free(&self.pending)

    cdef void pace(self) noexcept:
        """Read on, or stop reading, or end when there is nothing more to come."""
        cdef bint is_much = self.resting or self.pending.size - self.taken > PENDING_BYTES
        if self.closing:
            return
        try:
            if self.at_end and self.stage == HEAD and not self.writing_paused:
                self.closing = True
                self.transport.close()
            elif is_much != self.reading_paused and not self.at_end:
                self.reading_paused = is_much
                if is_much:
                    self.transport.pause_reading()
                else:
                    self.transport.resume_reading()
        except BaseException:
            self.abort()

    cdef void go_on_later(self) noexcept:
        """Let others have the loop; there is more to do when they had it."""
        self.server.sending.append(self)
        self.server.flush_soon()

    cdef void touch(self) noexcept:
        """There is something to do: now, or after the batch that we are in."""
        if not self.in_event and not self.is_dirty:
            self.is_dirty = True
            self.server.dirty.append(self)

    # Ending.

    cdef void linger(self) noexcept:
        """Close, but let the client read its answer first: a reset would take it from its hands.

        Closing a socket with unread input resets it (RFC 9112, 9.6). So only the sending half is
        shut, and what still comes is dropped, until the client closes or has had time to.
        """
        if self.closing:
            return
        try:
            if self.at_end:
                self.closing = True
                self.transport.close()
                return
            self.stage = LINGERING
            self.since_ns = now_ns()
            self.transport.write_eof()
        except BaseException:
            self.abort()

    cdef void leave_if_idle(self) noexcept:
        """The server is going away: close if nothing is asked."""
        if self.stage == HEAD and self.pending.size == 0 and not self.writing_paused and not self.closing:
            self.closing = True
            self.transport.close()

    cdef void probe(self) noexcept:
        """Find out whether a client from whom nothing can be read still waits for its answer.

        Who has closed its socket answers what we send with a reset, which tells it from one that
        only has shut its sending half. For that one it is an interim answer like any.
        """
        if self.was_probed or self.old or self.file < 0 or self.writing_paused:
            return
        self.was_probed = True
        self.say(Bytes(PROCESSING, strlen(PROCESSING)))
        self.write_out()
        try:
            self.server.loop.call_later(self.server.hangup_seconds, self._look)
        except BaseException:  # without memory: tick looks as well
            pass

    cdef bint is_gone(self) noexcept:
        """Whether the client has closed its socket, as far as that can be seen."""
        cdef pollfd looked
        if self.file < 0:
            return False
        looked.fd = self.file
        looked.events = 0
        looked.revents = 0
        return poll(&looked, 1, 0) > 0 and (looked.revents & (POLLERR | POLLHUP)) != 0

    cdef bint is_stuck(self, int64_t now, int64_t patience_ns) noexcept:
        """The client has taken nothing for so long of what is there for it."""
        cdef size_t backlog
        cdef int unread = 0
        if not self.writing_paused:
            return False
        try:
            # The transport tells of its progress only when it has nothing left.
            backlog = self.transport.get_write_buffer_size()
        except BaseException:
            return False
        if self.file >= 0 and ioctl(self.file, SIOCOUTQ, &unread) == 0 and unread > 0:
            backlog += <size_t>unread
        if backlog > self.backlog or backlog + PROGRESS_BYTES <= self.backlog:
            self.backlog = backlog
            self.sent_ns = now
        return now - self.sent_ns > patience_ns

    cdef bint relieve(self, int64_t now) noexcept:
        """Memory has run out: give back what is held for a client that does not move."""
        if self.call == NULL and self.pending.size == 0:
            return False
        if self.closing or self.is_stuck(now, self.server.stall_ns):
            self.abort()
            self.drop_request()
            self.clear_pending()
            return True
        if self.stage == BODY and self.call.charged_bytes and now - self.since_ns > self.server.stall_ns:
            self.time_out(STALLED_BODY)
            return True
        return False

    cdef void time_out(self, int problem) noexcept:
        self.refuse(problem)
        self.touch()

    cdef void tick(self, int64_t now) noexcept:
        """Once a second: what time brings."""
        cdef Http1Server server = self.server
        cdef int64_t waited = now - self.since_ns
        if self.is_stuck(now, server.unread_ns):
            self.abort()
        elif self.closing or self.writing_paused:
            return
        elif self.stage == LINGERING:
            if waited > server.linger_ns:
                self.abort()
        elif self.stage == BODY:
            if waited > server.upload_ns:
                self.time_out(SLOW_BODY)
        elif self.stage == RUNNING:
            if self.at_end or self.reading_paused:
                self.probe()  # when reading is paused, an end could not come through
                if self.is_gone():
                    self.abort()
        elif self.stage == HEAD and self.pending.size:
            if waited > server.head_ns:
                self.time_out(SLOW_HEAD)
        elif self.stage == HEAD and waited > (server.idle_ns if self.was_asked else server.head_ns):
            self.leave_if_idle()

    cdef void abort(self) noexcept:
        self.closing = True
        if self.transport is not None:
            try:
                self.transport.abort()
            except BaseException:
                _logger.exception("a connection cannot be closed")

    def __dealloc__(self):
        # Only when the loop died without a word. Its call may still know us: leak that.
        budget_give(self.pending_charged)
        buffer_free(&self.pending)


cdef bint is_site(Bytes origin) noexcept nogil:
    """Whether an Origin is of a page of the web: http:// or https:// and more."""
    return (origin.size >= 7 and same_word(Bytes(origin.data, 7), b"http://", 7)) or (
        origin.size >= 8 and same_word(Bytes(origin.data, 8), b"https://", 8))


cdef void flush_dirty(void* server) noexcept:
    """After a batch of completions: each connection that got answers goes on."""
    cdef list dirty = (<Http1Server>server).dirty
    cdef HttpConnection connection
    while dirty:
        connection = dirty.pop()
        connection.is_dirty = False
        if not connection.closing:
            connection.advance(Bytes(NULL, 0))
