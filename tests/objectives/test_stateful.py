"""What holds of every objective with a state: training alone changes it, it goes on from where it was, and all processes share it."""

import os

import pytest
import torch
import torch.distributed as dist

from grassmann_ssl.objectives import OBJECTIVES, objective
from tests.objectives.declared import draw, embeddings, related_views
from tests.objectives.stateful import STATEFUL, begun, made, train
from tests.processes import start

WITH_BUFFERS = [name for name in STATEFUL if list(made(name, 3).buffers())]


def test_the_objectives_with_a_state_are_known():
    assert set(STATEFUL) == {"dino", "moco", "nnclr", "swav", "tico"} and set(STATEFUL) - set(WITH_BUFFERS) == {"swav"}
    for name in OBJECTIVES:
        chosen = objective(name)
        if chosen.stateful:
            assert not chosen.needs_teacher or chosen.predictive
            with pytest.raises(
                ValueError, match=rf"^{name} keeps a state: make its loss for embeddings of d dimensions by new\(d\)$"
            ):
                chosen.loss  # noqa: B018
        else:
            assert chosen.new(3) is chosen.loss and not chosen.needs_teacher


@pytest.mark.parametrize("name", STATEFUL)
def test_it_is_new_every_time_and_random_by_the_seed_alone(name):
    one, same, other = made(name, 5), made(name, 5), made(name, 5, seed=1)
    states = [torch.cat([x.flatten() for x in loss.state_dict().values()]) for loss in (one, same, other)]
    assert one is not same and torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2]) == (name in ("dino", "tico"))  # they begin at 0


@pytest.mark.parametrize("name", WITH_BUFFERS)
def test_values_do_not_change_it_and_the_joint_embedding_does_in_training(name):
    method, views = begun(name), draw(2, 12, 7)
    kept = {key: x.clone() for key, x in method.loss.state_dict().items()}

    def same():
        return all(torch.equal(x, kept[key]) for key, x in method.loss.state_dict().items())

    method.eval()
    before = method(*views)
    assert method(*views) == before and same()
    method.train()
    assert method(*views) == before and not same()  # its value is that with the past batches
    assert method(*views) != before


@pytest.mark.parametrize("name", ["dino", "moco", "nnclr"])
def test_gradients_are_those_of_differences(name):
    """Of predictions. The others stop the gradient of a part of what predictions enter, and have tests of their own."""
    chosen, loss = objective(name), made(name, 3)
    taken = embeddings(chosen, *(draw(4, 3, seed=k) for k in range(2)))
    leaves = [name for name in taken if not name.startswith("target")]
    values = [taken[name].clone().requires_grad_() for name in leaves]
    assert torch.autograd.gradcheck(lambda *z: loss(**{**taken, **dict(zip(leaves, z, strict=True))}), values)


@pytest.mark.parametrize("name", ["moco", "nnclr", "swav", "tico"])
def test_it_is_rotation_invariant_where_its_state_is_turned_too(name):
    """And not without: the declaration."""
    chosen, loss = objective(name), made(name, 5)
    if chosen.predictive:
        loss.remember([draw(12, 5, seed=1)], [draw(12, 5, seed=2)])
    views, q = related_views(12, 5), torch.linalg.qr(draw(5, 5, seed=4))[0]
    before, turned = loss(**embeddings(chosen, *views)), embeddings(chosen, *(v @ q for v in views))
    assert abs(loss(**turned) - before) > 1e-4
    with torch.no_grad():
        for key, state in loss.state_dict().items():
            if state.ndim == 2:
                state.copy_(q.T @ state @ q if key == "moment" else state @ q)
    assert abs(loss(**turned) - before) < 1e-12


@pytest.mark.parametrize("name", STATEFUL)
def test_a_training_goes_on_to_the_same_bits(name):
    """Queues, centres, moments and prototypes are in the state of the method, and the prototypes among what is trained."""
    method = begun(name)
    kept = {key: x.clone() for key, x in method.state_dict().items()}
    whole = train(method, range(4))
    assert any(key.startswith("loss.") for key in whole)
    for key, x in whole.items():
        assert not torch.equal(x, kept[key]), f"{key} has not changed"
    half = train(begun(name), range(2))
    other = begun(name)
    other.load_state_dict(half)
    assert all(torch.equal(x, whole[key]) for key, x in train(other, range(2, 4)).items())


@pytest.mark.slow
def test_several_processes_train_as_one_on_all_rows(tmp_path):
    """Weights, teachers, prototypes, queues, centres and moments, equal in all processes, to rounding those of one process."""
    expected = {name: train(begun(name), range(3)) for name in STATEFUL}
    start(_process, (f"file://{tmp_path}/rendezvous", expected), 2)


def _process(rank, address, expected):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    for name, whole in expected.items():
        rows = slice(6 * rank, 6 * rank + 6)
        state = train(begun(name), range(3), torch.nn.parallel.DistributedDataParallel, rows)
        for key, x in state.items():
            assert torch.allclose(x, whole[key], rtol=1e-9, atol=1e-12), f"{name}: {key} in process {rank}"
            others = [torch.empty_like(x) for _ in range(2)]
            dist.all_gather(others, x.contiguous())
            assert torch.equal(*others), f"{name}: {key} differs between processes"
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)
