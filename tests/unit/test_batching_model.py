"""Random pushes, looks, ends and abandoned tasks against a queue of lists in Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.batching import AS_LOW, AT_ONCE, MS, NOT_BEFORE_A_PUSH, START, Formed, Part, S, form
from tfsrv._batching_probe import BatchProbe
from tfsrv._workers import WorkerPool

SWEEP_NS = MS


@dataclass
class Task:
    """What the model knows of a task."""

    number: int
    rows: int
    arrived_ns: int
    deadline_ns: int
    kind: tuple[int, int, bool]  # hash, shape, low
    nbytes: int
    alone: bool
    splits: bool
    wanted: bool = True
    begun: int = 0

    @property
    def left(self) -> int:
        return self.rows - self.begun

    @property
    def order(self) -> tuple[int, int]:
        return (self.deadline_ns or self.arrived_ns + S, self.arrived_ns)

    @property
    def low(self) -> bool:
        return self.kind[2]


@dataclass
class Kind:
    """Tasks that can share batches, in the order in which they are served."""

    since_ns: int
    tasks: list[Task] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(task.left for task in self.tasks)


@dataclass
class Settings:
    """As BatchProbe has them."""

    max_rows: int
    max_request_rows: int
    max_waiting_rows: int
    max_bytes: int
    wait_ns: int
    allowed: list[int]
    splits: bool


class Model:
    """The rules of tfsrv/_batching.pyx, with lists that are searched."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.kinds: dict[tuple[int, int, bool], Kind] = {}
        self.running: list[list[Part]] = []
        self.tasks: list[Task] = []
        self.ran: dict[int, int] = {}
        self.refused: dict[int, int] = {}
        self.swept_ns = 0

    # ---- what it says of itself

    def waiting(self, *, low: bool | None = None) -> int:
        """Rows that wait; `low`: of low tasks only, or of others only."""
        return sum(
            kind.rows for (_, _, is_low), kind in self.kinds.items() if low in (None, is_low)
        )

    @property
    def running_rows(self) -> int:
        return sum(rows for batch in self.running for _, _, rows in batch)

    def limit(self) -> int:
        """Rows of a batch: the largest allowed size that is no larger than what was chosen."""
        limit = self.settings.max_rows
        return max([size for size in self.settings.allowed if size <= limit], default=limit)

    def padded(self, rows: int) -> int:
        return min([size for size in self.settings.allowed if size >= rows], default=rows)

    # ---- what it does

    def push(self, task: Task) -> str:
        if task.rows > self.settings.max_request_rows:
            return "too large"
        if self.has_no_room(task):
            self.sweep(task.arrived_ns)
        if self.has_no_room(task):
            return "full"
        if task.deadline_ns and task.deadline_ns <= task.arrived_ns:
            return "late"
        kind = self.kinds.setdefault(task.kind, Kind(task.arrived_ns))
        kind.tasks.append(task)
        kind.tasks.sort(key=lambda task: task.order)
        self.tasks.append(task)
        return "pushed"

    def has_no_room(self, task: Task) -> bool:
        waiting = self.waiting() if task.low else self.waiting(low=False)
        return waiting + task.rows > self.settings.max_waiting_rows

    def sweep(self, now_ns: int) -> None:
        if now_ns - self.swept_ns < SWEEP_NS:
            return
        self.swept_ns = now_ns
        for kind in self.kinds.values():
            for task in [task for task in kind.tasks if not task.wanted]:
                self.refuse(kind, task)
        self.drop_empty()

    def refuse(self, kind: Kind, task: Task) -> None:
        kind.tasks.remove(task)
        self.refused[task.number] = task.left

    def drop_empty(self) -> None:
        self.kinds = {key: kind for key, kind in self.kinds.items() if kind.tasks}

    def ripe_ns(self, kind: Kind) -> int:
        """When a batch has waited long enough; runs teach nothing here, so they take no time."""
        waited_ns = kind.since_ns + self.settings.wait_ns
        return min(waited_ns, kind.tasks[0].deadline_ns or waited_ns)

    def is_ripe(self, kind: Kind, now_ns: int) -> bool:
        return (
            self.settings.wait_ns == 0
            or kind.rows >= self.limit()
            or self.ripe_ns(kind) <= now_ns
            or kind.tasks[0].alone
        )

    def candidates(self) -> list[tuple[tuple[int, int, bool], Kind]]:
        """The kinds that may be served: low ones only if there are no others."""
        normal = [(key, kind) for key, kind in self.kinds.items() if not key[2]]
        return normal or list(self.kinds.items())

    def choose(self, now_ns: int) -> tuple[int, int, bool] | None:
        ripe = [(key, kind) for key, kind in self.candidates() if self.is_ripe(kind, now_ns)]
        return min(ripe, key=lambda item: item[1].tasks[0].order[0])[0] if ripe else None

    def due_ns(self, now_ns: int) -> int:
        """When the queue is to be looked at again."""
        if self.choose(now_ns) is not None:
            return AS_LOW if self.waiting(low=False) == 0 else AT_ONCE
        times = [self.ripe_ns(kind) for _, kind in self.candidates()]
        return min(times, default=NOT_BEFORE_A_PUSH)

    def form(self, now_ns: int) -> Formed:
        refused: list[tuple[int, str]] = []
        while (key := self.choose(now_ns)) is not None:
            kind = self.kinds[key]
            parts = self.fill(kind, now_ns, refused)
            self.begin_wait(kind, now_ns)
            padding = self.fill_gaps(key, parts, now_ns, refused) if parts else 0
            self.drop_empty()
            if parts:
                self.running.append(parts)
                return Formed(parts, padding, refused, self.due_ns(now_ns))
        return Formed(None, 0, refused, self.due_ns(now_ns))

    @staticmethod
    def begin_wait(kind: Kind, now_ns: int) -> None:
        kind.since_ns = kind.tasks[0].arrived_ns if kind.tasks else now_ns

    def first_wanted(self, kind: Kind, now_ns: int, refused: list[tuple[int, str]]) -> Task | None:
        """The kind's first task that is to run; those before it are refused."""
        while kind.tasks:
            task = kind.tasks[0]
            is_late = task.deadline_ns != 0 and task.deadline_ns <= now_ns
            if task.wanted and not is_late:
                return task
            self.refuse(kind, task)
            refused.append((task.number, "late" if task.wanted else "unwanted"))
        return None

    def fill(self, kind: Kind, now_ns: int, refused: list[tuple[int, str]]) -> list[Part]:
        parts: list[Part] = []
        rows = nbytes = 0
        while (task := self.first_wanted(kind, now_ns, refused)) is not None:
            room = self.limit() - rows
            if parts and (task.alone or nbytes + task.nbytes > self.settings.max_bytes):
                break
            if task.left > room and not task.alone:
                if self.settings.splits and room > 0 and task.splits:
                    parts.append((task.number, task.begun, room))
                    task.begun += room
                    break
                if parts:
                    break
            parts.append((task.number, task.begun, task.left))
            rows += task.left
            nbytes += task.nbytes
            kind.tasks.remove(task)
            if task.alone:
                break
        return parts

    def fill_gaps(
        self,
        key: tuple[int, int, bool],
        parts: list[Part],
        now_ns: int,
        refused: list[tuple[int, str]],
    ) -> int:
        """Add low tasks in the place of padding; what is left of that."""
        first = self.tasks[parts[0][0]]
        rows = sum(count for _, _, count in parts)
        allowed = self.padded(rows)
        if first.alone:
            return 0
        low = self.kinds.get((key[0], key[1], True))
        if key[2] or allowed == rows or low is None:
            return allowed - rows
        nbytes = sum(self.tasks[number].nbytes for number, _, _ in parts)
        while low.tasks and not low.tasks[0].alone:
            task = self.first_wanted_gap(low, now_ns, refused)
            if task is None or task.left > allowed - rows:
                break
            if nbytes + task.nbytes > self.settings.max_bytes:
                break
            parts.append((task.number, task.begun, task.left))
            rows += task.left
            nbytes += task.nbytes
            low.tasks.remove(task)
        self.begin_wait(low, now_ns)
        return allowed - rows

    def first_wanted_gap(
        self, low: Kind, now_ns: int, refused: list[tuple[int, str]]
    ) -> Task | None:
        """Like first_wanted, but that a task alone is not looked at."""
        while low.tasks and not low.tasks[0].alone:
            before = len(low.tasks)
            task = low.tasks[0]
            is_late = task.deadline_ns != 0 and task.deadline_ns <= now_ns
            if task.wanted and not is_late:
                return task
            self.refuse(low, task)
            refused.append((task.number, "late" if task.wanted else "unwanted"))
            assert len(low.tasks) < before
        return None

    def end(self, which: int) -> None:
        for number, _, rows in self.running.pop(which):
            self.ran[number] = self.ran.get(number, 0) + rows


TASKS = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 6),
        "kind": st.sampled_from([1, 1, 2]),
        "shape": st.sampled_from([0, 0, 0, 1]),
        "left_ms": st.one_of(st.none(), st.integers(0, 20)),
        "nbytes": st.integers(0, 20),
        "alone": st.sampled_from([False] * 7 + [True]),
        "low": st.booleans(),
        "splits": st.sampled_from([True, True, False]),
    }
)


class QueueMachine(RuleBasedStateMachine):
    """The queue and its model do the same."""

    queue: BatchProbe

    @initialize(
        max_rows=st.integers(2, 12),
        larger=st.integers(0, 8),
        max_waiting_rows=st.one_of(st.just(1 << 40), st.integers(4, 30)),
        max_bytes=st.one_of(st.just(1 << 40), st.integers(1, 50)),
        wait_ms=st.sampled_from([0, 5]),
        allowed=st.lists(st.integers(1, 12), max_size=3, unique=True),
        splits=st.booleans(),
    )
    def begin(
        self,
        max_rows: int,
        larger: int,
        max_waiting_rows: int,
        max_bytes: int,
        wait_ms: int,
        allowed: list[int],
        splits: bool,
    ) -> None:
        self.settings = Settings(
            max_rows,
            max_rows + larger,
            max_waiting_rows,
            max_bytes,
            wait_ms * MS,
            sorted(allowed),
            splits,
        )
        self.queue = BatchProbe(WorkerPool(2), **vars(self.settings))
        self.queue.choose(max_rows, wait_ms * MS)
        self.model = Model(self.settings)
        self.now_ns = START

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            self.run_all()
            self.queue.close()

    def run_all(self) -> None:
        """Whatever happened: in the end each row ran or was refused, once."""
        self.now_ns += 2 * self.settings.wait_ns
        while form(self.queue, self.now_ns).parts is not None or self.queue.waiting_rows:
            self.queue.end(self.now_ns, teaches=False)
        while self.queue.running_rows:
            self.queue.end(self.now_ns, teaches=False)
        assert all(rows == ran + refused for rows, ran, refused in self.queue.accounts)
        assert (self.queue.waiting_rows, self.queue.waiting_normal) == (0, 0)

    @rule(tasks=st.lists(TASKS, min_size=1, max_size=6))
    def push(self, tasks: list[dict[str, Any]]) -> None:
        for drawn in tasks:
            self.push_one(**drawn)

    def push_one(self, rows: int, left_ms: int | None, low: bool, **drawn: Any) -> None:
        self.now_ns += 1  # so that order is never a matter of chance
        deadline_ns = 0 if left_ms is None else self.now_ns // MS * MS + left_ms * MS
        kind, shape, nbytes = drawn["kind"], drawn["shape"], drawn["nbytes"]
        alone, splits = drawn["alone"], drawn["splits"]
        number = len(self.model.tasks)
        key = (kind, shape, low)
        task = Task(number, rows, self.now_ns, deadline_ns, key, nbytes, alone, splits)
        pushed = self.queue.push(rows, self.now_ns, deadline_ns=deadline_ns, low=low, **drawn)
        assert pushed == self.model.push(task)

    @rule()
    def look(self) -> None:
        if len(self.model.running) == 60:
            return
        formed = form(self.queue, self.now_ns)
        expected = self.model.form(self.now_ns)
        assert formed.parts == expected.parts
        assert formed.padding == expected.padding
        assert sorted(formed.refused) == sorted(expected.refused)
        assert formed.due_ns == expected.due_ns

    @precondition(lambda self: self.model.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        which = data.draw(st.integers(0, len(self.model.running) - 1))
        self.queue.end(self.now_ns, which, teaches=False)
        self.model.end(which)

    @precondition(lambda self: self.model.tasks)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.model.tasks))
        self.queue.abandon(task.number)
        task.wanted = False

    @precondition(lambda self: self.model.tasks)
    @rule(data=st.data(), allowed=st.booleans())
    def allow_split(self, data: st.DataObject, allowed: bool) -> None:
        task = data.draw(st.sampled_from(self.model.tasks))
        self.queue.allow_split(task.number, allowed)
        task.splits = allowed

    @rule(passed_us=st.integers(1, 8000))
    def wait(self, passed_us: int) -> None:
        self.now_ns += passed_us * 1000

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert self.queue.waiting_rows == self.model.waiting()
        assert self.queue.waiting_normal == self.model.waiting(low=False)
        assert self.queue.running_rows == self.model.running_rows

    @invariant()
    def rows_are_accounted_for(self) -> None:
        if not hasattr(self, "queue"):
            return
        accounts = [
            (task.rows, self.model.ran.get(task.number, 0), self.model.refused.get(task.number, 0))
            for task in self.model.tasks
        ]
        assert self.queue.accounts == accounts


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
