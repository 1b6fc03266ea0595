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

ResourceAllocation = Mapping[Resource, int]  # how much of each; what is not named is not taken


def add(one: ResourceAllocation, other: ResourceAllocation) -> dict[Resource, int]:
    """Both together."""
    return {
        resource: one.get(resource, 0) + other.get(resource, 0)
        for resource in {**one, **other}  # in a stable order
    }


def subtract(whole: ResourceAllocation, part: ResourceAllocation) -> dict[Resource, int]:
    """What is left of `whole` without `part`: never less than nothing."""
    return {resource: max(0, amount - part.get(resource, 0)) for resource, amount in whole.items()}


def fits(part: ResourceAllocation, limits: ResourceAllocation) -> bool:
    """Whether `part` stays within `limits`. A resource that has no limit is without end."""
    return all(
        amount <= limits[resource] for resource, amount in part.items() if resource in limits
    )
