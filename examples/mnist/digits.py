"""The handwritten digits that come with scikit-learn: 1,797 images of 8 × 8 points of ink.

No download is needed. An image is 64 numbers from 0 to 16, row after row.
"""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import NDArray
from sklearn.datasets import load_digits

POINTS = 64
MOST_INK = 16.0
HELD_OUT = 360  # images that nothing is trained on

Images = NDArray[numpy.float32]
Labels = NDArray[numpy.int64]


def training_digits() -> tuple[Images, Labels]:
    """Images [n, 64] and what they show [n]."""
    images, labels = _shuffled()
    return images[HELD_OUT:], labels[HELD_OUT:]


def held_out_digits() -> tuple[Images, Labels]:
    """The same for images that a trained model has not seen."""
    images, labels = _shuffled()
    return images[:HELD_OUT], labels[:HELD_OUT]


def _shuffled() -> tuple[Images, Labels]:
    """All digits, in an order that is the same each time.

    As they come, the digits of one writer stand together, and some would be held out whole.
    """
    digits: Any = load_digits()
    order = numpy.random.default_rng(0).permutation(len(digits.target))
    return digits.data[order].astype(numpy.float32), digits.target[order].astype(numpy.int64)
