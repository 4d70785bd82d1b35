"""Lanes: order, threads, errors and stops of work that is done side by side."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from framework.lanes import side_by_side


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items() -> None:
    def slow_if_even(number: int) -> int:
        time.sleep(0.02 * (number % 2 == 0))
        return number

    assert list(side_by_side(slow_if_even, range(20), 3)) == list(range(20))


def test_lanes_work_at_the_same_time_and_each_on_one_thread() -> None:
    together = threading.Barrier(2, timeout=20)  # which one lane alone would never pass

    def work(_: int) -> tuple[int, str]:
        together.wait()
        return torch.get_num_threads(), threading.current_thread().name

    found = list(side_by_side(work, range(4), 2))
    assert {threads for threads, _ in found} == {1}
    assert threading.current_thread().name not in {name for _, name in found}
    assert torch.get_num_threads() == 2, "the caller keeps its own"
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [2], "and so do threads that begin later"


def test_one_lane_is_the_caller() -> None:
    names = list(side_by_side(lambda _: threading.current_thread().name, range(2), 1))
    assert set(names) == {threading.current_thread().name}


def test_items_are_taken_a_little_ahead_and_no_more() -> None:
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = side_by_side(lambda number: number, items(), 2)
    assert next(results) == 0
    assert len(taken) == 5
    results.close()
    assert len(taken) == 5


def test_an_error_reaches_the_caller_and_ends_the_rest() -> None:
    done = []

    def fail_at_three(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        done.append(number)
        return number

    with pytest.raises(ValueError, match="three"):
        list(side_by_side(fail_at_three, range(100), 2))
    assert max(done) < 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_has_lanes_of_its_own() -> None:
    assert list(side_by_side(abs, [-1, -2], 2)) == [1, 2]
    pid = os.fork()
    if not pid:
        os._exit(0 if list(side_by_side(abs, [-1, -2], 2)) == [1, 2] else 1)
    for _ in range(200):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    pytest.fail("the child waits for lanes that it has not")
