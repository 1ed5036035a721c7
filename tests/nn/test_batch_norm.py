"""Batch normalisation over processes: two of them are one on the concatenated batch."""

import pytest
import torch
from torch import nn

from grassmann_ssl.nn.batch_norm import GlobalBatchNorm, globalise_batch_norm, settle_batch_norm
from grassmann_ssl.training.torchrun import parallelise
from tests.nn.test_distributed import run_in


def network():
    torch.manual_seed(3)
    convolutions = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
    return nn.Sequential(convolutions, nn.BatchNorm1d(12, affine=False), nn.Linear(12, 2)).double()


def batch():
    return torch.randn(10, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _two_are_one(rank, world):
    alone, model = network(), globalise_batch_norm(network())
    parallel = parallelise(model)
    for scale in (1.0, 2.0):
        parallel(scale * batch().chunk(world)[rank]).square().mean().backward()
        alone(scale * batch()).square().mean().backward()
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-14, rtol=1e-12, msg=name)
    for (name, value), other in zip(model.state_dict().items(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, atol=1e-14, rtol=1e-14, msg=name)
    torch.testing.assert_close(model.eval()(batch()), alone.eval()(batch()), atol=1e-14, rtol=1e-14)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    run_in(2, tmp_path, _two_are_one)


def test_alone_it_is_torchs_and_shares_its_checkpoint():
    model, plain = globalise_batch_norm(network()), network()
    assert [type(m) for m in model.modules()].count(GlobalBatchNorm) == 2
    assert model.state_dict().keys() == plain.state_dict().keys()
    for mode in (True, False):
        assert torch.equal(model.train(mode)(batch()), plain.train(mode)(batch()))
    for (name, value), other in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    with pytest.raises(ValueError, match="must track running statistics"):
        globalise_batch_norm(nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)))


def test_statistics_of_chunks_are_weighted_by_their_rows_and_a_single_row_has_none():
    x = torch.randn(11, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + torch.arange(11)[:, None]
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)).double().eval()
    settle_batch_norm(model, x.split(5))  # of 5, 5 and 1 rows
    torch.testing.assert_close(model[0].running_mean, x[:10].mean(0), atol=1e-14, rtol=1e-14)
    settle_batch_norm(model, x.split(8))  # of 8 and 3, whatever there was before
    torch.testing.assert_close(model[0].running_mean, x.mean(0), atol=1e-14, rtol=1e-14)
    variance = (8 * x[:8].var(0) + 3 * x[8:].var(0)) / 11
    torch.testing.assert_close(model[0].running_var, variance, atol=1e-14, rtol=1e-14)
    assert model[0].momentum == nn.BatchNorm1d(4).momentum and not model.training
    settle_batch_norm(nn.Linear(4, 2), iter([None]))  # nothing to settle: nothing is read
