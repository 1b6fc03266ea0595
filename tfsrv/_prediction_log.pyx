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


def read_prediction_log(record: bytes) -> tuple[int, list[tuple[int, int]]]:
    """The field number of the log's kind, 0 if it has none, and where its request is.

    The request is what the places (first byte, size) in `record` hold, one after the other: occurrences of
    one message merge, and so do their bytes. ServingError INVALID_ARGUMENT if this is no PredictionLog.
    """
    cdef Cursor start = <Cursor><const char*>record
    cdef Cursor at = start
    cdef Cursor end = start + len(record)
    cdef uint32_t tag
    cdef Bytes part
    kind = 0
    places = []
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            raise malformed()
        if tag & 7 == LENGTH_DELIMITED and FIRST_KIND <= tag >> 3 <= LAST_KIND:
            at = read_bytes(at, end, &part)
            if at == NULL:
                raise malformed()
            if kind != tag >> 3:  # of several kinds the last one counts
                kind = int(tag >> 3)
                places = []
            add_requests(places, start, part)
        else:
            at = skip_value(at, end, tag)  # nobody writes groups, and they are refused
            if at == NULL:
                raise malformed()
    return kind, places


cdef int add_requests(list places, Cursor start, Bytes log) except -1:
    """Add where the field `request` of one log is."""
    cdef Cursor at = <Cursor>log.data
    cdef Cursor end = at + log.size
    cdef uint32_t tag
    cdef Bytes part
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            raise malformed()
        if tag == REQUEST_TAG:
            at = read_bytes(at, end, &part)
            if at != NULL:
                places.append((<Cursor>part.data - start, part.size))
        else:
            at = skip_value(at, end, tag)
        if at == NULL:
            raise malformed()
    return 0


cdef object malformed():
    return ServingError(Code.INVALID_ARGUMENT, "not a PredictionLog")
