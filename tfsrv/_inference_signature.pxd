"""What Classify, Regress and MultiInference do with the signatures of a model."""

from tfsrv._signature cimport Signature

cdef str inference_refusal(object signature_def, bint is_regression)
cdef int inference_resolve(Signature* signature, object signature_def) except -1
cdef bint inference_join(Signature* signatures, int size, Signature* joint) except -1
