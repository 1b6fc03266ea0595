"""Labels: when a wish comes true."""

from __future__ import annotations

import pytest

from tfsrv.version_labels import VersionLabels


class Stage:
    """Labels over versions that a test makes available."""

    def __init__(self, *, allow_unavailable: bool = False) -> None:
        self.servables: dict[str, dict[int, object]] = {}
        self.published: list[dict[str, dict[str, int]]] = []
        self.labels = VersionLabels(allow_unavailable=allow_unavailable)

    def publish(self) -> None:
        labels = self.labels.resolve(self.servables)
        self.published.append({name: dict(each) for name, each in labels.items()})

    def arrive(self, version: int, name: str = "m") -> None:
        versions = {**self.servables.get(name, {}), version: object()}
        self.servables = {**self.servables, name: versions}
        self.publish()

    def leave(self) -> None:
        self.servables = {}
        self.publish()

    def want(self, **labels: int) -> None:
        self.labels.set_wanted({"m": labels})
        self.publish()

    def effective(self) -> dict[str, int]:
        return dict(self.labels.effective("m"))


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_label_points_to_an_available_version_at_once(stage: Stage) -> None:
    stage.arrive(1)
    stage.want(stable=1)
    assert stage.published[-1] == {"m": {"stable": 1}}


def test_label_is_unknown_until_its_version_is_available(stage: Stage) -> None:
    stage.want(stable=1)
    assert stage.published == [{}]
    assert stage.labels.outstanding("m") == {"stable": 1}
    stage.arrive(1)
    assert stage.effective() == {"stable": 1}
    assert stage.labels.outstanding("m") == {}


def test_label_stays_where_it_is_until_its_new_version_is_available(stage: Stage) -> None:
    stage.arrive(1)
    stage.want(stable=1)
    stage.want(stable=2)
    assert stage.effective() == {"stable": 1}
    stage.arrive(2)  # in the same breath as the version itself
    assert stage.published[-2:] == [{"m": {"stable": 1}}, {"m": {"stable": 2}}]


def test_label_does_not_follow_an_unload(stage: Stage) -> None:
    stage.arrive(1)
    stage.want(stable=1)
    stage.leave()
    assert stage.effective() == {"stable": 1}
    assert stage.labels.outstanding("m") == {"stable": 1}


def test_label_that_is_wanted_no_more_is_gone_at_once(stage: Stage) -> None:
    stage.arrive(1)
    stage.want(stable=1, canary=1)
    stage.want(canary=1)
    assert stage.effective() == {"canary": 1}
    stage.labels.set_wanted({})
    stage.publish()
    assert stage.published[-1] == {}


def test_labels_of_one_model_do_not_touch_another(stage: Stage) -> None:
    stage.labels.set_wanted({"m": {"stable": 1}, "n": {"stable": 5}})
    stage.arrive(5, "n")
    stage.arrive(1)
    assert stage.published[-1] == {"m": {"stable": 1}, "n": {"stable": 5}}


def test_new_label_may_point_to_what_is_not_available_if_that_is_allowed() -> None:
    stage = Stage(allow_unavailable=True)
    stage.want(stable=1)
    assert stage.effective() == {"stable": 1}
    assert stage.labels.outstanding("m") == {}


def test_old_label_keeps_its_version_even_if_unavailable_ones_are_allowed() -> None:
    stage = Stage(allow_unavailable=True)
    stage.arrive(1)
    stage.want(stable=1)
    stage.want(stable=2)
    assert stage.effective() == {"stable": 1}
    assert stage.labels.outstanding("m") == {"stable": 2}
