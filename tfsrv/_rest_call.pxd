"""What a REST call asks for beside its body: set by the frontend, read by handlers and writers."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes


cdef enum RestVerb:
    REST_NONE = 0           # no REST call
    REST_PREDICT = 1
    REST_CLASSIFY = 2
    REST_REGRESS = 3

cdef enum RestForm:         # of a request's or an answer's body
    FORM_JSON = 0
    FORM_PROTOBUF = 1
    FORM_NPY = 2
    FORM_NPZ = 3


# By value in Call; zeros for calls of other protocols.
cdef struct RestCall:
    int verb                # a RestVerb
    int body_form           # a RestForm
    int answer_form         # a RestForm
    bint pretty             # ?pretty: TensorFlow Serving's layout
    bint tells_spec         # ?model_spec: the answer names model, version and signature
    bint gzipped            # the request's body is gzip-coded still
    bint accepts_gzip       # the client takes a gzip-coded answer
    bint sends_gzip         # the answer is gzip-coded; set by who wrote it
    bint in_rows            # "instances": the answer is "predictions"; set by who read the body
    bint any_form           # the client did not say in which form it wants the answer
    bint looked_up          # the servable was looked for; the status says if in vain
    bint transcoded         # Call.body is the gRPC request that the body stands for
    void* counters          # Counters of the signature that the body is for; NULL: not known yet
    bint has_version
    int64_t version
    # Names stand in Call.request, in this order and decoded, before `Call.body`: so many bytes of each.
    size_t name_size
    size_t label_size
    size_t signature_size   # of ?signature_name, for bodies that name none


cdef inline size_t rest_prefix_size(const RestCall* rest) noexcept nogil:
    """Bytes of Call.request before the body."""
    return rest.name_size + rest.label_size + rest.signature_size


cdef inline Bytes rest_name(const RestCall* rest, const char* request) noexcept nogil:
    return Bytes(request, rest.name_size)


cdef inline Bytes rest_label(const RestCall* rest, const char* request) noexcept nogil:
    return Bytes(request + rest.name_size, rest.label_size)


cdef inline Bytes rest_signature(const RestCall* rest, const char* request) noexcept nogil:
    return Bytes(request + rest.name_size + rest.label_size, rest.signature_size)
