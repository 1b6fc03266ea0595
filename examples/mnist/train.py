"""Train a network that reads digits, and export it as a new version for a server.

    python examples/mnist/train.py /tmp/mnist
    python examples/mnist/train.py /tmp/mnist --version=7

Takes a few seconds. Needs TensorFlow and scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

# TensorFlow has much to say when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf

from digits import MOST_INK, POINTS, Images, Labels, held_out_digits, training_digits

EPOCHS = 20
DIGITS = 10


def trained_network(images: Images, labels: Labels) -> tf.keras.Model:
    """A network from images [n, 64] to scores [n, 10], which add up to 1 for each image."""
    tf.keras.utils.set_random_seed(1)  # the same network each time
    network = tf.keras.Sequential(
        [
            tf.keras.Input((POINTS,)),
            # Part of the network, so that clients send images as they are.
            tf.keras.layers.Rescaling(1 / MOST_INK),
            tf.keras.layers.Dense(128, activation="relu"),
            tf.keras.layers.Dropout(0.2),
            tf.keras.layers.Dense(DIGITS, activation="softmax"),
        ]
    )
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(images, labels, batch_size=32, epochs=EPOCHS, verbose=0)
    return network


def accuracy(network: tf.keras.Model, images: Images, labels: Labels) -> float:
    """The part of the images that are read right."""
    read = network(images).numpy().argmax(axis=1)
    return float((read == labels).mean())


# For Predict: tensors in, tensors out, of any names.
def predict_images(network: tf.keras.Model, images: tf.Tensor) -> dict[str, tf.Tensor]:
    scores = network(images)
    return {"scores": scores, "classes": tf.argmax(scores, axis=1)}


# For Classify and Regress a server hands on serialized tf.Examples, and the names are fixed:
# "inputs" in; "classes" and "scores" [n, number of classes], or "outputs" [n], out.
def classify(network: tf.keras.Model, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
    """All ten digits, the likeliest first."""
    scores, digits = tf.math.top_k(network(images_of(inputs)), k=DIGITS)
    return {"classes": tf.strings.as_string(digits), "scores": scores}


def certainty(network: tf.keras.Model, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
    """How sure the network is: the score of the likeliest digit."""
    return {"outputs": tf.reduce_max(network(images_of(inputs)), axis=1)}


def images_of(examples: tf.Tensor) -> tf.Tensor:
    """The feature "image" of serialized tf.Examples."""
    features = {"image": tf.io.FixedLenFeature([POINTS], tf.float32)}
    return tf.io.parse_example(examples, features)["image"]


def export(network: tf.keras.Model, base_path: Path, version: int) -> Path:
    """Write a SavedModel as a version in `base_path`."""
    # [None, ...]: a request may have any number of images, and a server may put those of several
    # requests into one batch.
    images = tf.TensorSpec([None, POINTS], tf.float32, name="images")
    examples = tf.TensorSpec([None], tf.string, name="inputs")
    archive = tf.keras.export.ExportArchive()
    archive.track(network)
    # The first is "serving_default" as well, for requests that name no signature.
    archive.add_endpoint("predict_images", partial(predict_images, network), [images])
    archive.add_endpoint("classify", partial(classify, network), [examples])
    archive.add_endpoint("certainty", partial(certainty, network), [examples])
    base_path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base_path, prefix="unfinished-") as unfinished:
        written = Path(unfinished) / "model"
        archive.write_out(str(written), verbose=False)
        name_methods(written)
        # A server that watches `base_path` sees a whole version or none.
        return written.rename(base_path / str(version))


def name_methods(model: Path) -> None:
    """Say which signatures are for Classify and Regress.

    TensorFlow 2 writes Predict's name for all of them. A server asks for the right ones only
    under --enable_signature_method_name_check, but tools that list signatures show them.
    """
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(model))
    for signature, method in {"classify": "classify", "certainty": "regress"}.items():
        updater.replace_method_name(signature, f"tensorflow/serving/{method}", tags="serve")
    updater.save()


def next_version(base_path: Path) -> int:
    """The number after the highest there is."""
    there = [int(path.name) for path in base_path.glob("*") if path.name.isdecimal()]
    return max(there, default=0) + 1


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a reader of digits and export it.")
    parser.add_argument("base_path", type=Path, help="the folder of the model's versions")
    parser.add_argument("--version", type=int, help="the next one if not given")
    options = parser.parse_args(arguments)
    network = trained_network(*training_digits())
    print(f"Reads {accuracy(network, *held_out_digits()):.1%} of the held-out digits.")
    version = options.version or next_version(options.base_path)
    print(f"Exported to {export(network, options.base_path, version)}")


if __name__ == "__main__":
    main()
