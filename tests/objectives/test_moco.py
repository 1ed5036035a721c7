"""MoCo against sums over rows, batch after batch. What holds of every objective with a state is tested of it with the others."""

import numpy as np
import pytest
import torch

from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.runs import ConfigError
from tests.objectives.declared import slopes
from tests.objectives.stateful import made, numbers, stepped, views
from tests.oracles import stateful as oracles


@pytest.mark.parametrize("size", [3, 8, 11])
def test_values_and_queues_are_those_of_the_rows(size):
    """Queues shorter than a batch, of its length, and longer; they begin anew where they end."""
    loss = made("moco", 4, queue=size, temperature=0.2)
    queue, place = loss.queue.rows.numpy().copy(), 0
    assert np.abs(np.linalg.norm(queue, axis=1) - 1).max() < 1e-7  # made in float32
    for step in range(5):
        batch = views(4, 4, seed=step)
        value = stepped(loss, batch)
        expected, queue, place = oracles.moco(*numbers(batch), queue, place, 0.2)
        assert abs(value.item() - expected) < 1e-13
        assert np.abs(loss.queue.rows.numpy() - queue).max() < 1e-15 and int(loss.queue.place) == place


def test_the_oldest_rows_are_replaced():
    loss = made("moco", 3, queue=10)
    before = loss.queue.rows.clone()
    first, second = views(2, 3), views(2, 3, seed=1)
    stepped(loss, first)
    assert torch.equal(loss.queue.rows[4:], before[4:])
    stepped(loss, second), stepped(loss, first)
    rows = torch.cat([first["target_positive"], first["target"], second["target_positive"], second["target"]])
    assert torch.allclose(loss.queue.rows[2:8], torch.nn.functional.normalize(rows[2:]), rtol=1e-15)
    assert int(loss.queue.place) == 2


def test_the_gradient_is_that_of_the_predictions_alone():
    loss, batch = made("moco", 4, queue=8, temperature=0.3), views(5, 4)
    queue = loss.queue.rows.numpy().copy()
    leaves = {name: z.clone().requires_grad_() for name, z in batch.items()}
    stepped(loss, leaves).backward()
    assert leaves["target"].grad is None and leaves["target_positive"].grad is None
    p, *others = numbers(batch)
    expected = slopes(lambda p: oracles.moco(p, *others, queue, 0, 0.3)[0], p)
    assert np.abs(leaves["prediction"].grad.numpy() - expected).max() < 1e-7


def test_it_needs_a_teacher():
    with pytest.raises(ConfigError, match=r"^moco needs a momentum teacher: set teacher, its momentum, to 0\.99, say$"):
        TrainConfig(objective="moco")
    with pytest.raises(ConfigError, match="moco is not rotation-invariant"):
        TrainConfig(objective="moco", teacher=0.99, constraint="grassmann")
    assert TrainConfig(objective="moco", teacher=0.99, constraint="stiefel").loss().needs_teacher
