"""What servables take from the machine, and what there is of it.

The terms are those of TensorFlow Serving's resources/resources.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Resource:
    """One kind of thing that can run out, on one device."""

    device: str = "main"  # "main" is the machine itself
    kind: str = "ram_in_bytes"


RAM = Resource()

ResourceAllocation = Mapping[Resource, int]  # how much of each
