"""What becomes of a change of the configuration, and the one error that sums it up."""

from __future__ import annotations

from tfsrv.errors import Code, ServingError
from tfsrv.reloading import Reloading, summary

BROKEN = ServingError(Code.DATA_LOSS, "broken")


def test_is_done_when_every_model_has_its_result() -> None:
    reloading = Reloading(["a", "b"])
    done: list[str] = []
    reloading.add_done_callback(lambda: done.append("done"))
    reloading.set_result("a", None)
    assert not reloading.wait(0)
    assert done == []
    reloading.set_result("b", BROKEN)
    assert reloading.wait(0)
    assert done == ["done"]
    assert reloading.results() == {"a": None, "b": BROKEN}


def test_first_result_of_a_model_is_final() -> None:
    reloading = Reloading(["a"])
    reloading.set_result("a", None)
    reloading.set_result("a", BROKEN)
    reloading.set_result("stranger", BROKEN)
    assert reloading.results() == {"a": None}


def test_change_of_nothing_is_done_at_once() -> None:
    done: list[str] = []
    reloading = Reloading([])
    reloading.add_done_callback(lambda: done.append("done"))
    assert done == ["done"]
    assert summary(reloading.results()) is None


def test_callback_that_was_removed_is_not_called() -> None:
    done: list[str] = []

    def callback() -> None:
        done.append("done")

    reloading = Reloading(["a"])
    reloading.add_done_callback(callback)
    reloading.remove_done_callback(callback)
    reloading.set_result("a", None)
    assert done == []


def test_model_without_a_result_is_late() -> None:
    reloading = Reloading(["a", "b"])
    reloading.set_result("b", None)
    error = summary(reloading.results())
    assert error is not None
    assert error.code is Code.DEADLINE_EXCEEDED
    assert "{a due to error: DEADLINE_EXCEEDED: not all of it is available yet" in error.message


def test_summary_names_each_model_that_failed() -> None:
    error = summary({"a": BROKEN, "good": None, "b": ServingError(Code.NOT_FOUND, "missing")})
    assert error is not None
    assert error.code is Code.UNKNOWN
    assert error.message == (
        "2 model(s) did not become available: "
        "{{a due to error: DATA_LOSS: broken}, {b due to error: NOT_FOUND: missing}}"
    )
