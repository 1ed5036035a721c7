"""What Ctrl-C leaves of a run: the parts that are complete, and what a training recorded."""

import pytest

from grassmann_ssl.runs import Run, RunConfig
from grassmann_ssl.training import Interrupted


def training(steps, until):
    """Ctrl-C after step `until`, which is the last recorded one."""
    recorded = list(range(until + 1))
    if until < steps:
        raise Interrupted(recorded, until, steps)
    return recorded


def stopping_at(part):
    def work(item):
        if item == part:
            raise KeyboardInterrupt
        return item * 10

    return work


@pytest.fixture
def run():
    return Run(RunConfig())


def test_all_parts_are_kept_in_their_order(run):
    assert run.parts((1, 2, 3), stopping_at(None)) == [10, 20, 30] and run.interrupted is None
    assert run.parts((), stopping_at(None)) == [] and run.interrupted is None


def test_parts_before_the_interrupted_one_are_kept(run):
    assert run.parts((1, 2, 3), stopping_at(3), lambda item: f"width {item}") == [10, 20]
    assert run.interrupted == "in width 3, which is left out, part 3 of 3"
    assert run.parts((4, 5), stopping_at(None)) == []  # nothing is begun after it
    assert run.interrupted == "in width 3, which is left out, part 3 of 3"


@pytest.mark.parametrize(("at", "least"), [(1, 1), (2, 2)])
def test_an_interrupt_propagates_while_too_few_parts_are_complete(run, at, least):
    with pytest.raises(KeyboardInterrupt):
        run.parts((1, 2, 3), stopping_at(at), least=least)


def test_parts_of_the_same_run_count_together(run):
    run.parts((1,), stopping_at(None))
    assert run.parts((2,), stopping_at(2)) == [] and run.interrupted == "in 2, which is left out"


def test_a_training_keeps_what_it_recorded_only_where_that_is_asked_for(run):
    assert run.keep(training, 3, until=3) == [0, 1, 2, 3] and run.interrupted is None
    with pytest.raises(KeyboardInterrupt):
        run.parts((1,), lambda until: training(3, until))
    assert run.keep(training, 3, until=2) == [0, 1, 2] and run.interrupted == "after step 2 of 3"


def test_a_part_that_keeps_what_it_recorded_is_the_last(run):
    parts = run.parts((3, 2, 3), lambda until: run.keep(training, 3, until), lambda until: f"arm {until}")
    assert parts == [[0, 1, 2, 3], [0, 1, 2]] and run.interrupted == "arm 2, after step 2 of 3"


def test_the_outcome_says_where(run):
    class Named(RunConfig):
        NAME = "named"

    run.config = Named()
    assert run.finish([], {}, {}, {}).interrupted is None
    run.keep(training, 3, until=1)
    assert run.finish([], {}, {}, {}).interrupted == "after step 1 of 3"
