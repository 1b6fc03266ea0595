"""One HTTP/1.1 connection."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._call cimport Call
from tfsrv._method cimport Method
from tfsrv.frontends._http1 cimport Http1Server
from tfsrv.frontends._http1_answer cimport AnswerHead
from tfsrv.frontends._http1_chunks cimport ChunkReader
from tfsrv.frontends._http1_head cimport HttpHead

cdef void flush_dirty(void* server) noexcept


# Where a connection stands with its request; there is one at a time.
cdef enum Stage:
    HEAD = 0                # waiting for it, or in the middle of its head
    BODY = 1                # in its body
    RUNNING = 2             # a method or a handler has it
    READY = 3               # its answer is there, and no byte of it is written
    SENDING = 4             # a long answer is on its way
    LINGERING = 5           # the last answer was said: what still comes is dropped


cdef class HttpConnection:
    cdef Http1Server server
    cdef object transport
    cdef void* preceding    # in the server's list, which borrows
    cdef void* following
    cdef int stage
    cdef int file           # where answers are sent; -1: only by the transport
    cdef Call* call         # the request and its answer; the loop's while RUNNING; NULL: none
    cdef Method method      # that will answer it; None: Python
    cdef object asked       # Asked, for Python; None: a method, or ourselves
    cdef object task        # that answers it in Python
    cdef Buffer pending     # input that nobody has taken yet
    cdef size_t taken       # bytes at its begin that were taken meanwhile
    cdef int64_t pending_charged
    cdef size_t scanned     # of a head that is not whole
    cdef int blank_lines    # before it
    cdef size_t body_at     # in the call's request
    cdef int64_t left       # of a body with a length
    cdef ChunkReader chunks
    cdef size_t new_bytes   # since the body last made progress
    cdef int64_t received_ns
    cdef int64_t since_ns   # when the connection, the head or the body began to wait; see tick
    cdef int64_t sent_ns    # when what we send last made progress
    cdef size_t backlog     # bytes that the transport held then
    cdef size_t filled      # of the server's output, ours while `advance` runs
    cdef int answered       # requests, in this turn of the loop
    cdef int problem        # an HttpProblem that is the answer
    cdef bint preflight     # OPTIONS: answered by ourselves
    cdef bytes options      # further fields of the answer to it
    cdef bint rendered      # the response has its head in it already
    cdef bint local         # the client is on this machine
    cdef bint chunked
    cdef bint resting       # nothing is read until the loop's next turn
    cdef bint direct        # the next bytes are read straight into the call
    cdef bint pretty        # errors, too
    cdef bint old           # the request's HTTP/1.0
    cdef bint head_only     # it was HEAD
    cdef bint keep_alive    # the connection stays when it is answered
    cdef bint reading_paused
    cdef bint writing_paused
    cdef bint in_event
    cdef bint is_dirty
    cdef bint was_asked     # a request has come
    cdef bint was_probed    # see probe
    cdef bint at_end        # the client has sent all that it will
    cdef bint closing
    cdef void advance(self, Bytes fresh) noexcept
    cdef bint step(self, Bytes* rest) noexcept
    cdef bint take_head(self, Bytes* rest) noexcept
    cdef void begin_request(self, const HttpHead* head, bint has_more) noexcept
    cdef void take_direct(self, size_t size) noexcept
    cdef void prepare_preflight(self, const HttpHead* head) noexcept
    cdef void find_method(self, const HttpHead* head) noexcept
    cdef bint take_body(self, Bytes* rest) noexcept
    cdef bint take_chunks(self, Bytes* rest) noexcept
    cdef bint collect(self, Bytes piece) noexcept
    cdef bint charge(self, size_t size) noexcept
    cdef bint reserve(self, size_t size) noexcept
    cdef void end_body(self) noexcept
    cdef void dispatch(self) noexcept
    cdef void ask_python(self) noexcept
    cdef void render(self, object answered) except *
    cdef void refuse(self, int problem) noexcept
    cdef void begin_answer(self) noexcept
    cdef bint prepare(self, AnswerHead* head) noexcept
    cdef bint send_on(self) noexcept
    cdef bint send_pieces(self) noexcept
    cdef void end_request(self) noexcept
    cdef void drop_request(self) noexcept
    cdef void say(self, Bytes text) noexcept
    cdef void write_out(self) noexcept
    cdef void hand_over(self, object data) noexcept
    cdef ssize_t send(self, Bytes* pieces, int count) noexcept
    cdef void hand_over_pieces(self) noexcept
    cdef void keep(self, Bytes rest, bint is_pending) noexcept
    cdef bint add_pending(self, Bytes fresh) noexcept
    cdef void clear_pending(self) noexcept
    cdef void pace(self) noexcept
    cdef void go_on_later(self) noexcept
    cdef void touch(self) noexcept
    cdef void linger(self) noexcept
    cdef void leave_if_idle(self) noexcept
    cdef void probe(self) noexcept
    cdef bint is_gone(self) noexcept
    cdef bint is_stuck(self, int64_t now, int64_t patience_ns) noexcept
    cdef bint relieve(self, int64_t now) noexcept
    cdef void time_out(self, int problem) noexcept
    cdef void tick(self, int64_t now) noexcept
    cdef void abort(self) noexcept
