"""TensorFlow's thread pools: shared by all sessions, and one for each run with a deadline.

TensorFlow looks at a run's time-out only when the run is on a thread pool. In the pool that all
sessions share, as many threads as there are cores, two runs that loop for half a minute leave no
thread for anybody's next run. So there are pools of one thread each beside the shared one
(ConfigProto.session_inter_op_thread_pool), and a run takes one that is free: it has a thread to
itself, as it has in the caller's thread. If ever all are taken, the shared pool serves.

The pools have names, by which TensorFlow makes them once for all sessions, in the thread that makes
the first one: see prime_pools.
"""

from libc.stdint cimport uint64_t

from tfsrv._atomic cimport cas_weak_u64, load_relaxed_u64

from google.protobuf.message import DecodeError

from tfsrv._status cimport Status, status_add, status_free, status_init
from tfsrv._tf cimport (
    TF_DeviceList,
    TF_Graph,
    TF_Session,
    TF_SessionOptions,
    TF_Status,
    api,
    thread_status,
)

from tfsrv import _tf
from tfsrv._proto import message_class

cdef extern from *:
    int count_trailing_zeros "__builtin_ctzll"(unsigned long long value) nogil

cdef enum:
    RUN_POOLS = 64          # numbers 1 to 64 in each session; 0 is the shared pool

cdef uint64_t taken = 0     # atomic: bit i is set while a run has pool i + 1


cdef int run_pool_take() noexcept nogil:
    """The number of a pool that no other run has; 0, the shared one, if there is none."""
    cdef uint64_t before = load_relaxed_u64(&taken)
    cdef int pool
    while ~before:
        pool = count_trailing_zeros(~before)
        if cas_weak_u64(&taken, &before, before | <uint64_t>1 << pool):
            return pool + 1
    return 0


cdef void run_pool_give(int pool) noexcept nogil:
    """Give back what run_pool_take gave. The run has ended, all of its ops have."""
    cdef uint64_t before = load_relaxed_u64(&taken)
    if pool == 0:
        return
    while not cas_weak_u64(&taken, &before, before & ~(<uint64_t>1 << pool - 1)):
        pass


def take_run_pool() -> int:
    """run_pool_take, for tests."""
    return run_pool_take()


def give_run_pool(pool: int) -> None:
    """run_pool_give, for tests."""
    run_pool_give(pool)


def add_run_pools(config: bytes) -> tuple[bytes, bool]:
    """A serialized ConfigProto with these pools in it, and True.

    One that has pools of its own stays as it is, as does one that cannot be read: TensorFlow
    will say so. Then False.
    """
    message = message_class("tensorflow.ConfigProto")()
    try:
        message.ParseFromString(config)
    except DecodeError:
        return config, False
    if message.session_inter_op_thread_pool:
        return config, False
    # Of no fixed size: what inter_op_parallelism_threads says. Without a name it is the session's.
    shared = message.session_inter_op_thread_pool.add()
    if not message.use_per_session_threads:
        shared.global_name = "tfsrv"
    for i in range(1, RUN_POOLS + 1):
        message.session_inter_op_thread_pool.add(num_threads=1, global_name=f"tfsrv-run-{i}")
    return message.SerializeToString(), True


def pools_are_shared(config: bytes) -> bool:
    """Do all sessions with this serialized ConfigProto, and add_run_pools, share all their pools?

    If not, each model's session has threads of its own, made by the thread that loads it. False
    for a config that cannot be read.
    """
    message = message_class("tensorflow.ConfigProto")()
    try:
        message.ParseFromString(add_run_pools(config)[0])
    except DecodeError:
        return False
    # The pool for the inside of ops (LocalDevice of tensorflow/core/common_runtime) is always one.
    return not message.use_per_session_threads and all(
        pool.global_name for pool in message.session_inter_op_thread_pool
    )


def prime_pools(config: bytes, devices: list[str] | None = None) -> bool:
    """Have TensorFlow make its shared pools now, by an empty session with this ConfigProto.

    Threads inherit the niceness of the thread that starts them. A thread that loads models at a
    lower priority must not be the first to make a session: every model would run at that
    priority ever after. Returns whether the threads of all sessions are there now; never raises:
    what is wrong with the config is told by the first model's load. The names of the devices that
    sessions have, such as "CPU:0", are added to `devices`.
    """
    cdef Status names
    _tf.open_library()
    whole, _ = add_run_pools(config)
    cdef const char* c_config = whole
    cdef size_t size = len(whole)
    cdef bint made
    status_init(&names)
    with nogil:
        made = make_and_delete_session(c_config, size, &names)
    if devices is not None and names.message.size:
        text = names.message.data[: names.message.size].decode("utf-8", "replace")
        devices += [name.rpartition("device:")[2] for name in text.split()]
    status_free(&names)
    return made and pools_are_shared(config)


cdef void list_devices(TF_Session* session, Status* names) noexcept nogil:
    """Add the names of the session's devices, with spaces between them."""
    cdef TF_Status* status = thread_status()
    cdef TF_DeviceList* devices = api.SessionListDevices(session, status)
    cdef const char* name
    cdef int i
    if devices == NULL:
        return
    for i in range(api.DeviceListCount(devices)):
        name = api.DeviceListName(devices, i, status)
        if name != NULL:
            status_add(names, name)
            status_add(names, " ")
    api.DeleteDeviceList(devices)


cdef bint make_and_delete_session(
    const char* config, size_t config_size, Status* names
) noexcept nogil:
    cdef TF_Status* status = thread_status()
    cdef TF_SessionOptions* options
    cdef TF_Graph* graph
    cdef TF_Session* session = NULL
    if status == NULL:
        return False
    options = api.NewSessionOptions()
    graph = api.NewGraph()
    api.SetConfig(options, config, config_size, status)
    if api.GetCode(status) == 0:
        session = api.NewSession(graph, options, status)
    if session != NULL:
        list_devices(session, names)
        api.CloseSession(session, status)
        api.DeleteSession(session, status)
    api.DeleteGraph(graph)
    api.DeleteSessionOptions(options)
    return session != NULL
