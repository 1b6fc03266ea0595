"""The methods that the server answers, by path: what every gRPC transport serves.

All of them are `_method.Method`s: requests' bytes in, responses' bytes out, ServingError for what
goes wrong. Predict runs without Python; the rare ones are coroutines in a PythonMethod, or
asynchronous generators in a StreamingMethod.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from tfsrv._method import Method
from tfsrv._python_method import PythonMethod
from tfsrv._streaming_method import StreamingMethod, of_one_request
from tfsrv.handlers.health import Health
from tfsrv.handlers.reflection import ServerReflection

Handler = Callable[[bytes], Awaitable[bytes]]
TimedHandler = Callable[[bytes, float | None], Awaitable[bytes]]  # knows the seconds that are left
MethodTable = Mapping[str, Method]  # by "/package.Service/Method"

HEALTH = "/grpc.health.v1.Health"
MODEL_MANAGEMENT = "/tfsrv.ModelManagement"
PREDICTION_SERVICE = "/tensorflow.serving.PredictionService"
MODEL_SERVICE = "/tensorflow.serving.ModelService"
REFLECTIONS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")  # packages
SESSION_SERVICE = "/tensorflow.serving.SessionService"


def method_table(
    prediction_service: Iterable[Method],
    get_model_metadata: Handler,
    get_model_status: Handler,
    handle_reload_config_request: Handler,
    model_management: Mapping[str, Handler],
    session_run: TimedHandler | None = None,
) -> MethodTable:
    """The table of all services; a path that is not in it is UNIMPLEMENTED.

    `prediction_service` are that service's methods that run without Python. `model_management` has
    the handlers of that service by name; they answer this machine only.
    """
    table = {
        **{f"{PREDICTION_SERVICE}/{method.name}": method for method in prediction_service},
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


def health_methods(health: Health) -> MethodTable:
    """The methods of grpc.health.v1.Health."""
    return {
        f"{HEALTH}/Check": PythonMethod("Check", health.check),
        f"{HEALTH}/List": PythonMethod("List", health.list_all),
        f"{HEALTH}/Watch": StreamingMethod("Watch", of_one_request(health.watch)),
    }


def with_reflection(methods: MethodTable) -> MethodTable:
    """The same table with methods that tell of its services, and of themselves."""
    reflections = {package: f"{package}.ServerReflection" for package in REFLECTIONS}
    services = {path.rpartition("/")[0].removeprefix("/") for path in methods}
    services.update(reflections.values())
    return {
        **methods,
        **{
            f"/{service}/ServerReflectionInfo": StreamingMethod(
                "ServerReflectionInfo", ServerReflection(package, services)
            )
            for package, service in reflections.items()
        },
    }
