"""What Predict tells of a request that does not fit: the longer texts, put together from names.

Codes and texts are those of TensorFlow Serving's server_core.cc and predict_util.cc and of
TensorFlow's cc/saved_model/util.cc; names are told in alphabetical order, as there. Every `tell_`
replaces the status and returns its code.
"""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes, bytes_compare
from tfsrv._predict_request cimport FEW_INPUTS, PredictView, TensorView, predict_view_find
from tfsrv._signature cimport Signature, SignatureInput
from tfsrv._status cimport (
    FAILED_PRECONDITION,
    INTERNAL,
    INVALID_ARGUMENT,
    INVALID_INPUT,
    LABEL_NOT_FOUND,
    MODEL_NOT_FOUND,
    NOT_FOUND,
    SIGNATURE_NOT_FOUND,
    VERSION_NOT_FOUND,
    Status,
    status_add,
    status_add_bytes,
    status_add_int,
    status_set,
)

cdef int NAMES_LIMIT = 200  # names told in one error; the text is cut at 1,024 bytes anyway


cdef int tell_unknown_label(Status* status, Bytes label) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, "Unrecognized servable version label: ")
    status_add_bytes(status, label)
    status.reason = LABEL_NOT_FOUND
    return INVALID_ARGUMENT


cdef int tell_unknown_servable(
    Status* status, const PredictView* view, int64_t version
) noexcept nogil:
    """`version` is the one asked for, or the one that the label asked for stands for."""
    if view.spec.has_version or view.spec.has_version_label:
        status_set(status, NOT_FOUND, "Servable not found for request: Specific(")
        status_add_bytes(status, view.spec.name)
        status_add(status, ", ")
        status_add_int(status, version)
        status.reason = VERSION_NOT_FOUND
    else:
        status_set(status, NOT_FOUND, "Servable not found for request: Latest(")
        status_add_bytes(status, view.spec.name)
        status.reason = MODEL_NOT_FOUND
    status_add(status, ")")
    return NOT_FOUND


cdef int tell_unknown_signature(Status* status, Bytes name) noexcept nogil:
    status_set(status, FAILED_PRECONDITION, 'Serving signature key "')
    status_add_bytes(status, name)
    status_add(status, '" not found.')
    status.reason = SIGNATURE_NOT_FOUND
    return FAILED_PRECONDITION


cdef int tell_wrong_method_name(Status* status, const Signature* signature) noexcept nogil:
    status_set(
        status, INTERNAL,
        "Expected prediction signature method_name to be one of {tensorflow/serving/predict, "
        "tensorflow/serving/classify, tensorflow/serving/regress}. Was: ")
    status_add_bytes(status, signature.method_name)
    return INTERNAL


cdef int tell_wrong_size(
    Status* status, const PredictView* view, const Signature* signature
) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, "input size does not match signature: ")
    status_add_int(status, view.inputs_size)
    status_add(status, "!=")
    status_add_int(status, signature.inputs_size)
    status_add(status, " len({")
    add_request_names(status, view, signature, True, True)
    status_add(status, "}) != len({")
    add_signature_names(status, signature, NULL)
    status_add(status, "}). Sent extra: {")
    add_request_names(status, view, signature, False, True)
    status_add(status, "}. Missing but required: {")
    add_signature_names(status, signature, view)
    status_add(status, "}.")
    status.reason = INVALID_INPUT
    return INVALID_ARGUMENT


cdef int tell_missing_input(
    Status* status, const PredictView* view, const Signature* signature, const SignatureInput* input
) noexcept nogil:
    cdef int i, told = 0
    status_set(status, INVALID_ARGUMENT, "Signature input alias: ")
    status_add_bytes(status, input.alias)
    status_add(status, "(feed name: ")
    status_add_bytes(status, input.tensor_name)
    status_add(
        status, ") not found in request and no default value provided. "
        "Inputs expected to be in the request {")
    add_request_names(status, view, signature, True, True)
    status_add(status, "}, or default input alias set: ")
    for i in range(signature.inputs_size):
        if signature.inputs[i].default_value != NULL:
            add_name(status, signature.inputs[i].alias, told)
            told += 1
    status.reason = INVALID_INPUT
    return INVALID_ARGUMENT


cdef int tell_unknown_input(
    Status* status, const PredictView* view, const Signature* signature
) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, "Inputs contains invalid name. Used request inputs: ")
    add_request_names(status, view, signature, True, False)
    status_add(status, ", request input: ")
    add_request_names(status, view, signature, True, True)
    status.reason = INVALID_INPUT
    return INVALID_ARGUMENT


cdef int tell_bad_tensor(Status* status, Bytes alias) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, "tensor parsing error: ")
    status_add_bytes(status, alias)
    status.reason = INVALID_INPUT
    return INVALID_ARGUMENT


cdef int tell_unknown_output(
    Status* status, const Signature* signature, Bytes alias
) noexcept nogil:
    cdef int i
    status_set(status, INVALID_ARGUMENT, "output tensor alias not found in signature: ")
    status_add_bytes(status, alias)
    status_add(status, " Outputs expected to be in the set {")
    for i in range(signature.outputs_size):
        add_name(status, signature.outputs[i].alias, i)
    status_add(status, "}.")
    status.reason = INVALID_INPUT
    return INVALID_ARGUMENT


cdef int tell_output_twice(Status* status, Bytes alias) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, "duplicate output tensor alias: ")
    status_add_bytes(status, alias)
    status.reason = INVALID_INPUT
    return INVALID_ARGUMENT


# ---- names ----------------------------------------------------------------------------------

cdef void add_name(Status* status, Bytes name, int index) noexcept nogil:
    if index > 0:
        status_add(status, ",")
    status_add_bytes(status, name)


cdef const TensorView* next_view(const PredictView* view, const TensorView* after) noexcept nogil:
    """The request's inputs in the order of their names, one after the other; NULL at the end."""
    cdef const TensorView* best = NULL
    cdef int i
    if view.inputs_size > FEW_INPUTS:  # they are in order
        best = view.inputs
        if after != NULL:
            best = after + 1
        return best if best < view.inputs + view.inputs_size else NULL
    for i in range(view.inputs_size):
        if after != NULL and bytes_compare(view.inputs[i].alias, after.alias) <= 0:
            continue
        if best == NULL or bytes_compare(view.inputs[i].alias, best.alias) < 0:
            best = &view.inputs[i]
    return best


cdef bint has_input(const Signature* signature, Bytes alias) noexcept nogil:
    cdef int low = 0, high = signature.inputs_size, middle, order
    while low < high:
        middle = (low + high) // 2
        order = bytes_compare(signature.inputs[middle].alias, alias)
        if order == 0:
            return True
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return False


cdef void add_request_names(
    Status* status, const PredictView* view, const Signature* signature, bint known, bint unknown
) noexcept nogil:
    """The names of the request's inputs that the signature knows, or does not, or both."""
    cdef const TensorView* at = next_view(view, NULL)
    cdef int looked = 0, told = 0
    while at != NULL and looked < NAMES_LIMIT:
        if known if has_input(signature, at.alias) else unknown:
            add_name(status, at.alias, told)
            told += 1
        looked += 1
        at = next_view(view, at)


cdef void add_signature_names(
    Status* status, const Signature* signature, const PredictView* without
) noexcept nogil:
    """The names of the signature's inputs; with `without`, of those that the request lacks."""
    cdef int i, told = 0
    for i in range(signature.inputs_size):
        if told >= NAMES_LIMIT:
            return
        if without == NULL or predict_view_find(without, signature.inputs[i].alias) == NULL:
            add_name(status, signature.inputs[i].alias, told)
            told += 1
