"""Ask a server for half plus two of some numbers, with the client of TensorFlow Serving.

    python examples/half_plus_two/predict.py 127.0.0.1:8500 1.0 2.0 5.0

Needs grpcio and tensorflow-serving-api.
"""

import os
import sys

# The client library imports TensorFlow, which has much to say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def main() -> None:
    address, *numbers = sys.argv[1:]
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_two"
    x = request.inputs["x"]
    x.dtype = 1  # DT_FLOAT
    x.tensor_shape.dim.add().size = len(numbers)
    x.float_val.extend(float(number) for number in numbers)

    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout=60, wait_for_ready=True)
    print(response)


if __name__ == "__main__":
    main()
