"""Predict, from the request's bytes to the response's, without Python.

The order of checks, codes and texts are TensorFlow Serving's: predict_util.cc (PreProcessPrediction) and
TensorFlow's cc/saved_model/util.cc (GetInputValues).
"""

from tfsrv._buffer cimport Bytes, bytes_equal
from tfsrv._call cimport Call
from tfsrv._model_spec cimport model_spec_signature
from tfsrv._predict_request cimport PredictView, wire_read_predict
from tfsrv._session cimport Session, session_find
from tfsrv._signature cimport Signature
from tfsrv._status cimport FAILED_PRECONDITION, OK, status_add_bytes, status_set
from tfsrv.handlers._predict_errors cimport tell_unknown_signature, tell_wrong_method_name
from tfsrv.handlers._predict_plan cimport predict_plan
from tfsrv.handlers._predict_python cimport PredictAnswering, PythonAnswering
from tfsrv.handlers._rest_transcode cimport rest_transcode_predict
from tfsrv.handlers._session_method cimport SessionMethod, Settings

from google.protobuf.message import DecodeError

from tfsrv import _proto
from tfsrv.errors import Code, ServingError

cdef Bytes METHOD_PREDICT = Bytes(b"tensorflow/serving/predict", 26)
cdef Bytes METHOD_CLASSIFY = Bytes(b"tensorflow/serving/classify", 27)
cdef Bytes METHOD_REGRESS = Bytes(b"tensorflow/serving/regress", 26)


cdef int read(char* data, size_t size, void* view) noexcept nogil:
    return wire_read_predict(data, size, <PredictView*>view)


cdef int plan(const Settings* settings, Call* call) noexcept nogil:
    if find_signature(settings, call) != OK:
        return call.status.code
    return predict_plan(call, settings.as_content, settings.max_message_bytes)


cdef int find_signature(const Settings* settings, Call* call) noexcept nogil:
    """Set `call.signature`, or the status; returns its code."""
    cdef Session* session = <Session*>call.servable.impl
    cdef Bytes name = model_spec_signature(&call.view.spec)
    cdef Signature* signature = session_find(session, name)
    if signature == NULL:
        return tell_unknown_signature(&call.status, name)
    call.signature = signature
    if signature.counters != NULL:
        call.counters = signature.counters
    if settings.checks_method_name and not (
        bytes_equal(signature.method_name, METHOD_PREDICT)
        or bytes_equal(signature.method_name, METHOD_CLASSIFY)
        or bytes_equal(signature.method_name, METHOD_REGRESS)
    ):
        return tell_wrong_method_name(&call.status, signature)
    if signature.broken:
        status_set(&call.status, FAILED_PRECONDITION, "")
        status_add_bytes(&call.status, signature.broken_reason)
        return FAILED_PRECONDITION
    return OK


cdef class PredictMethod(SessionMethod):
    """`tensorflow.serving.PredictionService/Predict`."""

    def __cinit__(self, *args: object, **kwargs: object) -> None:
        self.name = "Predict"
        self.settings.steps.transcode = rest_transcode_predict
        self.settings.steps.read = read
        self.settings.steps.plan = plan
        self.settings.steps.unreadable = "Failed to parse the PredictRequest."
        self.settings.steps.rare_too_large = (
            "A request with variants, resources, groups or streaming options is too large.")

    cdef PythonAnswering python_answering(self):
        return PredictAnswering(serialization_as_tensor_content=self.settings.as_content)

    def rewrite(self, request: bytes) -> bytes:
        """The same request without what unary Predict does not look at.

        Raises ServingError INTERNAL when protobuf does not decode it either.
        """
        message = _proto.message_class("tensorflow.serving.PredictRequest")()
        try:
            message.ParseFromString(request)
        except DecodeError as error:
            raise ServingError(Code.INTERNAL, "Failed to parse the PredictRequest.") from error
        message.DiscardUnknownFields()
        for field in ("predict_streamed_options", "client_id", "request_options"):
            message.ClearField(field)
        for tensor in message.inputs.values():
            # A tensor of such a type is refused for its type; one of another type ignores them.
            tensor.ClearField("resource_handle_val")
            tensor.ClearField("variant_val")
        return message.SerializeToString()
