"""What Classify, Regress and MultiInference do with the signatures of a model; found out at load.

Rules and texts are those of TensorFlow Serving's servables/tensorflow/classifier.cc
(PreProcessClassification) and regressor.cc (PreProcessRegression).
"""

from tfsrv._atomic cimport load_relaxed_int
from tfsrv._signature cimport (
    InferenceUse,
    Signature,
    own_bytes,
    same_output,
    signature_make_room,
    text_of,
    zeroed,
)
from tfsrv._tf cimport DT_STRING, TF_Output

from google.protobuf import text_format

from tfsrv._proto import pool

cdef enum:
    LONGEST_REFUSAL = 16384     # bytes; it has the SignatureDef in it, of each signature of each model


cdef str inference_refusal(object signature_def, bint is_regression):
    """Why Regress, or Classify, can do nothing with a SignatureDef; "" if it can."""
    return regress_refusal(signature_def) if is_regression else classify_refusal(signature_def)


cdef int inference_resolve(Signature* signature, object signature_def) except -1:
    """Set `classify` and `regress` of a signature that was resolved from this SignatureDef."""
    set_use(&signature.classify, signature, inference_refusal(signature_def, False), "classes", "scores")
    set_use(&signature.regress, signature, inference_refusal(signature_def, True), "", "outputs")
    return 0


cdef int set_use(
    InferenceUse* use, const Signature* signature, str refusal, str labels, str scores
) except -1:
    cdef int i
    use.labels = -1
    use.scores = -1
    if refusal:
        use.refusal = own_bytes(refusal.encode("utf-8", "replace")[:LONGEST_REFUSAL])
        return 0
    for i in range(signature.outputs_size):
        alias = text_of(signature.outputs[i].alias)
        if labels and alias == labels:
            use.labels = i
        elif alias == scores:
            use.scores = i
    return 0


cdef str classify_refusal(object signature_def):
    """Why the signature does not classify; "" if it does."""
    inputs, outputs = signature_def.inputs, signature_def.outputs
    if len(inputs) != 1:
        return "Expected one input Tensor."
    if len(outputs) not in (1, 2):
        return f"Expected one or two output Tensors, found {len(outputs)}"
    if "inputs" not in inputs:
        return f"No classification inputs found in SignatureDef: {debug_string(signature_def)}"
    if "classes" not in outputs and "scores" not in outputs:
        return (
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {debug_string(signature_def)}")
    return ""


cdef str regress_refusal(object signature_def):
    """Why the signature does not regress; "" if it does."""
    inputs, outputs = signature_def.inputs, signature_def.outputs
    if len(inputs) != 1:
        return "Expected one input Tensor."
    if len(outputs) != 1:
        return "Expected one output Tensor."
    if "inputs" not in inputs:
        return f"No regression inputs found in SignatureDef: {debug_string(signature_def)}"
    if "outputs" not in outputs:
        return f"No regression outputs found in SignatureDef: {debug_string(signature_def)}"
    return ""


cdef str debug_string(object message):
    return text_format.MessageToString(message, descriptor_pool=pool())


# ---- the joint signature -----------------------------------------------------------------------------

cdef bint inference_join(Signature* signatures, int size, Signature* joint) except -1:
    """Fill the zeroed `joint` with what MultiInference may ask of several of the signatures at once.

    It has their inputs and outputs, each once. A request fetches some of the outputs, as with an output
    filter, so one run serves it, and one queue all such requests. All inputs get the same examples, also
    those of signatures that a request does not name, which then compute nothing. Only signatures that take
    strings are in it. False, and nothing is made: there are no two that could be asked together.
    """
    cdef int i, members = 0, inputs = 0, outputs = 0
    for i in range(size):
        if may_join(&signatures[i]):
            members += 1
            inputs += signatures[i].inputs_size
            outputs += signatures[i].outputs_size
    if members < 2:
        return False
    joint.name = own_bytes(b"")
    signature_make_room(joint, inputs, outputs)
    joint.inputs_size = 0
    joint.outputs_size = 0
    joint.groups = <int*>zeroed(outputs, sizeof(int))
    for i in range(size):
        if may_join(&signatures[i]):
            join(joint, &signatures[i], i)
    return True


cdef bint may_join(const Signature* signature) noexcept nogil:
    return (
        not signature.broken
        and signature.inputs_size == 1
        and signature.inputs[0].dtype == DT_STRING
        and (signature.classify.refusal.data == NULL or signature.regress.refusal.data == NULL)
    )


cdef int join(Signature* joint, Signature* signature, int group) except -1:
    """Add what the joint signature has not yet."""
    cdef int i, at
    at = position_of(joint.feeds, joint.inputs_size, signature.feeds[0])
    if at == joint.inputs_size:
        joint.feeds[at] = signature.feeds[0]
        joint.inputs[at].dtype = signature.inputs[0].dtype
        joint.inputs[at].rank = signature.inputs[0].rank
        joint.inputs[at].has_rows = signature.inputs[0].has_rows
        joint.inputs_size += 1
        joint.inputs[at].alias = own_bytes(b"inputs")
    signature.joint_outputs = <int*>zeroed(signature.outputs_size, sizeof(int))
    for i in range(signature.outputs_size):
        at = position_of(joint.fetches, joint.outputs_size, signature.fetches[i])
        signature.joint_outputs[i] = at
        if at == joint.outputs_size:
            joint.fetches[at] = signature.fetches[i]
            joint.groups[at] = group
            joint.outputs[at].dtype = signature.outputs[i].dtype
            joint.outputs[at].has_rows = load_relaxed_int(&signature.outputs[i].has_rows)
            joint.outputs_size += 1
    return 0


cdef int position_of(const TF_Output* outputs, int size, TF_Output wanted) noexcept nogil:
    """Where a tensor is in a list; behind the end if it is not there."""
    cdef int i
    for i in range(size):
        if same_output(outputs[i], wanted):
            return i
    return size
