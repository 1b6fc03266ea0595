"""`tfsrv check`: looks for mistakes in files, without a server and without TensorFlow."""
