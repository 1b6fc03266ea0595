"""A PredictionLog: which kind of request it holds, and where in its bytes.

Requests of warm-up files can be large, and nothing of them is parsed here: whoever handles such a request
does that. Message: tensorflow_serving/apis/prediction_log.proto.
"""

from libc.stdint cimport uint32_t

from tfsrv._buffer cimport Bytes
from tfsrv._wire_format cimport (
    LENGTH_DELIMITED,
    Cursor,
    read_bytes,
    read_tag,
    skip_value,
)

from tfsrv.errors import Code, ServingError

cdef enum:
    FIRST_KIND = 2      # classify_log
    LAST_KIND = 7       # predict_streamed_log
    REQUEST_TAG = 1 << 3 | LENGTH_DELIMITED     # of each kind of log but streamed ones, of which nobody asks
    MOST_PLACES = 1024  # writers need one; a record of nothing else would become a billion Python objects


cdef struct Log:
    int kind                        # field number; 0: none yet
    int places_size
    Bytes[MOST_PLACES] places       # of the parts of its request


def read_prediction_log(record: bytes) -> tuple[int, list[tuple[int, int]]]:
    """The field number of the log's kind, 0 if it has none, and where its request is.

    The request is what the places (first byte, size) in `record` hold, one after the other: occurrences of
    one message merge, and so do their bytes. ServingError INVALID_ARGUMENT if this is no PredictionLog, or
    one in more than 1,024 parts. Large records are read without the GIL.
    """
    cdef Cursor start = <Cursor><const char*>record
    cdef Cursor end = start + len(record)
    cdef Log log
    cdef bint is_valid
    cdef int i
    log.kind = 0
    log.places_size = 0
    with nogil:
        is_valid = read_log(start, end, &log)
    if not is_valid:
        raise ServingError(Code.INVALID_ARGUMENT, "not a PredictionLog")
    places = [
        (<Cursor>log.places[i].data - start, log.places[i].size) for i in range(log.places_size)
    ]
    return log.kind, places


cdef bint read_log(Cursor at, Cursor end, Log* log) noexcept nogil:
    """Find out about the message; False if it is malformed."""
    cdef uint32_t tag
    cdef Bytes part
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag & 7 == LENGTH_DELIMITED and FIRST_KIND <= tag >> 3 <= LAST_KIND:
            at = read_bytes(at, end, &part)
            if at == NULL:
                return False
            if log.kind != <int>(tag >> 3):  # of several kinds the last one counts
                log.kind = <int>(tag >> 3)
                log.places_size = 0
            if not add_requests(part, log):
                return False
        else:
            at = skip_value(at, end, tag)  # nobody writes groups, and they are refused
            if at == NULL:
                return False
    return True


cdef bint add_requests(Bytes part, Log* log) noexcept nogil:
    """Add where the field `request` of one occurrence of a log is; False if that is malformed."""
    cdef Cursor at = <Cursor>part.data
    cdef Cursor end = at + part.size
    cdef uint32_t tag
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if tag == REQUEST_TAG:
            if log.places_size == MOST_PLACES:
                return False
            at = read_bytes(at, end, &log.places[log.places_size])
            log.places_size += 1
        else:
            at = skip_value(at, end, tag)
        if at == NULL:
            return False
    return True
