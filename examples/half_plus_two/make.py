"""Write the model in this folder: y = x / 2 + 2, as version 1.

    python examples/half_plus_two/make.py

It needs TensorFlow. The model is committed, so nobody has to run this to serve it.
"""

import shutil
from pathlib import Path

import tensorflow as tf


class HalfPlusTwo(tf.Module):
    """Holds its two numbers in variables, as a trained model would."""

    def __init__(self) -> None:
        super().__init__()
        self.a = tf.Variable(0.5, name="a")
        self.b = tf.Variable(2.0, name="b")

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def predict(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": self.a * x + self.b}


def main() -> None:
    version = Path(__file__).parent / "1"
    shutil.rmtree(version, ignore_errors=True)
    model = HalfPlusTwo()
    tf.saved_model.save(model, str(version), signatures=model.predict)
    (version / "assets").rmdir()  # empty, and git keeps no empty folders


if __name__ == "__main__":
    main()
