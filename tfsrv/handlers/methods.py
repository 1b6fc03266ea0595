"""The methods that the server answers, by path: what every gRPC transport serves.

All of them are `_method.Method`s: requests' bytes in, responses' bytes out, ServingError for what
goes wrong. Predict runs without Python; the rare ones are coroutines in a PythonMethod.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from tfsrv._method import Method
from tfsrv._python_method import PythonMethod

Handler = Callable[[bytes], Awaitable[bytes]]
TimedHandler = Callable[[bytes, float | None], Awaitable[bytes]]  # knows the seconds that are left
MethodTable = Mapping[str, Method]  # by "/package.Service/Method"

MODEL_MANAGEMENT = "/tfsrv.ModelManagement"
PREDICTION_SERVICE = "/tensorflow.serving.PredictionService"
MODEL_SERVICE = "/tensorflow.serving.ModelService"
SESSION_SERVICE = "/tensorflow.serving.SessionService"


def method_table(
    predict: Method,
    get_model_metadata: Handler,
    get_model_status: Handler,
    handle_reload_config_request: Handler,
    model_management: Mapping[str, Handler],
    session_run: TimedHandler | None = None,
) -> MethodTable:
    """The table of all services; a path that is not in it is UNIMPLEMENTED.

    `model_management` has the handlers of that service by name; they answer this machine only.
    """
    table = {
        f"{PREDICTION_SERVICE}/Predict": predict,
        f"{PREDICTION_SERVICE}/GetModelMetadata": PythonMethod(
            "GetModelMetadata", get_model_metadata
        ),
        f"{MODEL_SERVICE}/GetModelStatus": PythonMethod("GetModelStatus", get_model_status),
        f"{MODEL_SERVICE}/HandleReloadConfigRequest": PythonMethod(
            "HandleReloadConfigRequest", handle_reload_config_request
        ),
    }
    if session_run is not None:
        table[f"{SESSION_SERVICE}/SessionRun"] = PythonMethod("SessionRun", session_run, timed=True)
    for name, handler in model_management.items():
        table[f"{MODEL_MANAGEMENT}/{name}"] = PythonMethod(name, handler, local_only=True)
    return table
