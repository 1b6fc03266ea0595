"""Models that compile themselves with XLA: only if a flag says so, as in TensorFlow Serving."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from tests.conftest import tensorflow_version
from tests.functional.launching import client, launched

WRITE_MODEL = """
import sys
import tensorflow as tf

class Doubler(tf.Module):
    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def double(self, x):
        return {"y": x * 2}

doubler = Doubler()
tf.saved_model.save(doubler, sys.argv[1], signatures={"serving_default": doubler.double})
"""

ASK = """
model_spec { name: "doubler" }
inputs { key: "x" value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 2 } }
"""


@pytest.fixture(scope="module")
def doubler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose only function is compiled when it runs."""
    if tensorflow_version() is None:
        pytest.skip("needs TensorFlow")
    path = tmp_path_factory.mktemp("models") / "doubler"
    subprocess.run([sys.executable, "-c", WRITE_MODEL, path / "1"], capture_output=True, check=True)
    return path


def test_a_model_may_not_compile_itself_by_default(doubler: Path) -> None:
    with launched(doubler, "--port=0") as server, client(server.address()) as ask:
        with pytest.raises(grpc.RpcError) as caught:
            ask.predict(ASK)
        assert "XLA compilation disabled" in str(caught.value)
        assert server.stop() == 0


@pytest.mark.parametrize("flag", ["xla_cpu_compilation_enabled", "xla_gpu_compilation_enabled"])
def test_a_model_may_compile_itself_when_a_flag_says_so(doubler: Path, flag: str) -> None:
    with launched(doubler, "--port=0", f"--{flag}") as server, client(server.address()) as ask:
        assert list(ask.predict(ASK).outputs["y"].float_val) == [4.0]
        assert server.stop() == 0
