"""A ModelSpec: read as views into a request's bytes, and written into an answer."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes


# Which servable and which of its signatures a request asks for. Nothing is owned.
cdef struct ModelSpecView:
    bint present            # there is a ModelSpec, though it may be empty
    Bytes name
    Bytes signature_name
    bint has_version
    int64_t version
    bint has_version_label
    Bytes version_label


# Which servable and signature a request is for that we write ourselves. Nothing is owned.
cdef struct RequestSpec:
    Bytes name
    bint has_version
    int64_t version
    Bytes label             # no size, or there is a version: none
    Bytes signature_name    # no size: none


cdef inline Bytes default_signature() noexcept nogil:
    """The name that stands for none: saved_model/signature_constants.h."""
    return Bytes(b"serving_default", 15)


cdef inline Bytes model_spec_signature(const ModelSpecView* spec) noexcept nogil:
    """The signature that is asked for, the default one if none is named."""
    return spec.signature_name if spec.signature_name.size else default_signature()


cdef int model_spec_read(ModelSpecView* spec, Bytes message) noexcept nogil
cdef int request_put_spec(Buffer* wire, const RequestSpec* spec) noexcept nogil
cdef size_t model_spec_size(Bytes name, int64_t version, Bytes signature_name) noexcept nogil
cdef char* model_spec_put(
    char* at, Bytes name, int64_t version, Bytes signature_name) noexcept nogil
