"""Classify, Regress and MultiInference, from the request's bytes to the response's, without Python."""

from tfsrv._inference_request cimport wire_read_inference, wire_read_multi_inference
from tfsrv._predict_request cimport PredictView
from tfsrv.handlers._inference_plan cimport (
    check_classify,
    check_multi_inference,
    check_regress,
    plan_classify,
    plan_multi_inference,
    plan_regress,
)
from tfsrv.handlers._inference_python cimport MultiAnswering, OneAnswering
from tfsrv.handlers._predict_python cimport PythonAnswering
from tfsrv.handlers._rest_transcode cimport rest_transcode_inference
from tfsrv.handlers._session_method cimport SessionMethod

from google.protobuf.message import DecodeError

from tfsrv import _proto
from tfsrv.errors import Code, ServingError

cdef int read(char* data, size_t size, void* view) noexcept nogil:
    return wire_read_inference(data, size, <PredictView*>view)


cdef int read_multi(char* data, size_t size, void* view) noexcept nogil:
    return wire_read_multi_inference(data, size, <PredictView*>view)


cdef class InferenceMethod(SessionMethod):
    """What the three methods have in common."""

    cdef str request_name   # of the message

    def __cinit__(self, *args: object, **kwargs: object) -> None:
        self.settings.steps.read = read
        self.settings.steps.rare_too_large = "A request with unknown fields in its examples is too large."

    def rewrite(self, request: bytes) -> bytes:
        """The same request without fields that nobody knows.

        Raises ServingError INTERNAL when protobuf does not decode it either.
        """
        message = _proto.message_class(f"tensorflow.serving.{self.request_name}")()
        try:
            message.ParseFromString(request)
        except DecodeError as error:
            raise ServingError(Code.INTERNAL, f"Failed to parse the {self.request_name}.") from error
        message.DiscardUnknownFields()
        return message.SerializeToString()


cdef class ClassifyMethod(InferenceMethod):
    """`tensorflow.serving.PredictionService/Classify`."""

    def __cinit__(self, *args: object, **kwargs: object) -> None:
        self.name = "Classify"
        self.request_name = "ClassificationRequest"
        self.settings.steps.transcode = rest_transcode_inference
        self.settings.steps.check = check_classify
        self.settings.steps.plan = plan_classify
        self.settings.steps.unreadable = "Failed to parse the ClassificationRequest."

    cdef PythonAnswering python_answering(self):
        return OneAnswering(
            is_regression=False, signature_method_name_check=self.settings.checks_method_name)


cdef class RegressMethod(InferenceMethod):
    """`tensorflow.serving.PredictionService/Regress`."""

    def __cinit__(self, *args: object, **kwargs: object) -> None:
        self.name = "Regress"
        self.request_name = "RegressionRequest"
        self.settings.steps.transcode = rest_transcode_inference
        self.settings.steps.check = check_regress
        self.settings.steps.plan = plan_regress
        self.settings.steps.unreadable = "Failed to parse the RegressionRequest."

    cdef PythonAnswering python_answering(self):
        return OneAnswering(
            is_regression=True, signature_method_name_check=self.settings.checks_method_name)


cdef class MultiInferenceMethod(InferenceMethod):
    """`tensorflow.serving.PredictionService/MultiInference`."""

    def __cinit__(self, *args: object, **kwargs: object) -> None:
        self.name = "MultiInference"
        self.request_name = "MultiInferenceRequest"
        self.settings.steps.read = read_multi
        self.settings.steps.check = check_multi_inference
        self.settings.steps.plan = plan_multi_inference
        self.settings.steps.unreadable = "Failed to parse the MultiInferenceRequest."

    cdef PythonAnswering python_answering(self):
        return MultiAnswering(signature_method_name_check=self.settings.checks_method_name)
