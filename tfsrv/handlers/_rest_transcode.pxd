"""REST calls to SavedModels, made gRPC ones."""

from tfsrv._call cimport Call

cdef int rest_transcode_predict(Call* call, size_t most_bytes) noexcept nogil
cdef int rest_transcode_inference(Call* call, size_t most_bytes) noexcept nogil
