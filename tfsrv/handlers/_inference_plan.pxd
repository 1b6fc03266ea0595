"""What a call of Classify, Regress or MultiInference runs."""

from tfsrv._buffer cimport Bytes
from tfsrv._call cimport Call
from tfsrv.handlers._session_method cimport Settings

cdef int check_classify(const Settings* settings, Call* call) noexcept nogil
cdef int check_regress(const Settings* settings, Call* call) noexcept nogil
cdef int check_multi_inference(const Settings* settings, Call* call) noexcept nogil
cdef int plan_classify(const Settings* settings, Call* call) noexcept nogil
cdef int plan_regress(const Settings* settings, Call* call) noexcept nogil
cdef int plan_multi_inference(const Settings* settings, Call* call) noexcept nogil
cdef Bytes task_signature_name(const Call* call, int index) noexcept nogil
cdef bint is_regression_task(const Call* call, int index) noexcept nogil
cdef int check_task_names(Call* call, int index) noexcept nogil
cdef int check_task_method(Call* call, int index) noexcept nogil
cdef void tasks_are_checked(Call* call) noexcept nogil
cdef int tell_unknown_task(Call* call, Bytes name) noexcept nogil
cdef void count_examples(Call* call) noexcept nogil
cdef int tell_empty(Call* call) noexcept nogil
