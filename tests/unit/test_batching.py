"""The rules by which batches are formed, with a clock that the tests set.

Sizes, waits and limits follow SharedBatchScheduler and BatchingSession of TensorFlow, deadlines
and priorities are ours; see tfsrv/_batching.pyx.
"""

from __future__ import annotations

import pytest

from tests.unit.batching import (
    AS_LOW,
    AT_ONCE,
    MS,
    NOT_BEFORE_A_PUSH,
    START,
    S,
    form,
    form_all,
    push_all,
    stepped,
)
from tfsrv._batching_probe import BatchProbe

# ---- sizes -----------------------------------------------------------------------------------


def test_an_empty_queue_has_no_batch() -> None:
    with stepped() as queue:
        assert form(queue) == (None, 0, [], NOT_BEFORE_A_PUSH)


def test_tasks_that_are_there_form_one_batch_in_the_order_they_came() -> None:
    with stepped() as queue:
        push_all(queue, 1, 3, 2)
        assert form(queue).parts == [(0, 0, 1), (1, 0, 3), (2, 0, 2)]
        assert form(queue).parts is None


def test_a_batch_ends_when_it_is_full() -> None:
    with stepped(max_rows=4) as queue:
        push_all(queue, 2, 2, 1)
        batch = form(queue)
        assert (batch.tasks, batch.due_ns) == ([0, 1], AT_ONCE)
        batch = form(queue)
        assert (batch.tasks, batch.due_ns) == ([2], NOT_BEFORE_A_PUSH)


def test_a_task_that_does_not_fit_closes_the_batch_and_nothing_passes_it() -> None:
    with stepped(max_rows=4) as queue:
        push_all(queue, 3, 2, 1, 1)
        assert form_all(queue) == [[(0, 0, 3)], [(1, 0, 2), (2, 0, 1), (3, 0, 1)]]


def test_the_tuner_may_choose_smaller_batches() -> None:
    with stepped(max_rows=8) as queue:
        queue.choose(rows_limit=3)
        push_all(queue, 1, 2, 1)
        assert form_all(queue) == [[(0, 0, 1), (1, 0, 2)], [(2, 0, 1)]]


def test_the_tuner_cannot_choose_more_than_is_allowed() -> None:
    with stepped(max_rows=2) as queue:
        queue.choose(rows_limit=100)
        push_all(queue, 1, 1, 1)
        assert form(queue).tasks == [0, 1]


def test_a_task_with_more_rows_than_are_chosen_runs_by_itself() -> None:
    with stepped(max_rows=8) as queue:
        queue.choose(rows_limit=3)
        push_all(queue, 1, 5, 1)
        assert [[task for task, _, _ in batch] for batch in form_all(queue)] == [[0], [1], [2]]


def test_a_batch_of_many_tasks_grows() -> None:
    with stepped(max_rows=1000) as queue:
        push_all(queue, *[1] * 700)
        assert form(queue).tasks == list(range(700))


def test_the_inbox_may_overflow_and_order_stays() -> None:
    with stepped(max_rows=4, size=3000) as queue:
        push_all(queue, *[1] * 3000)
        parts = [part for batch in form_all(queue) for part in batch]
        assert parts == [(task, 0, 1) for task in range(3000)]


# ---- waits -----------------------------------------------------------------------------------


def test_without_a_timeout_nothing_waits() -> None:
    with stepped(wait_ns=0) as queue:
        push_all(queue, 1)
        assert form(queue).tasks == [0]


def test_a_batch_waits_from_its_first_task_on() -> None:
    with stepped(wait_ns=10 * MS) as queue:
        push_all(queue, 1, now_ns=START)
        push_all(queue, 1, now_ns=START + 9 * MS)
        assert form(queue, START + 9 * MS) == (None, 0, [], START + 10 * MS)
        assert form(queue, START + 10 * MS - 1).parts is None
        assert form(queue, START + 10 * MS).tasks == [0, 1]


def test_a_full_batch_does_not_wait_and_the_rest_waits_from_its_own_first_task_on() -> None:
    with stepped(wait_ns=10 * MS, max_rows=4) as queue:
        push_all(queue, 2, now_ns=START)
        push_all(queue, 2, now_ns=START + 1 * MS)
        push_all(queue, 1, now_ns=START + 2 * MS)
        push_all(queue, 1, now_ns=START + 3 * MS)
        batch = form(queue, START + 3 * MS)
        assert (batch.tasks, batch.due_ns) == ([0, 1], START + 12 * MS)
        assert form(queue, START + 12 * MS - 1).parts is None
        assert form(queue, START + 12 * MS).tasks == [2, 3]


def test_a_batch_that_a_task_closed_does_not_wait() -> None:
    with stepped(wait_ns=10 * MS, max_rows=4) as queue:
        push_all(queue, 3, 2)
        batch = form(queue)
        assert (batch.tasks, batch.due_ns) == ([0], START + 10 * MS)


def test_a_task_after_an_empty_time_waits_from_its_own_arrival_on() -> None:
    with stepped(wait_ns=10 * MS) as queue:
        push_all(queue, 1)
        assert form(queue, START + 10 * MS).tasks == [0]
        push_all(queue, 1, now_ns=START + 15 * MS)
        assert form(queue, START + 20 * MS).due_ns == START + 25 * MS


def test_a_task_that_shares_no_batch_does_not_wait() -> None:
    with stepped(wait_ns=10 * MS) as queue:
        push_all(queue, 1, alone=True)
        assert form(queue).tasks == [0]


def test_the_kind_whose_time_comes_first_is_looked_at_first() -> None:
    with stepped(wait_ns=10 * MS) as queue:
        push_all(queue, 1, kind=1, now_ns=START + 3 * MS)
        push_all(queue, 1, kind=2, now_ns=START + 1 * MS)
        push_all(queue, 1, kind=3, now_ns=START + 2 * MS)
        assert form(queue, START + 4 * MS).due_ns == START + 11 * MS


# ---- allowed sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "padding"), [(1, 1), (2, 0), (3, 1), (5, 3), (8, 0)])
def test_a_batch_is_padded_to_the_next_allowed_size(rows: int, padding: int) -> None:
    with stepped(allowed=[2, 4, 8]) as queue:
        push_all(queue, *[1] * rows)
        assert form(queue).padding == padding


def test_padding_is_counted() -> None:
    with stepped(allowed=[2, 4, 8]) as queue:
        for rows in (1, 3, 4):
            push_all(queue, rows)
            form(queue)
            queue.end(START)
        counts = queue.counts
        assert (counts["batches"], counts["rows"], counts["padding_rows"]) == (3, 8, 2)


def test_a_batch_counts_by_the_logarithm_of_its_rows() -> None:
    with stepped() as queue:
        for rows in (1, 2, 3, 4, 7, 8):
            push_all(queue, rows)
            form(queue)
            queue.end(START)
        assert queue.sizes == {0: 1, 1: 2, 2: 2, 3: 1}


def test_a_chosen_size_is_rounded_down_to_an_allowed_one() -> None:
    with stepped(allowed=[2, 4, 8]) as queue:
        queue.choose(rows_limit=7)
        push_all(queue, 1, 1, 1, 1, 1)
        batch = form(queue)
        assert (batch.tasks, batch.padding) == ([0, 1, 2, 3], 0)


def test_a_chosen_size_below_all_allowed_ones_stays() -> None:
    with stepped(allowed=[4, 8]) as queue:
        queue.choose(rows_limit=2)
        push_all(queue, 1, 1, 1)
        batch = form(queue)
        assert (batch.tasks, batch.padding) == ([0, 1], 2)


def test_more_rows_than_the_largest_allowed_size_are_not_padded() -> None:
    with stepped(allowed=[2, 4], max_rows=4, max_request_rows=9) as queue:
        push_all(queue, 7)
        assert form(queue).padding == 0
        assert [queue.allowed_rows(rows) for rows in (1, 2, 3, 4, 5)] == [2, 2, 4, 4, 5]


def test_a_task_that_shares_no_batch_is_not_padded() -> None:
    with stepped(allowed=[4, 8]) as queue:
        push_all(queue, 3, alone=True)
        assert form(queue).padding == 0


# ---- limits ----------------------------------------------------------------------------------


def test_a_task_with_too_many_rows_is_too_large() -> None:
    with stepped(max_rows=4) as queue:
        assert queue.push(5, START) == "too large"
        assert queue.push(4, START) == "pushed"
        assert queue.waiting_rows == 4


def test_splitting_does_not_allow_larger_tasks() -> None:
    with stepped(max_rows=2, max_request_rows=4, splits=True) as queue:
        assert queue.push(5, START) == "too large"
        assert queue.push(4, START) == "pushed"


def test_a_queue_is_full_of_rows_not_of_batches() -> None:
    with stepped(max_rows=4, max_waiting_rows=8) as queue:
        push_all(queue, 3, 3)
        assert queue.push(3, START) == "full"
        assert queue.push(2, START) == "pushed"
        assert queue.push(1, START) == "full"
        assert queue.counts["refused_full"] == 2
        assert queue.waiting_rows == 8


def test_what_runs_does_not_count_against_the_limit() -> None:
    with stepped(max_rows=4, max_waiting_rows=4) as queue:
        push_all(queue, 4)
        assert queue.push(1, START) == "full"
        assert form(queue).tasks == [0]
        push_all(queue, 4)
        assert (queue.waiting_rows, queue.running_rows) == (4, 4)


def test_a_full_queue_lets_go_of_abandoned_tasks() -> None:
    with stepped(max_rows=4, max_waiting_rows=6) as queue:
        push_all(queue, 2, 2, 2)
        queue.abandon(1)
        assert queue.push(2, START) == "pushed"
        assert queue.accounts == [(2, 0, 0), (2, 0, 2), (2, 0, 0), (2, 0, 0)]
        assert form_all(queue) == [[(0, 0, 2), (2, 0, 2)], [(3, 0, 2)]]
        assert queue.counts["refused_unwanted"] == 1


def test_a_full_queue_is_searched_at_most_once_in_a_millisecond() -> None:
    with stepped(max_waiting_rows=2) as queue:
        push_all(queue, 1, 1)
        assert queue.push(1, START) == "full"
        queue.abandon(0)
        assert queue.push(1, START + MS - 1) == "full"
        assert queue.push(1, START + MS) == "pushed"


def test_a_large_full_queue_is_searched_less_often() -> None:
    with stepped(size=3000, max_waiting_rows=2000) as queue:
        push_all(queue, *[1] * 2000)
        assert queue.push(1, START) == "full"
        queue.abandon(0)
        assert queue.push(1, START + 4 * MS - 1) == "full"
        assert queue.push(1, START + 4 * MS) == "pushed"


def test_a_search_keeps_the_order_of_deadlines_and_the_rows_that_were_begun() -> None:
    with stepped(max_rows=4, max_request_rows=8, max_waiting_rows=9, splits=True) as queue:
        push_all(queue, 6, deadline_ns=START + 10 * MS)
        assert form(queue).parts == [(0, 0, 4)]
        push_all(queue, 2, deadline_ns=START + 30 * MS)
        push_all(queue, 2, deadline_ns=START + 20 * MS)
        push_all(queue, 2, deadline_ns=START + 25 * MS)
        push_all(queue, 1, deadline_ns=START + 5 * MS)
        queue.abandon(3)
        push_all(queue, 1, deadline_ns=START + 22 * MS)
        assert form_all(queue) == [
            [(4, 0, 1), (0, 4, 2), (2, 0, 1)],
            [(2, 1, 1), (5, 0, 1), (1, 0, 2)],
        ]
        assert queue.accounts[3] == (2, 0, 2)


def test_a_search_keeps_the_time_that_a_batch_has_waited() -> None:
    with stepped(wait_ns=10 * MS, max_waiting_rows=3) as queue:
        push_all(queue, 1, now_ns=START)
        push_all(queue, 1, 1, now_ns=START + 2 * MS)
        queue.abandon(2)
        push_all(queue, 1, now_ns=START + 3 * MS)
        assert form(queue, START + 3 * MS).due_ns == START + 10 * MS
        assert form(queue, START + 10 * MS).tasks == [0, 1, 3]


def test_a_search_may_find_nothing_but_abandoned_tasks() -> None:
    with stepped(max_waiting_rows=2) as queue:
        push_all(queue, 1, kind=1)
        push_all(queue, 1, kind=2)
        queue.abandon(0)
        queue.abandon(1)
        push_all(queue, 2, kind=3)
        assert form_all(queue) == [[(2, 0, 2)]]


# ---- splitting -------------------------------------------------------------------------------


def test_a_split_task_fills_the_open_batch_and_its_rest_goes_into_further_ones() -> None:
    with stepped(max_rows=4, max_request_rows=16, splits=True) as queue:
        push_all(queue, 1, 9, 2)
        assert form_all(queue) == [
            [(0, 0, 1), (1, 0, 3)],
            [(1, 3, 4)],
            [(1, 7, 2), (2, 0, 2)],
        ]
        assert queue.accounts == [(1, 1, 0), (9, 9, 0), (2, 2, 0)]


def test_rows_of_a_split_task_wait_until_they_are_in_a_batch() -> None:
    with stepped(max_rows=4, max_request_rows=16, splits=True) as queue:
        push_all(queue, 10)
        waiting = []
        while form(queue).parts is not None:
            waiting.append((queue.waiting_rows, queue.running_rows))
        assert waiting == [(6, 4), (2, 8), (0, 10)]


def test_without_splitting_a_task_is_never_divided() -> None:
    with stepped(max_rows=4, max_request_rows=16, splits=False) as queue:
        push_all(queue, 1, 9, 2)
        assert form_all(queue) == [[(0, 0, 1)], [(1, 0, 9)], [(2, 0, 2)]]


def test_a_task_that_must_not_be_divided_now_closes_the_batch_and_runs_by_itself() -> None:
    with stepped(max_rows=4, max_request_rows=16, splits=True) as queue:
        push_all(queue, 1)
        push_all(queue, 9, splits=False)
        push_all(queue, 2)
        assert form_all(queue) == [[(0, 0, 1)], [(1, 0, 9)], [(2, 0, 2)]]


def test_what_is_left_of_a_task_may_not_be_divided_any_more() -> None:
    with stepped(max_rows=4, max_request_rows=16, splits=True) as queue:
        push_all(queue, 10)
        assert form(queue).parts == [(0, 0, 4)]
        queue.allow_split(0, False)
        assert form(queue).parts == [(0, 4, 6)]


def test_the_rest_of_a_split_task_is_refused_when_nobody_wants_it() -> None:
    with stepped(max_rows=4, max_request_rows=16, splits=True) as queue:
        push_all(queue, 10, 1)
        assert form(queue).parts == [(0, 0, 4)]
        queue.abandon(0)
        batch = form(queue)
        assert (batch.refused, batch.parts) == ([(0, "unwanted")], [(1, 0, 1)])
        queue.end(START)
        queue.end(START)
        assert queue.accounts == [(10, 4, 6), (1, 1, 0)]
        assert (queue.waiting_rows, queue.waiting_normal, queue.running_rows) == (0, 0, 0)


def test_the_rest_of_a_split_task_is_refused_when_its_deadline_has_passed() -> None:
    with stepped(max_rows=4, max_request_rows=16, splits=True) as queue:
        push_all(queue, 10, deadline_ns=START + 5 * MS)
        form(queue)
        assert form(queue, START + 5 * MS) == (None, 0, [(0, "late")], NOT_BEFORE_A_PUSH)


def test_the_rest_of_a_split_task_is_not_refused_for_what_a_run_is_expected_to_take() -> None:
    with stepped(max_rows=4, max_request_rows=16, splits=True) as queue:
        push_all(queue, 10, deadline_ns=START + 50 * MS)
        form(queue, START)
        queue.end(START + 40 * MS)
        assert form(queue, START + 40 * MS).parts == [(0, 4, 4)]


def test_a_split_rest_waits_as_a_batch_whose_first_task_came_when_the_task_did() -> None:
    with stepped(max_rows=4, max_request_rows=16, splits=True, wait_ns=10 * MS) as queue:
        push_all(queue, 5)
        batch = form(queue, START + 1 * MS)
        assert (batch.parts, batch.due_ns) == ([(0, 0, 4)], START + 10 * MS)
        assert form(queue, START + 10 * MS).parts == [(0, 4, 1)]


# ---- kinds -----------------------------------------------------------------------------------


def test_kinds_are_never_mixed() -> None:
    with stepped() as queue:
        for kind in (1, 2, 1, 3, 2):
            push_all(queue, 1, kind=kind)
        assert form_all(queue) == [[(0, 0, 1), (2, 0, 1)], [(1, 0, 1), (4, 0, 1)], [(3, 0, 1)]]


def test_tasks_of_one_kind_that_may_not_share_are_not_mixed() -> None:
    with stepped() as queue:
        for shape in (1, 2, 1):
            push_all(queue, 1, kind=7, shape=shape)
        assert form_all(queue) == [[(0, 0, 1), (2, 0, 1)], [(1, 0, 1)]]


def test_of_several_kinds_the_one_whose_first_task_came_first_is_served() -> None:
    with stepped(max_rows=1) as queue:
        for now_ns, kind in ((3, 1), (1, 2), (2, 3), (4, 2)):
            push_all(queue, 1, kind=kind, now_ns=START + now_ns)
        assert [batch[0][0] for batch in form_all(queue, START + 5)] == [1, 2, 0, 3]


def test_many_kinds_wait_beside_each_other() -> None:
    with stepped() as queue:
        for number in range(300):
            push_all(queue, 1, kind=number % 100, now_ns=START + number)
        batches = form_all(queue, START + 300)
        assert [[task for task, _, _ in batch] for batch in batches] == [
            [number, number + 100, number + 200] for number in range(100)
        ]


def test_among_very_many_kinds_further_ones_run_alone() -> None:
    with stepped() as queue:
        for number in range(512):
            push_all(queue, 1, kind=2 + number)
        push_all(queue, 1, 1, kind=1000)
        push_all(queue, 1, kind=2)
        batches = [[task for task, _, _ in batch] for batch in form_all(queue)]
        assert sorted(batches) == [[0, 514], *([task] for task in range(1, 514))]
        push_all(queue, 1, 1, kind=1000)
        assert form(queue).tasks == [515, 516]


def test_a_task_alone_shares_no_batch() -> None:
    with stepped() as queue:
        push_all(queue, 1, 1)
        push_all(queue, 1, 1, alone=True)
        push_all(queue, 1, 1)
        batches = form_all(queue)
        assert [[task for task, _, _ in batch] for batch in batches] == [[0, 1], [2], [3], [4, 5]]


def test_a_task_alone_runs_whole_whatever_the_limit_is() -> None:
    with stepped(max_rows=4, max_request_rows=16, splits=True) as queue:
        push_all(queue, 9, alone=True)
        assert form(queue).parts == [(0, 0, 9)]


# ---- bytes -----------------------------------------------------------------------------------


def test_a_batch_of_several_tasks_has_no_more_bytes_than_are_allowed() -> None:
    with stepped(max_bytes=100) as queue:
        push_all(queue, 1, 1, 1, 1, nbytes=40)
        assert [[task for task, _, _ in batch] for batch in form_all(queue)] == [[0, 1], [2, 3]]


def test_a_single_task_may_have_more_bytes() -> None:
    with stepped(max_bytes=100) as queue:
        push_all(queue, 1, 1, nbytes=101)
        assert [[task for task, _, _ in batch] for batch in form_all(queue)] == [[0], [1]]


# ---- deadlines -------------------------------------------------------------------------------


def test_the_earliest_deadline_comes_first() -> None:
    with stepped(max_rows=1) as queue:
        for deadline_ms in (50, 10, 40, 20, 30):
            push_all(queue, 1, deadline_ns=START + deadline_ms * MS)
        assert [batch[0][0] for batch in form_all(queue)] == [1, 3, 4, 2, 0]


def test_tasks_with_equal_deadlines_keep_their_order() -> None:
    with stepped(max_rows=1) as queue:
        push_all(queue, 1, deadline_ns=START + 90 * MS)
        for number in range(20):
            push_all(queue, 1, deadline_ns=START + (10 + number % 2) * MS, now_ns=START + number)
        even = list(range(1, 21, 2))
        odd = list(range(2, 21, 2))
        assert [batch[0][0] for batch in form_all(queue, START + 20)] == [*even, *odd, 0]


def test_a_task_without_a_deadline_has_a_second() -> None:
    with stepped(max_rows=1) as queue:
        push_all(queue, 1)
        push_all(queue, 1, deadline_ns=START + S + 1)
        push_all(queue, 1, deadline_ns=START + S - 1)
        assert [batch[0][0] for batch in form_all(queue)] == [2, 0, 1]


def test_the_kind_with_the_earliest_deadline_is_served_first() -> None:
    with stepped() as queue:
        push_all(queue, 1, kind=1)
        push_all(queue, 1, kind=2, deadline_ns=START + 20 * MS)
        push_all(queue, 1, kind=3, deadline_ns=START + 10 * MS)
        assert [batch[0][0] for batch in form_all(queue)] == [2, 1, 0]


def test_a_batchs_deadline_is_the_last_of_its_tasks_and_none_if_one_has_none() -> None:
    with stepped() as queue:
        for first in (10, 20):
            push_all(queue, 1, deadline_ns=START + first * MS)
        form(queue)
        assert queue.deadline_of() == START + 20 * MS
        queue.end(START)
        push_all(queue, 1, deadline_ns=START + 10 * MS)
        push_all(queue, 1)
        form(queue)
        assert queue.deadline_of() == 0


def test_an_expired_task_is_refused_and_never_runs() -> None:
    with stepped() as queue:
        push_all(queue, 1, deadline_ns=START + 10 * MS)
        push_all(queue, 1, deadline_ns=START + 20 * MS)
        batch = form(queue, START + 10 * MS)
        assert (batch.tasks, batch.refused) == ([1], [(0, "late")])


def test_a_queue_of_nothing_but_expired_tasks_has_no_batch() -> None:
    with stepped() as queue:
        for kind in (1, 2):
            push_all(queue, 1, 1, kind=kind, deadline_ns=START + 10 * MS)
        batch = form(queue, START + 10 * MS)
        assert (batch.parts, batch.due_ns) == (None, NOT_BEFORE_A_PUSH)
        assert sorted(batch.refused) == [(task, "late") for task in range(4)]
        assert (queue.waiting_rows, queue.waiting_normal) == (0, 0)


def test_an_abandoned_task_is_refused_and_never_runs() -> None:
    with stepped() as queue:
        push_all(queue, 1, 1, 1)
        queue.abandon(0)
        queue.abandon(2)
        batch = form(queue)
        assert (batch.tasks, batch.refused) == ([1], [(2, "unwanted"), (0, "unwanted")])


def learn_runs_of(queue: BatchProbe, run_ns: int, now_ns: int = START) -> None:
    """Have the queue see some runs that all take so long and end at that time."""
    for _ in range(10):
        push_all(queue, 1, now_ns=now_ns - run_ns)
        assert form(queue, now_ns - run_ns).parts is not None
        queue.end(now_ns)


def test_a_task_that_would_be_late_is_refused_as_it_is_taken() -> None:
    with stepped() as queue:
        learn_runs_of(queue, 100 * MS)
        push_all(queue, 1, deadline_ns=START + 50 * MS)
        push_all(queue, 1, deadline_ns=START + 500 * MS)
        batch = form(queue)
        assert (batch.tasks, batch.refused) == ([11], [(10, "late")])


def test_what_was_learned_more_than_a_second_ago_refuses_nothing() -> None:
    with stepped() as queue:
        learn_runs_of(queue, 100 * MS)
        push_all(queue, 1, now_ns=START + S, deadline_ns=START + S + 50 * MS)
        assert form(queue, START + S).tasks == [10]


def test_estimates_are_trusted_for_eight_runs_so_that_one_bad_start_does_not_shut_a_queue() -> None:
    with stepped() as queue:
        learn_runs_of(queue, 10 * MS)
        queue.expect(run_ns=0, row_ns=0)
        push_all(queue, 1, 1, now_ns=START + 50 * MS, deadline_ns=START + 55 * MS)
        assert sorted(form(queue, START + 50 * MS).refused) == [(10, "late"), (11, "late")]
        push_all(queue, 1, 1, now_ns=START + 100 * MS, deadline_ns=START + 105 * MS)
        assert form(queue, START + 100 * MS).tasks == [12, 13]


def test_a_task_that_is_alone_at_a_queue_that_was_idle_runs_in_any_case() -> None:
    """Or a queue whose runs became faster would never know."""
    with stepped() as queue:
        learn_runs_of(queue, 10 * MS)
        push_all(queue, 1, now_ns=START + 5 * MS, deadline_ns=START + 12 * MS)
        assert form(queue, START + 5 * MS).refused == [(10, "late")]
        push_all(queue, 1, now_ns=START + 10 * MS, deadline_ns=START + 17 * MS)
        assert form(queue, START + 10 * MS).tasks == [11]


def test_a_task_that_is_alone_runs_if_it_can_be_through_in_an_ordinary_run() -> None:
    with stepped() as queue:
        learn_runs_of(queue, 100 * MS)  # one in twenty may take a quarter longer, it seems
        push_all(queue, 1, deadline_ns=START + 110 * MS)
        assert form(queue).tasks == [10]
        queue.end(START + 100 * MS)
        queue.expect(run_ns=0, row_ns=0)
        push_all(queue, 1, 1, now_ns=START + S // 2, deadline_ns=START + S // 2 + 110 * MS)
        assert sorted(form(queue, START + S // 2).refused) == [(11, "late"), (12, "late")]


def test_more_rows_than_ever_ran_make_nobody_late() -> None:
    """Where large runs were refused for what they might take, it would never be known."""
    with stepped() as queue:
        learn_runs_of(queue, 20 * MS)
        push_all(queue, 1, 1, 1, 1, deadline_ns=START + 50 * MS)
        batch = form(queue)
        assert (batch.tasks, batch.refused) == ([10, 11, 12, 13], [])


def test_a_task_is_refused_as_it_comes_when_the_rows_before_it_take_too_long() -> None:
    with stepped() as queue:
        push_all(queue, 5)
        queue.expect(run_ns=10 * MS, row_ns=2 * MS)
        assert queue.push(1, START, deadline_ns=START + 20 * MS - 1) == "pushed"
        queue.expect(run_ns=10 * MS, row_ns=20 * MS)
        assert queue.push(1, START, deadline_ns=START + 11 * MS) == "late"
        assert queue.counts["refused_late"] == 1
        assert queue.push(1, START, deadline_ns=START + 10 * S) == "pushed"


def test_only_rows_with_an_earlier_deadline_are_before_a_task() -> None:
    """Deadlines of what waits are taken to lie evenly between now and the last of them."""
    with stepped() as queue:
        push_all(queue, 8, deadline_ns=START + 100 * MS)
        queue.expect(run_ns=0, row_ns=2 * MS)
        # Half of the rows have to be through first: 8 ms for the one that has 50 ms.
        assert queue.push(1, START, deadline_ns=START + 50 * MS) == "pushed"
        queue.expect(run_ns=0, row_ns=20 * MS)
        assert queue.push(1, START, deadline_ns=START + 50 * MS) == "late"


def test_half_of_what_runs_is_before_a_task() -> None:
    with stepped() as queue:
        push_all(queue, 8)
        form(queue)
        queue.expect(run_ns=10 * MS, row_ns=5 * MS)
        assert queue.push(1, START, deadline_ns=START + 30 * MS) == "pushed"
        queue.expect(run_ns=11 * MS, row_ns=5 * MS)
        assert queue.push(1, START, deadline_ns=START + 30 * MS) == "late"


def test_an_idle_queue_accepts_whatever_is_not_late_already() -> None:
    with stepped() as queue:
        queue.expect(run_ns=S, row_ns=S)
        assert queue.push(1, START, deadline_ns=START) == "late"
        assert queue.push(1, START, deadline_ns=START + 1) == "pushed"


# ---- priorities ------------------------------------------------------------------------------


def test_low_tasks_run_when_nothing_else_waits() -> None:
    with stepped() as queue:
        push_all(queue, 1, 1, low=True)
        push_all(queue, 1)
        batch = form(queue)
        assert (batch.tasks, batch.due_ns) == ([2], AS_LOW)
        batch = form(queue)
        assert (batch.tasks, batch.due_ns) == ([0, 1], NOT_BEFORE_A_PUSH)


def test_low_tasks_come_after_normal_ones_whatever_their_deadline_is() -> None:
    with stepped(max_rows=1) as queue:
        push_all(queue, 1, low=True, deadline_ns=START + 1 * MS)
        push_all(queue, 1, low=True, kind=2, deadline_ns=START + 2 * MS)
        push_all(queue, 1, 1, deadline_ns=START + 50 * MS)
        assert [batch[0][0] for batch in form_all(queue)] == [2, 3, 0, 1]


def test_low_tasks_take_the_place_of_padding() -> None:
    with stepped(allowed=[4, 8]) as queue:
        push_all(queue, 1, 1, 1, low=True)
        push_all(queue, 2)
        batch = form(queue)
        assert (batch.tasks, batch.padding) == ([3, 0, 1], 0)


def test_a_low_task_that_leaves_padding_is_taken_and_the_rest_is_padded() -> None:
    with stepped(allowed=[8]) as queue:
        push_all(queue, 3, 4, low=True)
        push_all(queue, 2)
        batch = form(queue)
        assert (batch.parts, batch.padding) == ([(2, 0, 2), (0, 0, 3)], 3)


def test_low_tasks_make_no_batch_larger_than_it_is_anyway() -> None:
    with stepped(allowed=[2, 4, 8]) as queue:
        push_all(queue, 1, low=True)
        push_all(queue, 2)
        assert form(queue).tasks == [1]


def test_without_allowed_sizes_low_tasks_join_no_batch_of_normal_ones() -> None:
    with stepped() as queue:
        push_all(queue, 1, low=True)
        push_all(queue, 2)
        assert form(queue).tasks == [1]


def test_only_low_tasks_of_the_same_kind_take_the_place_of_padding() -> None:
    with stepped(allowed=[8]) as queue:
        push_all(queue, 1, low=True, kind=2)
        push_all(queue, 1, low=True, kind=1, shape=5)
        push_all(queue, 1, low=True, kind=1, alone=True)
        push_all(queue, 2, kind=1)
        assert form(queue).tasks == [3]


def test_low_tasks_join_no_task_that_runs_alone() -> None:
    with stepped(allowed=[8]) as queue:
        push_all(queue, 1, low=True)
        push_all(queue, 2, alone=True)
        assert form(queue).tasks == [1]


def test_low_tasks_in_the_place_of_padding_change_no_deadline() -> None:
    with stepped(allowed=[8]) as queue:
        push_all(queue, 1, low=True)
        push_all(queue, 2, deadline_ns=START + 50 * MS)
        assert form(queue).tasks == [1, 0]
        assert queue.deadline_of() == START + 50 * MS


def test_low_tasks_in_the_place_of_padding_respect_the_bytes() -> None:
    with stepped(allowed=[8], max_bytes=100) as queue:
        push_all(queue, 1, 1, low=True, nbytes=40)
        push_all(queue, 1, nbytes=40)
        assert form(queue).tasks == [2, 0]


def test_low_tasks_that_are_left_over_by_padding_wait_from_their_own_arrival_on() -> None:
    with stepped(allowed=[4], max_rows=4, wait_ns=10 * MS) as queue:
        push_all(queue, 1, low=True, now_ns=START)
        push_all(queue, 1, low=True, now_ns=START + 2 * MS)
        push_all(queue, 3, now_ns=START - 8 * MS)
        batch = form(queue, START + 3 * MS)
        assert (batch.tasks, batch.due_ns) == ([2, 0], START + 12 * MS)


def test_expired_and_abandoned_low_tasks_are_refused() -> None:
    with stepped(allowed=[8]) as queue:
        push_all(queue, 1, low=True, deadline_ns=START + 10 * MS)
        push_all(queue, 1, 1, low=True)
        queue.abandon(1)
        push_all(queue, 1)
        batch = form(queue, START + 10 * MS)
        assert batch.tasks == [3, 2]
        assert sorted(batch.refused) == [(0, "late"), (1, "unwanted")]


def test_low_tasks_do_not_pass_normal_ones_that_wait_for_more() -> None:
    with stepped(wait_ns=10 * MS) as queue:
        push_all(queue, 1, low=True, now_ns=START)
        push_all(queue, 1, now_ns=START + 9 * MS)
        batch = form(queue, START + 12 * MS)
        assert (batch.parts, batch.due_ns) == (None, START + 19 * MS)


def test_low_tasks_take_no_room_from_normal_ones() -> None:
    with stepped(max_waiting_rows=4) as queue:
        push_all(queue, 1, 1, 1, 1, low=True)
        assert queue.push(1, START, low=True) == "full"
        push_all(queue, 2, 2)
        assert queue.push(1, START) == "full"
        assert (queue.waiting_rows, queue.waiting_normal) == (8, 4)


def test_low_tasks_make_no_normal_one_late() -> None:
    with stepped() as queue:
        push_all(queue, *[8] * 20, low=True, deadline_ns=START + 15 * MS)
        queue.expect(run_ns=1 * MS, row_ns=1 * MS)
        assert queue.push(1, START, deadline_ns=START + 20 * MS) == "pushed"
        assert queue.push(1, START, deadline_ns=START + 20 * MS, low=True) == "late"


# ---- what else a queue knows -----------------------------------------------------------------


def test_a_task_that_ran_without_the_queue_is_counted() -> None:
    with stepped() as queue:
        queue.note_alone(3, START, START, START + MS)
        counts = queue.counts
        assert (counts["batches"], counts["tasks"], counts["rows"]) == (1, 1, 3)
        assert queue.sizes == {1: 1}


def test_batches_have_memory_that_grows_and_is_used_again() -> None:
    with stepped() as queue:
        push_all(queue, 1)
        form(queue)
        first = queue.scratch(1000)
        assert queue.scratch(500) == first
        queue.scratch(2000)
        queue.end(START)
        push_all(queue, 1)
        form(queue)
        assert queue.scratch(2000) == queue.scratch(10)
        queue.scratch(1 << 20)


def test_many_batches_run_at_once() -> None:
    with stepped(max_rows=1) as queue:
        push_all(queue, *[1] * 20)
        assert [form(queue).tasks for _ in range(20)] == [[task] for task in range(20)]
        assert (queue.waiting_rows, queue.running_rows) == (0, 20)
        for _ in range(20):
            queue.end(START, 0)
        assert queue.running_rows == 0
        assert queue.accounts == [(1, 1, 0)] * 20


def test_a_queue_frees_its_context_once() -> None:
    with stepped() as queue:
        push_all(queue, 1)
        assert queue.freed == 0
        queue.close()
        queue.close()
        assert queue.freed == 1


def test_no_wait_is_longer_than_a_deadline_allows() -> None:
    with stepped(wait_ns=10 * MS) as queue:
        queue.expect(run_ns=8 * MS, row_ns=0)
        push_all(queue, 1, deadline_ns=START + 19 * MS)
        assert form(queue).due_ns == START + 10 * MS
        push_all(queue, 1, deadline_ns=START + 14 * MS)
        assert form(queue).due_ns == START + 5 * MS  # an eighth of a run is left to chance
        assert form(queue, START + 5 * MS).tasks == [1, 0]


def test_a_task_without_a_deadline_hides_no_deadline_before_the_end_of_the_wait() -> None:
    with stepped(wait_ns=60 * S) as queue:
        push_all(queue, 1)
        push_all(queue, 1, deadline_ns=START + 5 * S)
        assert form(queue).due_ns == START + 5 * S
