"""SessionRun: feed and fetch any tensors of a model's graph, and run any of its operations.

As session_service.proto of TensorFlow Serving's apis says it; its server does not register the
service, and this one only if --enable_session_service is given: whoever may call it may read and
change whatever is in the graph.

A request that feeds and fetches what a signature does goes the way of Predict, so that it is
batched like it. Others run alone, on threads of their own, a few at a time. TensorFlow compiles
the graph for each set of feeds, fetches and targets, and keeps that as long as the model: there
is a limit to the sets of one model.

Of the options, `inter_op_thread_pool` is not looked at: the pools are the server's own. What
TensorFlow says of names that the graph does not have is said here, too.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from tfsrv._proto import message_class
from tfsrv._session import SavedModelSession
from tfsrv._session_run import check_names, run_tensors, tensor_name
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.call_threads import CallThreads
from tfsrv.handlers.servables import Servables
from tfsrv.handlers.session_run_request import (
    Names,
    Question,
    Signature,
    Tensor,
    aliases_of,
    fed_twice,
    outputs_of,
    predict_request,
    read_question,
    session_run_response,
    signatures_of,
)

if TYPE_CHECKING:
    from tfsrv._call_loop import CallLoop
    from tfsrv._method import Method
    from tfsrv._servable import ServableHandle

MAX_SETS = 64  # of feeds, fetches and targets that one version of a model runs
MAX_RUNS = 8  # at a time, of those that run alone
IN_LOOP_BYTES = 4096  # what takes the loop a millisecond; threads take longer requests apart
MAX_ASIDE = 4  # at a time, of the steps with longer requests
TRIES = 3  # how often a version may go between the look at its signatures and the run

T = TypeVar("T")
Set = tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[str, ...]]


@dataclass
class _Known:
    """What is known of a session, as long as it is loaded."""

    signatures: list[Signature]
    sets: set[Set] = field(default_factory=set)  # that TensorFlow has compiled


class SessionRun:
    """The handler of `tensorflow.serving.SessionService/SessionRun`. For one loop."""

    def __init__(
        self,
        servables: Servables,
        predict: Method,
        call_loop: CallLoop,
        *,
        as_content: bool = False,
        max_message_bytes: int = 2**31 - 1,
    ) -> None:
        """`predict` answers PredictRequests on the same servables."""
        self._servables = servables
        self._predict = predict
        self._call_loop = call_loop
        self._as_content = as_content
        self._max_message_bytes = max_message_bytes
        self._threads = CallThreads()
        self._slots = asyncio.Semaphore(MAX_RUNS)
        self._aside_slots = asyncio.Semaphore(MAX_ASIDE)
        self._known: weakref.WeakKeyDictionary[SavedModelSession, _Known] = (
            weakref.WeakKeyDictionary()
        )

    async def __call__(self, request: bytes, seconds: float | None) -> bytes:
        """Answer one request within `seconds`. Raises ServingError."""
        if len(request) > self._max_message_bytes:
            raise ServingError(Code.RESOURCE_EXHAUSTED, "Received message larger than max")
        deadline = None if seconds is None else self._now() + seconds
        question = await self._aside(len(request), lambda: read_question(request))
        for _ in range(TRIES - 1):
            try:
                return await self._answer(question, deadline)
            except _Gone:
                pass  # there is another version by now, or none
        return await self._answer(question, deadline)

    async def _answer(self, question: Question, deadline: float | None) -> bytes:
        with ExitStack() as stack:
            handle = stack.enter_context(await self._servables.acquire(question.message))
            session = handle.servable
            if not isinstance(session, SavedModelSession):
                raise ServingError(
                    Code.FAILED_PRECONDITION, "The servable is no SavedModel: it has no session."
                )
            _check(question.message)
            await self._look_at(session)
            signature, names, asked = await self._aside(
                question.size, lambda: self._resolve(session, question)
            )
            if signature is not None:
                return await self._run_signature(handle, question, signature, names, deadline)
            assert asked is not None
            self._claim(session, asked)
            return await self._run_alone(handle, stack, question, asked, deadline)

    async def _aside(self, request_bytes: int, step: Callable[[], T]) -> T:
        """Take a step with a request of so many bytes; with a long one off the loop."""
        if request_bytes <= IN_LOOP_BYTES:
            return step()
        async with self._aside_slots:
            return await self._threads.run(step)

    def _resolve(
        self, session: SavedModelSession, question: Question
    ) -> tuple[str | None, Names, _Asked | None]:
        """The signature that the request runs, and its aliases; or what it runs instead."""
        signature, names = self._as_signature(session, question)
        if signature is not None:
            return signature, names, None
        return None, names, _Asked.of(names, question.message.target)

    # -- as Predict

    def _as_signature(
        self, session: SavedModelSession, question: Question
    ) -> tuple[str | None, Names]:
        """The signature that the request runs, if it runs one, and its aliases; else tensors."""
        message = question.message
        is_plain = not message.target and not message.HasField("options")
        given = Names.of(question)
        if message.tensor_name_is_alias:
            name = message.model_spec.signature_name or "serving_default"
            return (name, given) if is_plain else (None, _tensors_of(session, name, given))
        return aliases_of(self._known[session].signatures, given) if is_plain else (None, given)

    async def _run_signature(
        self,
        handle: ServableHandle,
        question: Question,
        signature: str,
        aliases: Names,
        deadline: float | None,
    ) -> bytes:
        model_spec = _model_spec(handle)
        model_spec.signature_name = signature
        inputs = {aliases.feeds[given]: tensor for given, tensor in question.feeds.items()}
        request = predict_request(model_spec, inputs, dict.fromkeys(aliases.fetches.values()))
        seconds = None if deadline is None else max(0.0, deadline - self._now())
        try:
            response = await self._call_loop.invoke(self._predict, request, seconds)
        except ServingError as error:
            gone = f"Servable not found for request: Specific({handle.name}, {handle.version})"
            if error.message == gone and not question.message.model_spec.HasField("version"):
                raise _Gone(error.code, error.message, error.details) from None
            raise
        fetches = question.message.fetch
        return await self._aside(
            question.size,
            lambda: session_run_response(
                _model_spec(handle), outputs_of(response), fetches, aliases
            ),
        )

    # -- alone

    def _claim(self, session: SavedModelSession, asked: _Asked) -> None:
        """Check that the graph has all of it, and that it is not one set too many."""
        check_names(session, asked.feeds, asked.fetches, asked.targets)
        sets = self._known[session].sets
        if asked.key not in sets:
            if len(sets) >= MAX_SETS:
                raise ServingError(
                    Code.RESOURCE_EXHAUSTED,
                    f"This version was asked for {MAX_SETS} different sets of feeds, fetches and "
                    "targets already: TensorFlow keeps what it compiles for each of them, so that "
                    "no more are run.",
                )
            sets.add(asked.key)

    async def _run_alone(
        self,
        handle: ServableHandle,
        stack: ExitStack,
        question: Question,
        asked: _Asked,
        deadline: float | None,
    ) -> bytes:
        """Run in a thread. A run whose caller leaves goes on to its end, or to its deadline.

        `stack` keeps the servable; it is closed when the run has ended.
        """
        await self._slots.acquire()
        try:
            work = self._work(handle, question, asked, deadline)
            running = asyncio.ensure_future(self._threads.run(work))
        except BaseException:
            self._slots.release()
            raise
        held = stack.pop_all()

        def ended(task: asyncio.Future[bytes]) -> None:
            self._slots.release()
            held.close()
            if not task.cancelled():
                task.exception()  # whoever is left to hear it has heard it

        running.add_done_callback(ended)
        return await asyncio.shield(running)

    def _work(
        self, handle: ServableHandle, question: Question, asked: _Asked, deadline: float | None
    ) -> Callable[[], bytes]:
        session = handle.servable
        assert isinstance(session, SavedModelSession)
        model_spec = _model_spec(handle)
        seconds = None if deadline is None else deadline - self._now()
        options = _run_options(question.message.options, seconds)

        def work() -> bytes:
            inputs = {asked.names.feeds[given]: part for given, part in question.feeds.items()}
            response, metadata = run_tensors(
                session,
                predict_request(model_spec, inputs, ()),
                asked.feeds,
                asked.fetches,
                asked.targets,
                options=options.SerializeToString(),
                timed=options.timeout_in_ms > 0,
                wants_metadata=options.trace_level != 0 or options.output_partition_graphs,
                as_content=self._as_content,
                max_message_bytes=self._max_message_bytes,
            )
            return session_run_response(
                model_spec,
                outputs_of(response),
                question.message.fetch,
                asked.names,
                metadata,
            )

        return work

    async def _look_at(self, session: SavedModelSession) -> None:
        """Know the session: off the loop, for some have thousands of signatures."""
        if session in self._known:
            return
        async with self._aside_slots:
            if session not in self._known:  # nobody else has looked meanwhile
                signatures = await self._threads.run(lambda: signatures_of(session))
                self._known.setdefault(session, _Known(signatures))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


class _Gone(ServingError):
    """The version was there when its signatures were looked at, and is no more."""


@dataclass(frozen=True)
class _Asked:
    """What is to be run, each tensor once and all in one order: one set has one form."""

    feeds: list[str]
    fetches: list[str]
    targets: list[str]
    names: Names  # those of `feeds` and `fetches`, by the names given
    key: Set

    @classmethod
    def of(cls, tensors: Names, targets: Iterable[str]) -> _Asked:
        """`tensors` names the tensors by the names given."""
        feeds: dict[Tensor, str] = {}
        for given, name in tensors.feeds.items():
            if tensor_name(name) in feeds:
                raise fed_twice(given)
            feeds[tensor_name(name)] = name
        fetches = {tensor_name(name): name for name in tensors.fetches.values()}
        names = Names(
            tensors.feeds,
            {given: fetches[tensor_name(name)] for given, name in tensors.fetches.items()},
        )
        key = (tuple(sorted(feeds)), tuple(sorted(fetches)), tuple(sorted(set(targets))))
        return cls(
            [feeds[tensor] for tensor in key[0]],
            [fetches[tensor] for tensor in key[1]],
            list(key[2]),
            names,
            key,
        )


def _check(message: Any) -> None:
    if not message.fetch and not message.target:
        raise ServingError(
            Code.INVALID_ARGUMENT, "Must specify at least one target to fetch or execute."
        )
    options = message.options
    for name in ("debug_options", "experimental"):
        # They let a client write files, and make TensorFlow compile once more.
        if options.HasField(name):
            raise ServingError(Code.INVALID_ARGUMENT, f"RunOptions.{name} is not supported")


def _run_options(asked: Any, seconds: float | None) -> Any:
    """The options without a thread pool, and with the time-out that comes first."""
    options: Any = message_class("tensorflow.RunOptions")()
    options.CopyFrom(asked)
    options.ClearField("inter_op_thread_pool")
    options.timeout_in_ms = max(0, options.timeout_in_ms)
    if seconds is not None:
        left = max(1, int(seconds * 1000) + 1)
        options.timeout_in_ms = min(options.timeout_in_ms or left, left)
    return options


def _tensors_of(session: SavedModelSession, name: str, aliases: Names) -> Names:
    """The tensors that aliases stand for in a signature."""
    signature: Any = session.signature_defs.get(name)
    if signature is None:
        raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')

    def tensors(kind: str, infos: Mapping[str, Any], wanted: Iterable[str]) -> dict[str, str]:
        for alias in wanted:
            if alias not in infos:
                text = f"{kind} tensor alias not found in signature: {alias}"
                raise ServingError(Code.INVALID_ARGUMENT, text)
        return {alias: infos[alias].name for alias in wanted}

    return Names(
        tensors("input", signature.inputs, aliases.feeds),
        tensors("output", signature.outputs, aliases.fetches),
    )


def _model_spec(handle: ServableHandle) -> Any:
    model_spec: Any = message_class("tensorflow.serving.ModelSpec")(name=handle.name)
    model_spec.version.value = handle.version
    return model_spec
