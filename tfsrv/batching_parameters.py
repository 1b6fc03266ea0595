"""How requests are batched: the values of a BatchingParameters message, checked.

Fields, defaults and texts are those of TensorFlow Serving's session_bundle_config.proto and
bundle_factory_util.h, and of TensorFlow's core/kernels/batching_util/shared_batch_scheduler.h.
There most of the checks run when a model is loaded, and some not at all; here they all run when
the values are put together, so that no scheduler meets a value that it can't work with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

from tfsrv.errors import Code, ServingError
from tfsrv.processors import cpus

DEFAULT_MAX_BATCH_SIZE = 1000
# The name of the threads if no file tells of them, from TensorFlow Serving's server.cc.
SERVER_THREAD_POOL_NAME = "model_server_batch_threads"

# More is a mistake, and could overflow when it is multiplied or added to a time.
MAX_ROWS = 2**31 - 1
MAX_ENQUEUED_BATCHES = 2**31 - 1
MAX_TIMEOUT_MICROS = 3600 * 1_000_000
MAX_THREADS = 64
MAX_CONCURRENT_RUNS = 2**31 - 1
MAX_LATENCY_MS = 3600 * 1000.0


class WrongParameterError(ServingError):
    """INVALID_ARGUMENT for the value of one field, which `parameter` names."""

    def __init__(self, parameter: str, sentence: str) -> None:
        super().__init__(Code.INVALID_ARGUMENT, sentence)
        self.parameter = parameter


def _default_num_batch_threads() -> int:
    return min(cpus(), MAX_THREADS)


@dataclass(frozen=True)
class BatchingParameters:
    """How the requests of a model are batched. WrongParameterError for values that can't be.

    As in TensorFlow Serving, no enqueued batches are one, and what an executed batch may hold is
    told apart from `max_batch_size` only if requests may be split: both fields are put right here.

        BatchingParameters(max_batch_size=32, batch_timeout_micros=1000)
    """

    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE  # rows of one request
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = field(default_factory=_default_num_batch_threads)  # of all models
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()  # ascending
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0  # rows of one batch; 0 becomes max_batch_size

    # Of this project.
    max_concurrent_runs: int = 0  # 0: as many as there are threads
    target_latency_ms: float = 0.0  # 0: none

    # Whether somebody chose max_batch_size: if not, a batch is limited by its bytes as well.
    explicit_max_batch_size: bool = False

    def __post_init__(self) -> None:
        for parameter, sentence in _problems_of(self):
            raise WrongParameterError(parameter, sentence)
        if self.max_enqueued_batches == 0:
            object.__setattr__(self, "max_enqueued_batches", 1)
        if not self.enable_large_batch_splitting or self.max_execution_batch_size == 0:
            object.__setattr__(self, "max_execution_batch_size", self.max_batch_size)
        if self.max_batch_size != DEFAULT_MAX_BATCH_SIZE:
            object.__setattr__(self, "explicit_max_batch_size", True)

    def sentence(self) -> str:
        """What matters of them, for the log."""
        parts = [
            f"{self.num_batch_threads} threads",
            f"batches of up to {self.max_execution_batch_size} rows",
        ]
        if self.allowed_batch_sizes:
            sizes = ", ".join(map(str, self.allowed_batch_sizes))
            parts.append(f"padded to {sizes}")
        if self.batch_timeout_micros:
            parts.append(f"that wait up to {self.batch_timeout_micros / 1000:g} ms to fill up")
        if self.max_concurrent_runs:
            parts.append(f"at most {self.max_concurrent_runs} of a model at a time")
        if self.target_latency_ms:
            parts.append(f"chosen so that 99 % of requests take {self.target_latency_ms:g} ms")
        return ", ".join(parts)

    def in_pool_of(self, shared: BatchingParameters) -> BatchingParameters:
        """These parameters of one model, with the threads of `shared`, which run all models."""
        return replace(
            self,
            num_batch_threads=shared.num_batch_threads,
            thread_pool_name=shared.thread_pool_name,
        )


def _problems_of(parameters: BatchingParameters) -> Iterator[tuple[str, str]]:
    """The fields that are wrong, each with a sentence."""
    yield from _problems_of_minimum(parameters)
    yield from _problems_of_maximum(parameters)
    yield from _problems_of_splitting(parameters)
    yield from _problems_of_allowed_sizes(parameters)


def _problems_of_minimum(parameters: BatchingParameters) -> Iterator[tuple[str, str]]:
    # TensorFlow Serving takes the sizes as unsigned numbers, to which -1 is very large.
    threads = parameters.num_batch_threads
    if threads < 1:
        yield "num_batch_threads", f"num_batch_threads must be positive; was {threads}"
    size = parameters.max_batch_size
    if size < 1:
        yield "max_batch_size", f"input_batch_size_limit must be positive; was {size}"
    for name in (
        "batch_timeout_micros",
        "max_enqueued_batches",
        "max_execution_batch_size",
        "max_concurrent_runs",
        "target_latency_ms",
    ):
        value = getattr(parameters, name)
        if not value >= 0:  # NaN isn't
            yield name, f"{name} must be non-negative; was {_shown(value)}"


def _problems_of_maximum(parameters: BatchingParameters) -> Iterator[tuple[str, str]]:
    threads = parameters.num_batch_threads
    if threads > MAX_THREADS:
        yield (
            "num_batch_threads",
            f"num_batch_threads must be at most {MAX_THREADS}; was {threads}. Threads form and run"
            " batches and none waits with a request: one for each processor is enough",
        )
    for name, maximum in (
        ("max_batch_size", MAX_ROWS),
        ("batch_timeout_micros", MAX_TIMEOUT_MICROS),
        ("max_enqueued_batches", MAX_ENQUEUED_BATCHES),
        ("max_concurrent_runs", MAX_CONCURRENT_RUNS),
        ("target_latency_ms", MAX_LATENCY_MS),
    ):
        value = getattr(parameters, name)
        if value > maximum:
            yield name, f"{name} must be at most {_shown(maximum)}; was {_shown(value)}"


def _problems_of_splitting(parameters: BatchingParameters) -> Iterator[tuple[str, str]]:
    if not parameters.enable_large_batch_splitting:
        return
    if parameters.max_enqueued_batches == 0:
        yield "max_enqueued_batches", "max_enqueued_batches must be positive; was 0"
    if parameters.max_batch_size < parameters.max_execution_batch_size:
        yield (
            "max_execution_batch_size",
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than"
            " or equal to max_execution_batch_size.",
        )


def _problems_of_allowed_sizes(parameters: BatchingParameters) -> Iterator[tuple[str, str]]:
    """A server of TensorFlow Serving looks at the last only, its library at the order, too."""
    name, sizes = "allowed_batch_sizes", parameters.allowed_batch_sizes
    if not sizes:
        return
    if sizes[0] < 1:
        yield name, f"Entries in allowed_batch_sizes must be positive; the first was {sizes[0]}"
    for before, after in pairwise(sizes):
        if after <= before:
            yield (
                name,
                "allowed_batch_sizes entries must be monotonically increasing;"
                f" {after} came after {before}",
            )
    if sizes[-1] not in _largest_batches(parameters):
        yield (
            name,
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was"
            f" {sizes[-1]}; expected {parameters.max_batch_size}",
        )


def _largest_batches(parameters: BatchingParameters) -> set[int]:
    """What the last of the allowed sizes may be.

    With splitting, a server of TensorFlow Serving asks for max_batch_size (bundle_factory_util.cc),
    which no batch has then, and its library for what a batch has (batching_session.cc).
    """
    sizes = {parameters.max_batch_size}
    if parameters.enable_large_batch_splitting:
        sizes.add(parameters.max_execution_batch_size or parameters.max_batch_size)
    return sizes


def _shown(value: float) -> str:
    """A number as people write it."""
    return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
