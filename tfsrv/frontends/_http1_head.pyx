"""The head of an HTTP/1.1 request, read strictly (RFC 9112, RFC 9110).

Two servers that read one request differently can be played off against each other: what is not
as the RFCs want it is refused, where they leave a choice, too. So line ends are CR LF, names have
no space behind them, fields are not folded, and a body's length is told once, in one way.
"""

from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp, memset

from tfsrv.frontends._http1_text cimport next_element, same_word, trimmed

cdef enum:
    TOKEN = 1               # may stand in a method or a field's name
    TARGET = 2              # in a request's target
    VALUE = 4               # in a field's value
    HOST = 8                # in a Host
    METHOD_BYTES = 32
    LENGTH_DIGITS = 18      # of a Content-Length, so that it fits into an int64


cdef struct Problem:
    int status
    const char* text

cdef Problem[PROBLEMS] TEXTS
cdef unsigned char[256] CLASSES


cdef int set_classes() except -1:
    cdef int byte
    for byte in range(256):
        CLASSES[byte] = 0
        if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "!#$%&'*+-.^_`|~"):
            CLASSES[byte] |= TOKEN
        if 0x21 <= byte <= 0x7E and byte != c"#":
            CLASSES[byte] |= TARGET
        if byte == c"\t" or 0x20 <= byte <= 0x7E or byte >= 0x80:
            CLASSES[byte] |= VALUE
        if 0x21 <= byte <= 0x7E and chr(byte) not in "/?#@\\,\"<>^`{|}":
            CLASSES[byte] |= HOST
    return 0


cdef void tell(int problem, int status, const char* text) noexcept:
    TEXTS[problem] = Problem(status, text)


cdef void set_texts() noexcept:
    tell(NO_PROBLEM, 200, "")
    tell(BAD_REQUEST_LINE, 400, "Malformed request line")
    tell(BAD_TARGET, 400, "Malformed request target")
    tell(LONG_TARGET, 414, "The request's target is longer than 8192 bytes")
    tell(BAD_VERSION, 505, "This port speaks HTTP/1.1 and HTTP/1.0")
    tell(LONG_HEAD, 431, "The request's head is longer than 65536 bytes")
    tell(MANY_FIELDS, 431, "The request has more than 100 header fields")
    tell(BAD_FIELD, 400, "Malformed header field")
    tell(BARE_LINE_FEED, 400, "A line of the request's head does not end in CR LF")
    tell(BAD_HOST, 400, "HTTP/1.1 requests have one valid Host field")
    tell(BAD_LENGTH, 400, "Malformed Content-Length")
    tell(TWO_LENGTHS, 400, "The length of the request's body is told more than once")
    tell(BAD_CODING, 400, "Malformed Transfer-Encoding")
    tell(UNKNOWN_TRANSFER, 501, "The only Transfer-Encoding that is supported is chunked")
    tell(BAD_EXPECTATION, 417, "The only expectation that is supported is 100-continue")
    tell(NO_TUNNELS, 501, "CONNECT is not supported")
    tell(LONG_BODY, 413, "The request's body is larger than this server takes")
    tell(BAD_CHUNK, 400, "Malformed chunked body")
    tell(LONG_TRAILERS, 431, "The request's trailers or chunk extensions are too long")
    tell(SLOW_HEAD, 408, "The request's head did not come in time")
    tell(SLOW_BODY, 408, "The request's body did not go on")
    tell(MEMORY_IS_SHORT, 429, "Too many bytes are in flight (--max_in_flight_bytes).")
    tell(NO_MEMORY, 429, "out of memory")
    tell(LATE_ANSWER, 504, "Deadline Exceeded")
    tell(NO_ORIGIN, 400, "Origin header is missing in CORS preflight")
    tell(FAULT, 500, "Internal error")
    tell(STALLED_BODY, 429, "The request did not go on while memory was short.")


set_classes()
set_texts()


cdef int problem_status(int problem) noexcept nogil:
    """The HTTP status that a problem is answered with."""
    return TEXTS[problem].status


cdef const char* problem_text(int problem) noexcept nogil:
    """A sentence for the client."""
    return TEXTS[problem].text


cdef inline bint is_of(char byte, int wanted) noexcept nogil:
    return (CLASSES[<unsigned char>byte] & wanted) != 0


# ---- where a head ends --------------------------------------------------------------------------

cdef int http_head_end(const char* data, size_t size, size_t* scanned, size_t* end) noexcept nogil:
    """Look for the empty line behind a head that begins at `data`. An HttpProblem.

    `end` is the head's size with that line, or 0 when it has not come yet; `scanned`, from 0,
    is where the next look goes on, so that bytes that trickle in are looked at once.
    """
    cdef size_t at = scanned[0]
    cdef const char* found
    end[0] = 0
    if size and not is_of(data[0], TOKEN):
        return BAD_REQUEST_LINE  # TLS, say: do not wait for more
    while at < size:
        found = <const char*>memchr(data + at, c"\n", size - at)
        if found == NULL:
            break
        at = <size_t>(found - data) + 1
        if at < 2 or data[at - 2] != c"\r":
            return BARE_LINE_FEED
        if at >= 4 and data[at - 3] == c"\n":
            end[0] = at
            return NO_PROBLEM if at <= HEAD_BYTES else LONG_HEAD
    scanned[0] = size
    if size > HEAD_BYTES:
        return LONG_HEAD
    if size > TARGET_BYTES + METHOD_BYTES + 16 and memchr(data, c"\n", size) == NULL:
        return LONG_TARGET
    return NO_PROBLEM


# ---- what it says -------------------------------------------------------------------------------

cdef struct Reading:
    HttpHead* head
    int hosts
    int lengths
    int transfers
    int connections
    bint closes
    bint keeps
    bint takes_gzip         # Accept-Encoding names it
    bint refuses_gzip       # with q=0
    bint takes_any          # "*"


cdef int http_head_parse(const char* data, size_t size, HttpHead* head) noexcept nogil:
    """Read a whole head, `size` as http_head_end gave it. An HttpProblem."""
    cdef Reading reading
    cdef size_t at = 0, end
    cdef int fields = 0, problem
    memset(head, 0, sizeof(HttpHead))
    memset(&reading, 0, sizeof(reading))
    reading.head = head
    end = line_end(data, size, 0)
    problem = read_request_line(data, end, head)
    if problem != NO_PROBLEM:
        return problem
    at = end + 2
    head.fields = Bytes(data + at, size - at - 2)
    while at < size - 2:
        end = line_end(data, size, at)
        fields += 1
        if fields > FIELDS:
            return MANY_FIELDS
        problem = read_field(data + at, end - at, &reading)
        if problem != NO_PROBLEM:
            return problem
        at = end + 2
    return conclude(&reading)


cdef inline size_t line_end(const char* data, size_t size, size_t at) noexcept nogil:
    """Where the CR LF of this line is; http_head_end has seen it."""
    return <size_t>(<const char*>memchr(data + at, c"\n", size - at) - data) - 1


cdef int read_request_line(const char* data, size_t size, HttpHead* head) noexcept nogil:
    cdef size_t at = 0, begin
    cdef Bytes target
    cdef int problem
    while at < size and is_of(data[at], TOKEN):
        at += 1
    if at == 0 or at > METHOD_BYTES or at == size or data[at] != c" ":
        return BAD_REQUEST_LINE
    head.method = Bytes(data, at)
    head.verb = verb_of(head.method)
    begin = at + 1
    at = begin
    while at < size and is_of(data[at], TARGET):
        at += 1
    target = Bytes(data + begin, at - begin)
    if target.size > TARGET_BYTES:
        return LONG_TARGET
    if target.size == 0 or size - at != 9 or data[at] != c" ":
        return BAD_REQUEST_LINE if at < size and data[at] == c" " else BAD_TARGET
    problem = read_version(data + at + 1, head)
    return problem if problem != NO_PROBLEM else read_target(target, head)


cdef int verb_of(Bytes method) noexcept nogil:
    """Methods are case-sensitive (RFC 9110, 9.1)."""
    if method.size == 4 and memcmp(method.data, b"POST", 4) == 0:
        return VERB_POST
    if method.size == 3 and memcmp(method.data, b"GET", 3) == 0:
        return VERB_GET
    if method.size == 4 and memcmp(method.data, b"HEAD", 4) == 0:
        return VERB_HEAD
    if method.size == 7 and memcmp(method.data, b"OPTIONS", 7) == 0:
        return VERB_OPTIONS
    return VERB_OTHER


cdef int read_version(const char* text, HttpHead* head) noexcept nogil:
    """HTTP/1.1, HTTP/1.0, or a later minor version, which 1.1 serves as well (RFC 9110, 2.5)."""
    if memcmp(text, b"HTTP/", 5) != 0 or text[6] != c".":
        return BAD_REQUEST_LINE
    if not (c"0" <= text[5] <= c"9" and c"0" <= text[7] <= c"9"):
        return BAD_REQUEST_LINE
    if text[5] != c"1":
        return BAD_VERSION
    head.old = text[7] == c"0"
    return NO_PROBLEM


cdef int read_target(Bytes target, HttpHead* head) noexcept nogil:
    """Find the path and the query in any form of a target (RFC 9112, 3.2)."""
    cdef size_t at = 0
    cdef const char* mark
    if target.data[0] != c"/":
        if target.size == 1 and target.data[0] == c"*" and head.verb == VERB_OPTIONS:
            head.path = target
            return NO_PROBLEM
        if head.method.size == 7 and memcmp(head.method.data, b"CONNECT", 7) == 0:
            return NO_TUNNELS
        at = authority_end(target)
        if at == 0:
            return BAD_TARGET
        target = Bytes(target.data + at, target.size - at)
        if target.size == 0:
            head.path = Bytes(b"/", 1)
            return NO_PROBLEM
    mark = <const char*>memchr(target.data, c"?", target.size)
    if mark == NULL:
        head.path = target
        return NO_PROBLEM
    at = <size_t>(mark - target.data)
    head.path = Bytes(target.data, at) if at else Bytes(b"/", 1)
    head.query = Bytes(mark + 1, target.size - at - 1)
    head.has_query = True
    return NO_PROBLEM


cdef size_t authority_end(Bytes target) noexcept nogil:
    """Where the path of http://HOST/PATH begins; 0 if it is no such thing."""
    cdef size_t at = 0, begin
    if target.size > 7 and same_word(Bytes(target.data, 7), b"http://", 7):
        begin = 7
    elif target.size > 8 and same_word(Bytes(target.data, 8), b"https://", 8):
        begin = 8
    else:
        return 0
    at = begin
    while at < target.size and target.data[at] != c"/" and target.data[at] != c"?":
        if not is_of(target.data[at], HOST):
            return 0
        at += 1
    return at if at > begin else 0


cdef int read_field(const char* line, size_t size, Reading* reading) noexcept nogil:
    """One line `name: value`; a line that begins with a space, a folded one, has no name."""
    cdef size_t at = 0
    cdef Bytes name, value
    while at < size and is_of(line[at], TOKEN):
        at += 1
    if at == 0 or at == size or line[at] != c":":
        return BAD_FIELD
    name = Bytes(line, at)
    at += 1
    value = Bytes(line + at, size - at)
    while at < size:
        if not is_of(line[at], VALUE):
            return BAD_FIELD
        at += 1
    return take_field(name, trimmed(value), reading)


cdef int take_field(Bytes name, Bytes value, Reading* reading) noexcept nogil:
    cdef HttpHead* head = reading.head
    if name.size == 4 and same_word(name, b"host", 4):
        reading.hosts += 1
        return take_host(value, head)
    if name.size == 6 and same_word(name, b"accept", 6):
        head.accept = value
    elif name.size == 6 and same_word(name, b"expect", 6):
        if not same_word(value, b"100-continue", 12):
            return BAD_EXPECTATION
        head.expects_continue = True
    elif name.size == 6 and same_word(name, b"origin", 6):
        head.origin = value
    elif name.size == 10 and same_word(name, b"connection", 10):
        take_connection(value, reading)
    elif name.size == 12 and same_word(name, b"content-type", 12):
        head.content_type = value
    elif name.size == 14 and same_word(name, b"content-length", 14):
        reading.lengths += 1
        return take_length(value, head)
    elif name.size == 14 and same_word(name, b"tfsrv-priority", 14):
        head.low_priority = same_word(value, b"low", 3)
    elif name.size == 15 and same_word(name, b"accept-encoding", 15):
        head.accept_encoding = value
        take_accepted(value, reading)
    elif name.size == 16 and same_word(name, b"content-encoding", 16):
        head.content_encoding = value
        take_encoding(value, head)
    elif name.size == 17 and same_word(name, b"transfer-encoding", 17):
        reading.transfers += 1
        return take_transfer(value, head)
    return NO_PROBLEM


cdef int take_host(Bytes value, HttpHead* head) noexcept nogil:
    cdef size_t i
    for i in range(value.size):
        if not is_of(value.data[i], HOST):
            return BAD_HOST
    head.host = value
    return NO_PROBLEM


cdef int take_length(Bytes value, HttpHead* head) noexcept nogil:
    cdef size_t i
    cdef int64_t length = 0
    if value.size == 0:
        return BAD_LENGTH
    for i in range(value.size):
        if not c"0" <= value.data[i] <= c"9":
            return BAD_LENGTH
        if i < LENGTH_DIGITS:
            length = length * 10 + (value.data[i] - c"0")
    if value.size > LENGTH_DIGITS:
        return LONG_BODY
    head.has_length = True
    head.length = length
    return NO_PROBLEM


cdef int take_transfer(Bytes value, HttpHead* head) noexcept nogil:
    if same_word(value, b"chunked", 7):
        head.chunked = True
        return NO_PROBLEM
    return BAD_CODING if value.size == 0 else UNKNOWN_TRANSFER


cdef void take_connection(Bytes value, Reading* reading) noexcept nogil:
    cdef Bytes element
    while next_element(&value, &element):
        if same_word(element, b"close", 5):
            reading.closes = True
        elif same_word(element, b"keep-alive", 10):
            reading.keeps = True


cdef void take_encoding(Bytes value, HttpHead* head) noexcept nogil:
    """gzip, or nothing: TensorFlow Serving does not look at other codings (util/net_http/compression)."""
    cdef Bytes element
    while next_element(&value, &element):
        if same_word(element, b"gzip", 4) or same_word(element, b"x-gzip", 6):
            head.gzipped = True


cdef void take_accepted(Bytes value, Reading* reading) noexcept nogil:
    cdef Bytes element, coding
    cdef const char* mark
    cdef bint refused
    while next_element(&value, &element):
        mark = <const char*>memchr(element.data, c";", element.size)
        coding = element
        refused = False
        if mark != NULL:
            coding = trimmed(Bytes(element.data, <size_t>(mark - element.data)))
            mark += 1
            refused = is_zero_weight(trimmed(Bytes(mark, <size_t>(element.data + element.size - mark))))
        if same_word(coding, b"gzip", 4) or same_word(coding, b"x-gzip", 6):
            reading.takes_gzip = reading.takes_gzip or not refused
            reading.refuses_gzip = reading.refuses_gzip or refused
        elif coding.size == 1 and coding.data[0] == c"*":
            reading.takes_any = reading.takes_any or not refused


cdef bint is_zero_weight(Bytes text) noexcept nogil:
    """q=0, q=0.000."""
    cdef size_t i
    if text.size < 3 or (text.data[0] | 0x20) != c"q" or text.data[1] != c"=":
        return False
    for i in range(2, text.size):
        if text.data[i] != c"0" and text.data[i] != c".":
            return False
    return True


cdef int conclude(Reading* reading) noexcept nogil:
    """What several fields together mean."""
    cdef HttpHead* head = reading.head
    if reading.hosts > 1 or (reading.hosts == 0 and not head.old):
        return BAD_HOST
    if reading.lengths > 1 or reading.transfers > 1 or (reading.lengths and reading.transfers):
        return TWO_LENGTHS
    if reading.transfers and head.old:
        return BAD_CODING
    head.keep_alive = not reading.closes and (reading.keeps or not head.old)
    head.expects_continue = head.expects_continue and not head.old
    head.accepts_gzip = not reading.refuses_gzip and (reading.takes_gzip or reading.takes_any)
    return NO_PROBLEM


# ---- for tests and tools ------------------------------------------------------------------------

cdef str text(Bytes view):
    return view.data[:view.size].decode("latin-1") if view.size else ""


def head_size(data: bytes, scanned: int = 0) -> int:
    """The size of the head that `data` begins with; 0: not whole yet; below 0: minus the status."""
    cdef size_t looked = scanned
    cdef size_t end = 0
    cdef int problem = http_head_end(<const char*>data, <size_t>len(data), &looked, &end)
    return -problem_status(problem) if problem != NO_PROBLEM else end


def parse_head(data: bytes) -> tuple[int, str] | dict[str, object]:
    """What a whole head says, or the status and the text of what is wrong with it."""
    cdef HttpHead head
    cdef size_t scanned = 0
    cdef size_t end = 0
    cdef int problem = http_head_end(<const char*>data, <size_t>len(data), &scanned, &end)
    if problem == NO_PROBLEM and end == 0:
        raise ValueError("the head is not whole")
    if problem == NO_PROBLEM:
        problem = http_head_parse(<const char*>data, end, &head)
    if problem != NO_PROBLEM:
        return problem_status(problem), problem_text(problem).decode()
    return {
        "method": text(head.method),
        "path": text(head.path),
        "query": text(head.query) if head.has_query else None,
        "host": text(head.host),
        "content_type": text(head.content_type),
        "accept": text(head.accept),
        "origin": text(head.origin),
        "old": head.old,
        "keep_alive": head.keep_alive,
        "expects_continue": head.expects_continue,
        "chunked": head.chunked,
        "length": head.length if head.has_length else None,
        "gzipped": head.gzipped,
        "accepts_gzip": head.accepts_gzip,
        "low_priority": head.low_priority,
    }
