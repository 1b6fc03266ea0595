"""What a call of Classify, Regress or MultiInference runs."""

from tfsrv._call cimport Call
from tfsrv.handlers._session_method cimport Settings

cdef int plan_classify(const Settings* settings, Call* call) noexcept nogil
cdef int plan_regress(const Settings* settings, Call* call) noexcept nogil
cdef int plan_multi_inference(const Settings* settings, Call* call) noexcept nogil
