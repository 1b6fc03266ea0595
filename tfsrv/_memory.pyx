"""Where the memory of tensors comes from.

TensorFlow copies memory that is not 64-byte aligned (TF_NewTensor), so all blocks are. Blocks of
64 KiB to 16 MiB are kept when they come back, in classes of powers of two: fresh pages of that
size cost more than filling them. At most 63 MiB lie idle. Smaller ones are malloc's own job,
larger ones too rare to keep.

Any thread may take and give, without a lock and without the GIL: an idle block stands in a slot,
and whoever exchanges a slot for NULL owns what was in it.
"""

from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc

from tfsrv._atomic cimport (
    add_relaxed_i64,
    cas_weak_ptr,
    exchange_ptr,
    load_relaxed_i64,
    load_relaxed_ptr,
)

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void** data, size_t alignment, size_t size)

cdef extern from *:
    """
    static void* tfsrv_idle_blocks[9][16];
    """
    void* tfsrv_idle_blocks[9][16]
    int count_leading_zeros "__builtin_clzll"(unsigned long long value) nogil

cdef enum:
    ALIGNMENT = 64          # bytes; EIGEN_MAX_ALIGN_BYTES of TensorFlow's builds
    PAGE = 4096
    SMALLEST_SHIFT = 16     # 64 KiB
    CLASSES = 9             # 64 KiB, 128 KiB ... 16 MiB
    SMALLEST_KEPT = 1 << 16
    LARGEST_KEPT = 1 << 24

# Blocks of each class that may lie idle: 8 MiB of a class, but 16 blocks at most, one at least.
cdef int[9] SLOTS = [16, 16, 16, 16, 8, 4, 2, 1, 1]

cdef int64_t live = 0  # atomic: blocks taken and not given back


cdef inline int class_of(size_t size) noexcept nogil:
    """The smallest class whose blocks hold `size` bytes, SMALLEST_KEPT to LARGEST_KEPT of them."""
    return 64 - count_leading_zeros(size - 1) - SMALLEST_SHIFT if size > SMALLEST_KEPT else 0


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
                return block
    if posix_memalign(&block.data, PAGE, <size_t>1 << (size_class + SMALLEST_SHIFT)) != 0:
        block.data = NULL
    return block


cdef void memory_give(void* data, void* key) noexcept nogil:
    """Take a block back. The caller, and TensorFlow with it, must be done with its bytes."""
    cdef int size_class = <int>(<uintptr_t>key) - 1
    cdef void** slots
    cdef void* empty
    cdef int i
    add_relaxed_i64(&live, -1)
    if <uintptr_t>key > CLASSES:
        free(key)
        return
    slots = tfsrv_idle_blocks[size_class]
    for i in range(SLOTS[size_class]):
        empty = NULL
        # A weak exchange may fail without cause: the block goes into another slot then, or away.
        if load_relaxed_ptr(&slots[i]) == NULL and cas_weak_ptr(&slots[i], &empty, data):
            return
    free(data)


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
                total += <int64_t>1 << (size_class + SMALLEST_SHIFT)
    return total


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
