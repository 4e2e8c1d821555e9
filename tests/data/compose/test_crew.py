"""Processes that share a task: answers in order, the task written once, errors that come through."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from palyno.data.compose.crew import Crew


class Counted:
    """A task that counts how often it is made ready to travel; what arrives is `int`."""

    def __init__(self):
        self.times = 0

    def __reduce__(self):
        self.times += 1
        return partial, (int,)


def test_answers_come_in_order_and_the_task_is_made_ready_once(tmp_path):
    task, items = Counted(), [str(n) for n in range(40)]
    with Crew(2, tmp_path) as crew:
        assert list(crew.map(task, items, chunk=1)) == list(range(40))
    assert task.times == 1


def test_one_crew_works_on_one_task_after_another(tmp_path):
    squares, table = np.arange(8) ** 2, np.arange(1000)
    with Crew(2, tmp_path) as crew:
        assert list(crew.map(squares.take, range(8))) == [0, 1, 4, 9, 16, 25, 36, 49]
        assert list(crew.map(table[::-1].take, range(3))) == [999, 998, 997]


def test_alone_it_maps_in_this_process_and_writes_no_task(tmp_path):
    seen = []
    with Crew(1, tmp_path) as crew:
        list(crew.map(seen.append, "abc"))
    assert seen == ["a", "b", "c"]
    assert not list(tmp_path.iterdir())


def test_what_fails_in_a_process_is_raised_here(tmp_path):
    with Crew(2, tmp_path) as crew, pytest.raises(ValueError, match="invalid literal"):
        list(crew.map(int, ["1", "two", *["3"] * 20]))
