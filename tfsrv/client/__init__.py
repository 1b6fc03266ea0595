"""A client of tfsrv and of TensorFlow Serving, without TensorFlow.

    from tfsrv.client import Client

    with Client("localhost:8500") as client:
        answer = client.predict("half_plus_two", {"x": [1.0, 2.0]})
        answer["y"]         # array([2.5, 3. ], dtype=float32)
        answer.version      # 1

`AsyncClient` has the same methods as coroutines. Whatever goes wrong with a call is a ClientError
with gRPC's code; what cannot be sent at all is a TypeError or ValueError.
"""

from tfsrv.client.asynchronous import AsyncClient
from tfsrv.client.channels import Tls
from tfsrv.client.errors import ClientError
from tfsrv.client.examples import Example
from tfsrv.client.models import Model
from tfsrv.client.results import (
    Class,
    Classifications,
    ListedModel,
    ModelMetadata,
    Prediction,
    Regressions,
    Signature,
    TensorInfo,
    VersionStatus,
)
from tfsrv.client.synchronous import Client, PredictionFuture
from tfsrv.errors import Code

__all__ = [
    "AsyncClient",
    "Class",
    "Classifications",
    "Client",
    "ClientError",
    "Code",
    "Example",
    "ListedModel",
    "Model",
    "ModelMetadata",
    "Prediction",
    "PredictionFuture",
    "Regressions",
    "Signature",
    "TensorInfo",
    "Tls",
    "VersionStatus",
]
