"""Where the memory of tensors, and of large buffers, comes from.

TensorFlow copies memory that is not 64-byte aligned (TF_NewTensor), so all blocks are. Blocks of
64 KiB to 64 MiB are kept when they come back, in classes of powers of two: fresh pages of that
size cost more than filling them. Smaller ones are malloc's own job, larger ones too rare to keep.

At most 247 MiB lie idle. Blocks of up to 2 MiB, the tensors of single requests, have 119 MiB, each
class a share of its own: 64 blocks for the sizes that images have, so that all requests of one
batch find theirs. The larger ones are batches: they share 128 MiB, which is two of the largest,
one being filled while another one runs. `memory_trim` frees what nobody wants any more.

Any thread may take, give and trim, without a lock and without the GIL: an idle block stands in a
slot, and whoever exchanges a slot for NULL owns what was in it. The lowest bit of its address
there says that a trim has seen the block since it came.
"""

from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc

from tfsrv._atomic cimport (
    add_relaxed_i64,
    cas_strong_ptr,
    cas_weak_ptr,
    exchange_ptr,
    load_relaxed_i64,
    load_relaxed_ptr,
)

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void** data, size_t alignment, size_t size)

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void* data, size_t size, int advice)
    int MADV_DONTNEED

cdef extern from *:
    """
    static void* tfsrv_idle_blocks[11][64];
    """
    void* tfsrv_idle_blocks[11][64]
    int count_leading_zeros "__builtin_clzll"(unsigned long long value) nogil

cdef enum:
    ALIGNMENT = 64          # bytes; EIGEN_MAX_ALIGN_BYTES of TensorFlow's builds
    PAGE = 4096
    SMALLEST_SHIFT = 16     # 64 KiB
    CLASSES = 11            # 64 KiB, 128 KiB ... 64 MiB
    FIRST_SHARING = 6       # the class of 4 MiB and those above have one bound for all together
    MOST_SHARED = 1 << 27   # bytes
    SEEN = 1                # of an address in a slot; blocks are aligned to a page

# Blocks of each class that may lie idle. The last five are bounded by MOST_SHARED before.
cdef int[11] SLOTS = [16, 16, 16, 64, 64, 8, 32, 16, 8, 4, 2]

cdef int64_t shared = 0  # atomic: idle bytes of the classes that share, or about to be
cdef int64_t live = 0  # atomic: blocks taken and not given back


cdef inline int class_of(size_t size) noexcept nogil:
    """The smallest class whose blocks hold `size` bytes, SMALLEST_KEPT to LARGEST_KEPT of them."""
    return 64 - count_leading_zeros(size - 1) - SMALLEST_SHIFT if size > SMALLEST_KEPT else 0


cdef inline int64_t class_bytes(int size_class) noexcept nogil:
    return <int64_t>1 << (size_class + SMALLEST_SHIFT)


cdef Block memory_take(size_t size) noexcept nogil:
    """A block of `size` bytes, uninitialised; `data` is NULL when there is no memory.

    It belongs to the caller until memory_give.
    """
    cdef Block block
    if SMALLEST_KEPT <= size <= LARGEST_KEPT:
        block = take_kept(class_of(size))
    else:
        block.data = NULL
        block.key = malloc(size + ALIGNMENT - 1) if size + ALIGNMENT > size else NULL
        if block.key != NULL:
            block.data = <void*>(
                (<uintptr_t>block.key + ALIGNMENT - 1) & ~<uintptr_t>(ALIGNMENT - 1))
    if block.data != NULL:
        add_relaxed_i64(&live, 1)
    return block


cdef Block take_kept(int size_class) noexcept nogil:
    cdef void** slots = tfsrv_idle_blocks[size_class]
    cdef Block block
    cdef int i
    block.key = <void*><uintptr_t>(size_class + 1)  # no address is that small
    for i in range(SLOTS[size_class]):
        if load_relaxed_ptr(&slots[i]) != NULL:  # only a hint; the exchange decides
            block.data = exchange_ptr(&slots[i], NULL)
            if block.data != NULL:
                block.data = <void*>(<uintptr_t>block.data & ~<uintptr_t>SEEN)
                leave_idle(size_class)
                return block
    if posix_memalign(&block.data, PAGE, <size_t>class_bytes(size_class)) != 0:
        block.data = NULL
    return block


cdef void memory_give(void* data, void* key) noexcept nogil:
    """Take a block back. The caller, and TensorFlow with it, must be done with its bytes."""
    add_relaxed_i64(&live, -1)
    if <uintptr_t>key > CLASSES:
        free(key)
    elif not keep(data, <int>(<uintptr_t>key) - 1):
        free(data)


cdef void* memory_take_large(size_t size, size_t* capacity) noexcept nogil:
    """A block of at least `size` bytes, SMALLEST_KEPT to LARGEST_KEPT of them; NULL without memory.

    `capacity` says how many it has. It belongs to the caller until memory_give_large.
    """
    cdef int size_class = class_of(size)
    capacity[0] = <size_t>class_bytes(size_class)
    return take_kept(size_class).data


cdef void memory_give_large(void* data, size_t capacity) noexcept nogil:
    """Take a block back that has so many bytes."""
    if not keep(data, class_of(capacity)):
        free(data)


cdef bint keep(void* data, int size_class) noexcept nogil:
    """Whether the block found a place to lie idle."""
    cdef void** slots = tfsrv_idle_blocks[size_class]
    cdef void* empty
    cdef int i
    if not may_be_idle(size_class):
        return False
    for i in range(SLOTS[size_class]):
        empty = NULL
        # A weak exchange may fail without cause: the block goes into another slot then, or away.
        if load_relaxed_ptr(&slots[i]) == NULL and cas_weak_ptr(&slots[i], &empty, data):
            return True
    leave_idle(size_class)
    return False


cdef inline bint may_be_idle(int size_class) noexcept nogil:
    """Count a block that will be idle. Before it is: the bound holds at every moment."""
    cdef int64_t size = class_bytes(size_class)
    if size_class < FIRST_SHARING or add_relaxed_i64(&shared, size) + size <= MOST_SHARED:
        return True
    leave_idle(size_class)
    return False


cdef inline void leave_idle(int size_class) noexcept nogil:
    if size_class >= FIRST_SHARING:
        add_relaxed_i64(&shared, -class_bytes(size_class))


cdef int64_t memory_trim() noexcept nogil:
    """Free the idle blocks that have lain idle since the last trim; returns their bytes.

    To be called every few seconds, by one thread or several: a block that nobody takes is freed
    by the second call after it came back, and its pages are the system's again. Blocks that are
    in use now and then stay.
    """
    cdef int64_t freed = 0
    cdef int size_class
    cdef int i
    for size_class in range(CLASSES):
        for i in range(SLOTS[size_class]):
            if trim_slot(&tfsrv_idle_blocks[size_class][i], <size_t>class_bytes(size_class)):
                leave_idle(size_class)
                freed += class_bytes(size_class)
    return freed


cdef inline bint trim_slot(void** slot, size_t size) noexcept nogil:
    """Mark the block there or, if it is marked, free it. Whether it was freed.

    The block may be taken, and given back, at any moment. A failed exchange means just that. If
    one succeeds although the block was away meanwhile, it was marked a little early.
    """
    cdef void* seen = load_relaxed_ptr(slot)
    if seen == NULL:
        return False
    if not <uintptr_t>seen & SEEN:
        cas_strong_ptr(slot, &seen, <void*>(<uintptr_t>seen | SEEN))
        return False
    if not cas_strong_ptr(slot, &seen, NULL):
        return False
    seen = <void*>(<uintptr_t>seen & ~<uintptr_t>SEEN)
    # malloc keeps even 32 MiB for itself once it has seen blocks of that size come and go.
    madvise(seen, size, MADV_DONTNEED)
    free(seen)
    return True


cdef int64_t memory_live() noexcept nogil:
    return load_relaxed_i64(&live)


def live_blocks() -> int:
    """Blocks in use: one for each tensor that was made from a request and is not deleted yet."""
    return memory_live()


def idle_bytes() -> int:
    """Bytes kept for reuse."""
    cdef int64_t total = 0
    cdef int size_class
    cdef int i
    for size_class in range(CLASSES):
        for i in range(SLOTS[size_class]):
            if load_relaxed_ptr(&tfsrv_idle_blocks[size_class][i]) != NULL:
                total += class_bytes(size_class)
    return total


def trim() -> int:
    """Free what has lain idle since the last call; see memory_trim. Returns the bytes freed."""
    cdef int64_t freed
    with nogil:
        freed = memory_trim()
    return freed


cdef class MemoryBlock:
    """A block of tensor memory, for tests and tools. Given back by `release` or with the object."""
    cdef Block block
    cdef readonly size_t size

    def __cinit__(self, size: int):
        self.block = memory_take(size)
        self.size = size
        if self.block.data == NULL:
            raise MemoryError

    @property
    def address(self) -> int:
        """Where its bytes are; 0 once it was released."""
        return <uintptr_t>self.block.data

    def release(self) -> None:
        """Give the block back; a second call does nothing."""
        if self.block.data != NULL:
            memory_give(self.block.data, self.block.key)
            self.block.data = NULL

    def __dealloc__(self):
        self.release()
