"""NNCLR against sums over rows, batch after batch. What holds of every objective with a state is tested of it with the others."""

import pytest

from tests.objectives.stateful import made, numbers, stepped, views
from tests.oracles import stateful as oracles


@pytest.mark.parametrize("size", [3, 7, 40])
def test_values_and_support_sets_are_those_of_the_rows(size):
    loss = made("nnclr", 4, support=size, temperature=0.2)
    queue, place = loss.support.rows.numpy().copy(), 0
    for step in range(5):
        batch = views(4, 4, seed=step)
        value = stepped(loss, batch)
        expected, queue, place = oracles.nnclr(*numbers(batch), queue, place, 0.2)
        assert abs(value.item() - expected) < 1e-7  # what is left of the first rows, of length 1 in float32
        assert abs(loss.support.rows.numpy() - queue).max() < 1e-15 and int(loss.support.place) == place
