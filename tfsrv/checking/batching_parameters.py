"""Whether files with BatchingParameters can be used."""

from __future__ import annotations

from tfsrv.batching_parameters_file import read_batching_parameters, read_version_parameters
from tfsrv.errors import ServingError


def problem_of_batching_parameters(path: str) -> str:
    """What is wrong with a --batching_parameters_file; "" if nothing is, or if none is named."""
    try:
        if path:
            read_batching_parameters(path)
    except ServingError as error:
        return error.message
    return ""


def problem_of_version_parameters(directory: str) -> str:
    """What is wrong with the file in a version's directory; "" if nothing is, or none is there."""
    try:
        read_version_parameters(directory)
    except ServingError as error:
        return error.message
    return ""
