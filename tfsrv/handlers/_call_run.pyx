"""One call on its session: tensors in, run, response out. In whatever thread."""

from libc.stdint cimport int64_t

from tfsrv._atomic cimport load_relaxed_i64
from tfsrv._buffer cimport buffer_append
from tfsrv._call cimport Call, call_charge, call_is_abandoned, call_release_servable
from tfsrv._clock cimport NS_PER_MS, now_ns
from tfsrv._message cimport message_clear, message_seal
from tfsrv._run_queue cimport run_record_note
from tfsrv._session cimport (
    IN_CALLERS_THREAD,
    ON_RUN_POOL,
    ON_SHARED_POOL,
    Session,
    session_run,
)
from tfsrv._signature cimport Signature
from tfsrv._status cimport (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    OK,
    RESOURCE_EXHAUSTED,
    UNKNOWN,
    status_add_bytes,
    status_set,
)
from tfsrv._tensor cimport MAX_RANK, tensor_data, tensor_from_view, tensor_release
from tfsrv._wire_format cimport WIRE_CHANGED, WIRE_NO_MEMORY, WIRE_OK, WIRE_TOO_BIG
from tfsrv.handlers._predict_errors cimport tell_bad_tensor

cdef int64_t SLOW_NS = 50 * NS_PER_MS        # slower signatures run on TensorFlow's pool if a deadline is set

cdef size_t IN_PLACE_BYTES = 65536           # larger requests go to a worker: copying takes time too
cdef size_t ALONE_BYTES = 1 << 20            # … unless no other request is in flight that would wait


cdef bint run_is_small(const Call* call, size_t size) noexcept nogil:
    """Whether so many bytes may be worked on in the loop: others wait meanwhile."""
    return size < (IN_PLACE_BYTES if call.loop.waiting > 1 else ALONE_BYTES)


cdef bint run_has_time(const Call* call) noexcept nogil:
    """Whether the loop has not been busy for too long with the I/O event that it is at."""
    return call.loop.event_ns == 0 or now_ns() - call.loop.event_ns < IN_PLACE_SLICE_NS


cdef bint run_is_wanted(Call* call) noexcept nogil:
    """Whether anybody still waits for the call; its status is set if not."""
    if call_is_abandoned(call):
        status_set(&call.status, CANCELLED, "CANCELLED")
        return False
    if call.deadline_ns != 0 and call.deadline_ns <= now_ns():
        status_set(&call.status, DEADLINE_EXCEEDED, "Deadline Exceeded")
        return False
    return True


cdef void run_call(Call* call, bint in_place, bint on_pool) noexcept nogil:
    """Run the call by itself; sets status and response and lets the servable go.

    `on_pool`: on TensorFlow's pool rather than in this thread.
    """
    cdef Plan* plan = <Plan*>call.scratch
    cdef Signature* signature = <Signature*>call.signature
    cdef int64_t begun_ns = now_ns()
    cdef bint ran = run_make_feeds(call, plan) == OK
    if ran:
        run_session(call, plan, in_place, on_pool)
    run_drop_feeds(call, plan)
    if call.status.code == OK:
        run_write(call, plan)
    if ran:  # with the writing: an answer of many strings takes longer than the run behind it
        run_record_note(&signature.twin.record, now_ns() - begun_ns, in_place)
    call_release_servable(call)


cdef int run_make_feeds(Call* call, Plan* plan) noexcept nogil:
    cdef Signature* signature = <Signature*>call.signature
    cdef int i, result
    for i in range(signature.inputs_size):
        if plan.views[i] == NULL:
            plan.feeds[i] = signature.inputs[i].default_value
            continue
        result = tensor_from_view(&call.view, plan.views[i], &plan.feeds[i])
        if result == -2:
            return status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
        if result != 0:
            return tell_bad_tensor(&call.status, signature.inputs[i].alias)
    return OK


cdef void run_drop_feeds(Call* call, Plan* plan) noexcept nogil:
    cdef int i
    for i in range((<Signature*>call.signature).inputs_size):
        if plan.views[i] != NULL and plan.feeds[i] != NULL:
            tensor_release(plan.feeds[i])
        plan.feeds[i] = NULL


cdef int64_t run_timeout_ms(
    Session* session, Signature* signature, int64_t deadline_ns, int64_t now
) noexcept nogil:
    """The time-out of a run, if it should stop when its deadline passes; 0: it need not.

    Only on its own pool does TensorFlow look at a time-out, which costs a run some 15 µs. It is worth
    it for graphs that loop or wait, for what has not run yet, and for what has been slow.
    """
    cdef int64_t average_ns
    if deadline_ns == 0:
        return 0
    average_ns = load_relaxed_i64(&signature.twin.record.average_ns)
    if session.uses_gpu or not signature.may_run_in_place or average_ns == 0 or average_ns > SLOW_NS:
        return max(1, (deadline_ns - now) // NS_PER_MS + 1)
    return 0


cdef int run_place(const Session* session, bint on_pool, int64_t timeout_ms) noexcept nogil:
    """Where to run, a RunPlace; `on_pool`: threads side by side have been found to be faster."""
    if session.uses_gpu or on_pool:
        return ON_SHARED_POOL
    return ON_RUN_POOL if timeout_ms else IN_CALLERS_THREAD


cdef void run_session(Call* call, Plan* plan, bint in_place, bint on_pool) noexcept nogil:
    cdef Session* session = <Session*>call.servable.impl
    cdef Signature* signature = <Signature*>call.signature
    cdef int64_t timeout_ms = 0
    call.run_start_ns = now_ns()
    if not in_place:
        timeout_ms = run_timeout_ms(session, signature, call.deadline_ns, call.run_start_ns)
    session_run(
        session, signature, plan.feeds, call.wanted, call.wanted_size, plan.fetched,
        run_place(session, on_pool, timeout_ms), timeout_ms, &call.status)
    call.run_ns = now_ns() - call.run_start_ns


cdef void run_write(Call* call, Plan* plan) noexcept nogil:
    """Write the response from the fetched tensors, which are taken over."""
    cdef int i
    for i in range(call.wanted_size):
        if tensor_data(plan.fetched[i], plan.dims + i * MAX_RANK, &plan.outputs[i]) != 0:
            status_set(&call.status, UNKNOWN, "An output has a type that a TensorProto cannot carry: ")
            status_add_bytes(&call.status, (<Signature*>call.signature).outputs[call.wanted[i]].alias)
    run_write_outputs(call, plan)


cdef void run_write_outputs(Call* call, Plan* plan) noexcept nogil:
    """Write the response from `plan.outputs`; `plan.fetched`, where it is not NULL, is taken over.

    Writes nothing if the status is an error already.
    """
    cdef int i, result
    for i in range(call.wanted_size):
        plan.outputs[i].taken = False
        plan.outputs[i].alias = (<Signature*>call.signature).outputs[call.wanted[i]].alias
        plan.outputs[i].holder = plan.fetched[i]
    if call.status.code == OK:
        result = WIRE_NO_MEMORY
        if buffer_append(&call.response.head, b"\0\0\0\0\0\0\0\0", call.headroom) == 0:
            result = plan.write(call, plan)
        if result == WIRE_TOO_BIG:
            status_set(&call.status, INTERNAL, "The response is larger than a message may be.")
        elif result == WIRE_CHANGED:
            status_set(&call.status, INTERNAL, "An output changed while the response was written.")
        elif result == WIRE_NO_MEMORY:
            status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
        elif result != WIRE_OK and call.status.code == OK:
            status_set(&call.status, INTERNAL, "The response cannot be written.")
        if call.status.code != OK:
            message_clear(&call.response)
    for i in range(call.wanted_size):
        if plan.fetched[i] != NULL and not plan.outputs[i].taken:
            tensor_release(plan.fetched[i])
        plan.fetched[i] = NULL
    if call.status.code != OK:
        return
    message_seal(&call.response)
    if not call_charge(call, <int64_t>call.response.left):
        message_clear(&call.response)
        status_set(&call.status, RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")
