"""Runs requests on a loaded session that is not served yet: no queue, no counters, no answer kept.

The way of such a request is that of a served one (_session_method), without its waiting: it is read,
planned, run and its response written, so that whatever a first request would have to wait for or would
fail with happens here. Where batching pads to allowed sizes it runs once more with as many rows.
"""

from collections.abc import Mapping

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t

from tfsrv._batch_tensors cimport (
    ROWS_MADE,
    RowSource,
    rows_merge,
    rows_of_view,
    rows_of_wire,
    rows_padding_bytes,
)
from tfsrv._batching cimport batch_allowed_rows
from tfsrv._budget cimport budget_give, budget_take
from tfsrv._buffer cimport Bytes, buffer_append
from tfsrv._call cimport Call, LoopState, call_free, call_new
from tfsrv._clock cimport NS_PER_S, now_ns
from tfsrv._predict_request cimport predict_view_clear
from tfsrv._servable cimport Servable
from tfsrv._session cimport SavedModelSession, Session, session_run
from tfsrv._signature cimport Signature
from tfsrv._status cimport (
    OK,
    Status,
    status_error,
    status_free,
    status_init,
)
from tfsrv._tensor cimport tensor_release
from tfsrv._wire_format cimport WIRE_BAD, WIRE_RARE
from tfsrv.handlers._call_plan cimport Plan
from tfsrv.handlers._call_run cimport run_call, run_drop_feeds, run_place
from tfsrv.handlers._session_method cimport SessionMethod, session_prepare

from tfsrv.errors import ServingError

cdef int64_t MOST_PADDING_BYTES = <int64_t>1 << 30
cdef double LONGEST_SECONDS = 1e6       # far from where nanoseconds overflow


cdef class WarmupRunner:
    """Runs requests of the methods given, each under a number of the caller's choice. Any thread."""

    cdef dict methods

    def __init__(self, methods: Mapping[int, SessionMethod]) -> None:
        self.methods = dict(methods)

    def run(
        self,
        session: SavedModelSession,
        name: str,
        version: int,
        kind: int,
        record: bytes,
        places: list[tuple[int, int]],
        timeout_seconds: float = 0.0,
    ) -> None:
        """Run one request of the method `kind`, whose bytes are those places (first, size) of `record`.

        Which model and version the request names does not matter: it runs on `session`. Raises the
        ServingError that a client would get, but ValueError if these bytes are no such request, or
        are not in `record`. Takes as long as the model does, without the GIL; with `timeout_seconds`
        a graph that loops or waits, or has not run before, ends then with DEADLINE_EXCEEDED.
        """
        cdef _Warmup warmup = _Warmup.__new__(_Warmup)
        warmup.begin(session, self.methods[kind], name.encode("utf-8", "replace"), version)
        if timeout_seconds > 0:
            warmup.call.deadline_ns = now_ns() + <int64_t>(min(timeout_seconds, LONGEST_SECONDS) * NS_PER_S)
        for first, size in places:
            warmup.add(record, first, size)
        warmup.run()


cdef class _Warmup:
    """One request. Owns its call, and a loop's state that no loop has."""

    cdef LoopState loop
    cdef Servable servable      # in no map; never released for the last time
    cdef Call* call
    cdef SavedModelSession session
    cdef SessionMethod method
    cdef bytes name

    cdef int begin(
        self, SavedModelSession session, SessionMethod method, bytes name, int64_t version
    ) except -1:
        self.session = session
        self.method = method
        self.name = name
        self.servable.refs = 2
        self.servable.version = version
        self.servable.name = Bytes(PyBytes_AS_STRING(name), <size_t>len(name))
        self.servable.impl = session.impl
        self.loop.event_fd = -1
        self.call = call_new(&self.loop)
        if self.call == NULL:
            raise MemoryError
        self.call.servable = &self.servable
        return 0

    def __dealloc__(self):
        if self.call != NULL:
            self.loop.closed = True  # call_free keeps nothing
            with nogil:  # unmapping a large request takes milliseconds
                call_free(self.call)

    cdef int add(self, bytes record, size_t first, size_t size) except -1:
        """Add these bytes to the request; without the GIL."""
        cdef const char* data = PyBytes_AS_STRING(record)
        cdef size_t record_size = <size_t>len(record)
        cdef int result
        if first > record_size or size > record_size - first:
            raise ValueError(f"{size} bytes at {first} are not in a record of {record_size}")
        with nogil:
            result = buffer_append(&self.call.request, data + first, size)
        if result != 0:
            raise MemoryError
        return 0

    cdef int run(self) except -1:
        cdef Call* call = self.call
        cdef int result
        call.body = Bytes(call.request.data, call.request.size)
        with nogil:
            result = session_prepare(&self.method.settings, call)
        if result == WIRE_RARE:
            self.rewrite()
        if call.parse_result == WIRE_BAD:
            raise self.unreadable()
        with nogil:
            if call.status.code == OK:
                run_padded(call)
                run_call(call, False, False)
        if call.status.code != OK:
            raise status_error(&call.status)
        return 0

    cdef int rewrite(self) except -1:
        """As the call loop does it."""
        cdef Call* call = self.call
        cdef int result
        try:
            body = self.method.rewrite(call.request.data[: call.request.size])
        except ServingError:
            raise self.unreadable() from None
        predict_view_clear(&call.view)
        call.request.size = 0
        self.add(body, 0, len(body))
        call.body = Bytes(call.request.data, call.request.size)
        with nogil:
            result = session_prepare(&self.method.settings, call)
        if result == WIRE_RARE:
            raise self.unreadable()
        return 0

    cdef object unreadable(self):
        return ValueError(self.method.settings.steps.unreadable.decode())


cdef void run_padded(Call* call) noexcept nogil:
    """Run the call once as a batch that is padded to an allowed size would run, if it would be.

    What comes of that is of no interest: a model that cannot do it answers such requests one by one.
    """
    cdef Session* session = <Session*>call.servable.impl
    cdef Signature* signature = <Signature*>call.signature
    cdef Plan* plan = <Plan*>call.scratch
    cdef int64_t needed = 0
    cdef int64_t rows = rows_of(call)
    cdef int64_t padding_rows
    cdef RowSource source
    cdef Status status
    cdef int i
    if not session.is_batched or rows < 1:
        return
    padding_rows = batch_allowed_rows(&session.batching, rows) - rows
    if padding_rows == 0:
        return
    for i in range(signature.inputs_size):
        source = rows_of_wire(&call.view, plan.views[i], rows)
        needed += rows_padding_bytes(&source, 1, padding_rows)
        if not 0 <= needed <= MOST_PADDING_BYTES:
            return
    if not budget_take(needed):
        return
    status_init(&status)
    if make_padded_feeds(call, plan, rows, padding_rows):
        session_run(
            session, signature, plan.feeds, call.wanted, call.wanted_size, plan.fetched,
            run_place(session, False, 0), 0, &status)
    run_drop_feeds(call, plan)
    for i in range(call.wanted_size):
        if plan.fetched[i] != NULL:
            tensor_release(plan.fetched[i])
            plan.fetched[i] = NULL
    status_free(&status)
    budget_give(needed)


cdef int64_t rows_of(Call* call) noexcept nogil:
    """Rows that all inputs of the call have; -1 if they have none in common."""
    cdef Plan* plan = <Plan*>call.scratch
    cdef int64_t rows = -1
    cdef int64_t size
    cdef int i
    for i in range((<Signature*>call.signature).inputs_size):
        if plan.views[i] == NULL:
            return -1
        size = rows_of_view(&call.view, plan.views[i])
        if i > 0 and size != rows:
            return -1
        rows = size
    return rows


cdef bint make_padded_feeds(Call* call, Plan* plan, int64_t rows, int64_t padding_rows) noexcept nogil:
    cdef RowSource source
    cdef int i, bad
    for i in range((<Signature*>call.signature).inputs_size):
        source = rows_of_wire(&call.view, plan.views[i], rows)
        if rows_merge(&source, 1, padding_rows, False, &plan.feeds[i], &bad) != ROWS_MADE:
            return False
    return True
