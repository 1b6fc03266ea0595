"""What holds for a manager whatever sources, loads, requests and time do to it.

Hypothesis moves a manager without threads in random steps: wishes, tasks that run or fail,
handles that are taken and released, time that passes.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.unit.puppets import FakeHandle, PuppetLoader, PuppetServable, Stage, data
from tests.unit.puppets import permanent as permanent_error
from tests.unit.puppets import transient as transient_error
from tfsrv.core.aspired_versions_manager import AspiredVersionsManagerOptions
from tfsrv.core.loader import Loader
from tfsrv.core.resource_tracker import ResourceTracker
from tfsrv.core.resources import RAM
from tfsrv.core.servable import ManagerState, ServableData, ServableId, ServableState
from tfsrv.errors import Code

NAMES = ("a", "b")
VERSIONS = range(1, 4)

START, LOADING, AVAILABLE, UNLOADING, END = ManagerState
NEXT_EVENTS: dict[ManagerState | None, set[ManagerState]] = {
    None: {START, END},
    START: {LOADING, END},
    LOADING: {AVAILABLE, END},
    AVAILABLE: {UNLOADING, AVAILABLE},  # replaced, or failed to be
    UNLOADING: {END},
    END: {START, END},
}

SOURCE_ERROR = "source error"
FATES: list[list[str] | str] = [
    *([], [], []),  # loads at the first try
    *(["transient"], ["transient", "permanent"], ["permanent"]),
    SOURCE_ERROR,
]
ORIGINS = ("here", "there")
Wish = dict[int, tuple[list[str] | str, str]]  # what becomes of a version, and its origin
wishes = st.dictionaries(
    st.sampled_from(VERSIONS),
    st.tuples(st.sampled_from(FATES), st.sampled_from(ORIGINS)),
    max_size=2,
)
names = st.sampled_from(NAMES)


class ManagerMachine(RuleBasedStateMachine):
    is_limited = False  # to 100 bytes, of which version 1 takes 30, 2 60 and 3 90

    @initialize()
    def set_up(self) -> None:
        self.tracker = ResourceTracker({RAM: 100}) if self.is_limited else None
        self.stage = Stage(AspiredVersionsManagerOptions(tracker=self.tracker))
        self.stage.bus.subscribe(self.check_event)
        self.last_event: dict[ServableId, ManagerState] = {}
        self.handles: list[FakeHandle] = []
        self.during_load: Callable[[], None] = lambda: None
        self.wished: dict[str, Wish] = {name: {} for name in NAMES}
        self.was_available: dict[str, bool] = dict.fromkeys(NAMES, False)

    # -- what happens

    @rule(name=names, wish=wishes, steps=st.booleans())
    def aspire(self, name: str, wish: Wish, steps: bool) -> None:
        versions = [
            self.version(ServableId(name, each), fate, origin)
            for each, (fate, origin) in wish.items()
        ]
        self.stage.manager.set_aspired_versions(name, versions)
        self.wished[name] = wish
        if steps:
            self.stage.manager.step()

    @rule(name=names, version=st.sampled_from(VERSIONS), origin=st.sampled_from(ORIGINS))
    def aspire_one_good_version(self, name: str, version: int, origin: str) -> None:
        self.aspire(name, {version: ([], origin)}, True)

    def version(self, id: ServableId, fate: list[str] | str, origin: str) -> ServableData[Loader]:
        if isinstance(fate, str):
            return ServableData(id, error=permanent_error(fate))
        failures = [
            transient_error() if each == "transient" else permanent_error() for each in fate
        ]
        loader = PuppetLoader(id, failures, during_load=lambda: self.during_load(), origin=origin)
        self.stage.loaders.append(loader)
        return data(loader)

    @precondition(lambda self: self.stage.loads.tasks)
    @rule(choice=st.integers(0, 99), steps=st.booleans())
    def run_a_load(self, choice: int, steps: bool) -> None:
        self.stage.loads.run_next(choice % len(self.stage.loads.tasks))
        if steps:
            self.stage.manager.step()

    @precondition(lambda self: self.stage.loads.tasks)
    @rule(choice=st.integers(0, 99), name=names, wish=wishes)
    def change_a_wish_during_a_load(self, choice: int, name: str, wish: Wish) -> None:
        self.during_load = lambda: self.aspire(name, wish, True)
        self.run_a_load(choice, True)
        self.during_load = lambda: None

    @precondition(lambda self: self.stage.unloads.tasks)
    @rule(choice=st.integers(0, 99))
    def run_an_unload(self, choice: int) -> None:
        self.stage.unloads.run_next(choice % len(self.stage.unloads.tasks))
        self.stage.manager.step()

    @rule(seconds=st.sampled_from([0, 30, 61, 600]))
    def let_time_pass(self, seconds: int) -> None:
        self.stage.advance(seconds)

    @rule(name=names, choice=st.integers(0, 9))
    def take_a_handle(self, name: str, choice: int) -> None:
        available = self.stage.available(name)
        if available:
            version = available[choice % len(available)]
            self.handles.append(self.stage.serving_map.acquire(name, version))

    @precondition(lambda self: self.handles)
    @rule(choice=st.integers(0, 99))
    def release_a_handle(self, choice: int) -> None:
        self.handles.pop(choice % len(self.handles)).release()

    # -- what holds

    def check_event(self, state: ServableState) -> None:
        last = self.last_event.get(state.id)
        assert state.manager_state in NEXT_EVENTS[last], f"{state} after {last}"
        self.last_event[state.id] = state.manager_state
        is_shown = state.id.version in self.stage.available(state.id.name)
        if state.manager_state in (AVAILABLE, UNLOADING):
            assert is_shown, f"{state} while it is not in the map"
        else:
            assert not is_shown, f"{state} while it is in the map"

    @invariant()
    def what_is_shown_or_held_is_loaded(self) -> None:
        for versions in self.stage.serving_map.servables.values():
            for servable in versions.values():
                assert isinstance(servable, PuppetServable)
                assert servable.is_loaded
        for handle in self.handles:
            assert isinstance(handle.servable, PuppetServable)
            assert handle.servable.is_loaded

    @invariant()
    def something_stays_available_while_anything_is_wished(self) -> None:
        for name in NAMES:
            is_available = bool(self.stage.available(name))
            if not self.wished[name]:
                self.was_available[name] = False
            elif self.was_available[name]:
                assert is_available, f"{name} lost its last version"
            else:
                self.was_available[name] = is_available

    @invariant()
    def no_more_is_used_than_there_is(self) -> None:
        if self.tracker is not None:
            assert self.tracker.used().get(RAM, 0) <= 100

    @invariant()
    def every_load_is_unloaded_at_most_once(self) -> None:
        for loader in self.stage.loaders:
            check_calls(loader)

    def teardown(self) -> None:
        """Let everything settle: what is wished is there or failed; then stop: nothing is left."""
        if not hasattr(self, "stage"):
            return
        for handle in self.handles:
            handle.release()
        self.handles.clear()
        self.settle()
        for name in NAMES:
            available = set(self.stage.available(name))
            for version, (fate, origin) in self.wished[name].items():
                self.check_settled(ServableId(name, version), fate, origin)
            if available & self.wished[name].keys():
                assert available <= self.wished[name].keys(), "an old version is left"
        self.stage.manager.begin_stop()
        self.settle()
        assert self.stage.serving_map.servables == {}
        assert set(self.last_event.values()) <= {END}
        assert self.tracker is None or not self.tracker.used().get(RAM, 0)
        for loader in self.stage.loaders:
            check_calls(loader)
            assert loader.times_loaded == loader.calls.count("unload")

    def check_settled(self, id: ServableId, fate: list[str] | str, origin: str) -> None:
        """What is wished is there, from where it should come, or there is an error."""
        error = self.stage.error(id.name, id.version)
        assert error is None or error[0] is not Code.CANCELLED
        is_available = id.version in self.stage.available(id.name)
        assert is_available or error is not None, f"{id} did not settle"
        if is_available and error is None and fate != SOURCE_ERROR:
            shown = self.stage.serving_map.servables[id.name][id.version]
            (loader,) = (each for each in self.stage.loaders if each.has_loaded(shown))
            assert loader.origin == origin

    def settle(self) -> None:
        for _ in range(10):
            self.stage.run_all()
            self.stage.advance(601)
        assert not self.stage.loads.tasks
        assert not self.stage.unloads.tasks


def check_calls(loader: PuppetLoader) -> None:
    """A loader tries to load until it works, and is unloaded once at most after that."""
    calls = [call for call in loader.calls if call != "cancel"]  # may come at any time
    tries = calls.count("load")
    assert calls in (
        ["load"] * tries,
        [*["load"] * tries, "unload"],  # given up during the load
        [*["load"] * tries, "warm_up"],
        [*["load"] * tries, "warm_up", "unload"],
    )
    assert ("unload" not in calls) or "warm_up" in calls or "cancel" in loader.calls
    assert tries <= 6


class LimitedManagerMachine(ManagerMachine):
    is_limited = True


SETTINGS = settings(max_examples=200, stateful_step_count=40, deadline=None)

TestManagerProperties = ManagerMachine.TestCase
TestManagerProperties.settings = SETTINGS
TestLimitedManagerProperties = LimitedManagerMachine.TestCase
TestLimitedManagerProperties.settings = SETTINGS
