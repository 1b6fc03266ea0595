"""tfsrv: a model server that speaks TensorFlow Serving's protocols."""

__version__ = "0.1.0"
