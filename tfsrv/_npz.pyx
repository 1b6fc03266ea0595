"""numpy's .npz: a zip of .npy files. No GIL.

Members may be stored or deflated, which is what numpy.savez and numpy.savez_compressed write; a
name is that of the array with ".npy" behind it. The directory at the end of a zip says where its
members are. What it says is checked: all of it lies in the file, members and directory each at a
place of its own, headers before members say the same, and the bytes have the checksum they should
have. What a zip could do but numpy's don't is refused: encryption, several disks, 64-bit sizes,
other methods, bytes before the first member or behind the last.

Written members are stored. Their time is the first that zip knows, as numpy's.
"""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp, memcpy, memset

from tfsrv._buffer cimport buffer_append, buffer_append_bytes, buffer_reserve, bytes_equal
from tfsrv._crc32 cimport crc32_of
from tfsrv._inflate cimport INFLATE_NO_MEMORY, INFLATE_OK, inflate_raw
from tfsrv._status cimport (
    INVALID_ARGUMENT,
    OK,
    RESOURCE_EXHAUSTED,
    status_add,
    status_add_bytes,
    status_add_int,
    status_free,
    status_init,
    status_set,
)

cdef enum:
    LOCAL_BYTES = 30        # of the header before a member, without names
    CENTRAL_BYTES = 46      # of a member's entry in the directory, without names
    END_BYTES = 22          # of the record behind the directory
    LOCAL_SIGNATURE = 0x04034B50
    CENTRAL_SIGNATURE = 0x02014B50
    END_SIGNATURE = 0x06054B50
    LONGEST_COMMENT = 0xFFFF
    STORED = 0
    DEFLATED = 8
    IS_ENCRYPTED = 1 << 0   # bits of the flags
    HAS_DESCRIPTOR = 1 << 3     # CRC and sizes come behind the member
    IS_PATCH = 1 << 5
    IS_STRONGLY_ENCRYPTED = 1 << 6
    IS_UTF8 = 1 << 11
    HIDES_HEADERS = 1 << 13
    VERSION = 20            # 2.0, that is needed for what is written here
    LATEST_VERSION = 45     # 4.5, that numpy says is needed, as it allows for 64-bit sizes
    FIRST_DAY = 0x21        # 1980-01-01
    MOST_DEFLATED = 1032    # bytes that one byte can hold, by deflate's longest match and shortest code

cdef extern from *:
    """
    #define TFSRV_IN_ZIP64 0xffffffffU
    """
    const uint32_t IN_ZIP64 "TFSRV_IN_ZIP64"    # a size or place that is told elsewhere, in 64 bits


cdef inline uint32_t load_2(const char* at) noexcept nogil:
    return <uint8_t>at[0] | <uint32_t><uint8_t>at[1] << 8


cdef inline uint32_t load_4(const char* at) noexcept nogil:
    return load_2(at) | load_2(at + 2) << 16


cdef inline void store_2(char* at, uint32_t value) noexcept nogil:
    at[0] = <char>(value & 0xFF)
    at[1] = <char>(value >> 8 & 0xFF)


cdef inline void store_4(char* at, uint32_t value) noexcept nogil:
    store_2(at, value)
    store_2(at + 2, value >> 16)


# ---- reading ----------------------------------------------------------------------------------------

cdef int refuse_zip(Status* status, const char* text) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, "The npz ")
    status_add(status, text)
    return INVALID_ARGUMENT


cdef int refuse_member(Status* status, Bytes name, const char* text) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, "The member \"")
    status_add_bytes(status, name)
    status_add(status, "\" of the npz ")
    status_add(status, text)
    return INVALID_ARGUMENT


cdef int npz_begin(NpzReader* reader, Bytes file, Status* status) noexcept nogil:
    """Find the directory of `file`. OK, or a code with its text in `status`."""
    cdef const char* end = find_end(file)
    cdef size_t place
    cdef size_t size
    if end == NULL:
        return refuse_zip(status, "is not a whole zip file: its directory was not found")
    place = load_4(end + 16)
    size = load_4(end + 12)
    if load_2(end + 8) == 0xFFFF or load_2(end + 10) == 0xFFFF or place == IN_ZIP64 or size == IN_ZIP64:
        return refuse_zip(status, "is a zip64, which is not read")
    if load_2(end + 4) != 0 or load_2(end + 6) != 0 or load_2(end + 8) != load_2(end + 10):
        return refuse_zip(status, "is a part of a zip of several disks")
    if place + size != <size_t>(end - file.data):
        return refuse_zip(status, "is damaged: its directory is not where it should be")
    if load_2(end + 8) == 0 and size != 0:
        return refuse_zip(status, "is damaged: its directory goes on behind its last member")
    reader.file = file
    reader.start = place
    reader.at = place
    reader.end = place + size
    reader.members = <int>load_2(end + 8)
    return OK


cdef const char* find_end(Bytes file) noexcept nogil:
    """The record behind the directory. Only a comment may follow, and ends the file. NULL if none."""
    cdef size_t longest = min(file.size - min(file.size, <size_t>END_BYTES), <size_t>LONGEST_COMMENT)
    cdef size_t comment
    cdef const char* at
    if file.size < END_BYTES:
        return NULL
    for comment in range(longest + 1):
        at = file.data + file.size - END_BYTES - comment
        if load_4(at) == END_SIGNATURE and load_2(at + 20) == comment:
            return at
    return NULL


cdef int npz_next(NpzReader* reader, NpzMember* member, Status* status) noexcept nogil:
    """The next member, while there are `members`. OK, or a code with its text in `status`."""
    cdef const char* entry = reader.file.data + reader.at
    cdef size_t room = reader.end - reader.at
    cdef size_t size
    cdef uint32_t packed
    cdef Bytes name
    if room < CENTRAL_BYTES or load_4(entry) != CENTRAL_SIGNATURE:
        return refuse_zip(status, "is damaged: its directory ends before its last member")
    size = CENTRAL_BYTES + load_2(entry + 28) + load_2(entry + 30) + load_2(entry + 32)
    if room < size:
        return refuse_zip(status, "is damaged: its directory ends before its last member")
    reader.at += size
    reader.members -= 1
    name = Bytes(entry + CENTRAL_BYTES, load_2(entry + 28))
    member.method = <int>load_2(entry + 10)
    member.crc = load_4(entry + 16)
    packed = load_4(entry + 20)
    member.size = load_4(entry + 24)
    member.start = load_4(entry + 42)
    if load_2(entry + 8) & (IS_ENCRYPTED | IS_STRONGLY_ENCRYPTED | HIDES_HEADERS):
        return refuse_member(status, name, "is encrypted")
    if load_2(entry + 34) != 0:
        return refuse_member(status, name, "is on another disk")
    if packed == IN_ZIP64 or member.size == IN_ZIP64 or member.start == IN_ZIP64:
        return refuse_member(status, name, "has 64-bit sizes, which are not read")
    if (load_2(entry + 6) > LATEST_VERSION or load_2(entry + 8) & IS_PATCH
            or member.method not in (STORED, DEFLATED)):
        return refuse_member(
            status, name, "is packed in a way that is not read: store it or deflate it")
    if name.size < 4 or memcmp(name.data + name.size - 4, b".npy", 4) != 0:
        return refuse_member(status, name, "is not an array: its name does not end in .npy")
    if not find_packed(reader, entry, name, packed, member):
        return refuse_member(status, name, "is not where the directory says")
    if member.method == STORED and packed != member.size:
        return refuse_member(status, name, "is stored, and its two sizes differ")
    member.name = Bytes(name.data, name.size - 4)
    if reader.members == 0 and reader.at != reader.end:
        return refuse_zip(status, "is damaged: its directory goes on behind its last member")
    return OK


cdef bint find_packed(
    const NpzReader* reader, const char* entry, Bytes name, size_t packed, NpzMember* member
) noexcept nogil:
    """Find the bytes of a member, before the directory and behind a header that says the same."""
    cdef const char* header = reader.file.data + member.start
    cdef size_t room = reader.start - min(member.start, reader.start)
    cdef size_t start
    cdef Bytes own_name
    if room < LOCAL_BYTES or load_4(header) != LOCAL_SIGNATURE:
        return False
    own_name = Bytes(header + LOCAL_BYTES, load_2(header + 26))
    start = LOCAL_BYTES + own_name.size + load_2(header + 28)
    if room < start or room - start < packed:
        return False
    # Flags and method; then what stands before or behind the member, numpy's sizes in an extra field.
    if memcmp(header + 6, entry + 8, 4) != 0 or not bytes_equal(own_name, name):
        return False
    if not load_2(header + 6) & HAS_DESCRIPTOR:
        if load_4(header + 14) != member.crc:
            return False
        if load_4(header + 18) not in (packed, <size_t>IN_ZIP64):
            return False
        if load_4(header + 22) not in (member.size, <size_t>IN_ZIP64):
            return False
    member.packed = Bytes(header + start, packed)
    member.end = member.start + start + packed
    return True


cdef int npz_unpack(
    const NpzMember* member, size_t most_bytes, Buffer* scratch, Bytes* content, Status* status
) noexcept nogil:
    """What a member holds: `content` is a view into the file, or into `scratch` if it was packed.

    OK, or a code with its text in `status`. No memory is taken for what is longer than
    `most_bytes`, or cannot be what the packed bytes hold.
    """
    cdef int result
    if member.size > most_bytes:
        refuse_member(status, member.name, "holds more than ")
        status_add_int(status, <int64_t>most_bytes)
        status_add(status, " bytes")
        return INVALID_ARGUMENT
    if member.method == STORED:
        content[0] = member.packed
    else:
        if member.size // MOST_DEFLATED > member.packed.size:
            return refuse_member(status, member.name, "does not hold as much as its directory says")
        scratch.size = 0
        if buffer_reserve(scratch, member.size) != 0:
            return status_set(status, RESOURCE_EXHAUSTED, "There is no memory to unpack the npz")
        result = inflate_raw(member.packed, scratch.data, member.size)
        if result == INFLATE_NO_MEMORY:
            return status_set(status, RESOURCE_EXHAUSTED, "There is no memory to unpack the npz")
        if result != INFLATE_OK:
            return refuse_member(status, member.name, "is damaged, or of another size than is said")
        scratch.size = member.size
        content[0] = Bytes(scratch.data, member.size)
    if crc32_of(content[0]) != member.crc:
        return refuse_member(status, member.name, "is damaged: its checksum is another")
    return OK


# ---- writing ----------------------------------------------------------------------------------------

cdef size_t npz_unpacked_bytes(Bytes file) noexcept nogil:
    """What its members say that they hold, all together, so far as the file can be read at all.

    That is what reading it takes, at most: a member that holds more is refused.
    """
    cdef NpzReader reader
    cdef NpzMember member
    cdef Status status
    cdef size_t size = 0
    cdef int code
    status_init(&status)
    code = npz_begin(&reader, file, &status)
    while code == OK and reader.members > 0:
        code = npz_next(&reader, &member, &status)
        if code == OK:
            size += member.size
    status_free(&status)
    return size


cdef int npz_begin_member(Buffer* into, Bytes name) noexcept nogil:
    """Append the header of a member. The array follows, and npz_end_member. 0, or -1 without memory."""
    cdef char* header
    if buffer_reserve(into, LOCAL_BYTES + name.size + 4) != 0:
        return -1
    header = into.data + into.size
    memset(header, 0, LOCAL_BYTES)
    store_4(header, LOCAL_SIGNATURE)
    store_2(header + 4, VERSION)
    store_2(header + 6, IS_UTF8)
    store_2(header + 12, FIRST_DAY)
    store_2(header + 26, <uint32_t>name.size + 4)
    into.size += LOCAL_BYTES
    buffer_append_bytes(into, name)  # there is room for these
    buffer_append(into, b".npy", 4)
    return 0


cdef void npz_end_member(Buffer* into, size_t start) noexcept nogil:
    """What was appended since npz_begin_member, whose header is at `start`, is the member.

    Its checksum is of these bytes, not of what they were copied from.
    """
    cdef char* header = into.data + start
    cdef size_t begin = start + LOCAL_BYTES + load_2(header + 26)
    cdef size_t size = into.size - begin
    store_4(header + 14, crc32_of(Bytes(into.data + begin, size)))
    store_4(header + 18, <uint32_t>size)
    store_4(header + 22, <uint32_t>size)


cdef int npz_end(Buffer* into, size_t start, int members) noexcept nogil:
    """Append the directory of `members`, the first of which begins at `start`. 0, or -1 without memory."""
    cdef size_t directory = into.size
    cdef size_t at = start
    cdef size_t name
    cdef char* entry
    cdef const char* header
    cdef int _i
    for _i in range(members):
        name = load_2(into.data + at + 26)
        if buffer_reserve(into, CENTRAL_BYTES + name) != 0:
            return -1
        header = into.data + at
        entry = into.data + into.size
        memset(entry, 0, CENTRAL_BYTES)
        store_4(entry, CENTRAL_SIGNATURE)
        store_2(entry + 4, VERSION)
        memcpy(entry + 6, header + 4, 26)  # all of the header, from the version to the name's size
        store_4(entry + 42, <uint32_t>(at - start))
        memcpy(entry + CENTRAL_BYTES, header + LOCAL_BYTES, name)
        into.size += CENTRAL_BYTES + name
        at += LOCAL_BYTES + name + load_4(header + 18)
    if buffer_reserve(into, END_BYTES) != 0:
        return -1
    entry = into.data + into.size
    memset(entry, 0, END_BYTES)
    store_4(entry, END_SIGNATURE)
    store_2(entry + 8, <uint32_t>members)
    store_2(entry + 10, <uint32_t>members)
    store_4(entry + 12, <uint32_t>(into.size - directory))
    store_4(entry + 16, <uint32_t>(directory - start))
    into.size += END_BYTES
    return 0
