"""The loop against a hand-written one, the record it leaves, and the run folder."""

import json
from functools import partial

import geoopt
import pytest
import torch

from grassmann_ssl.manifolds import Grassmann
from grassmann_ssl.objectives import trace_loss
from grassmann_ssl.runs.folder import provenance, write_json
from grassmann_ssl.training import ARMS, Interrupted, train_full_batch
from tests.experiments.progress import Interrupting


def problem(m=6, d=2, seeds=3):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(m, m, dtype=torch.float64, generator=generator)
    return (a + a.T) / 2, torch.randn(seeds, m, d, dtype=torch.float64, generator=generator)


def test_free_training_is_gradient_descent():
    matrix, start = problem()
    run = train_full_batch(
        lambda w: (w.mT @ matrix @ w - 1).square().sum((-2, -1)), start, geoopt.Euclidean(), learning_rate=1e-3, steps=7
    )
    w = start.clone()
    for k in range(8):
        torch.testing.assert_close(run.weights[k], w, rtol=1e-13, atol=1e-13)
        w = w - 1e-3 * 4 * matrix @ w @ (w.mT @ matrix @ w - 1)
    assert run.step.tolist() == list(range(8))
    torch.testing.assert_close(run.time, run.step.double() * 1e-3)


def test_rescaling_leaves_directions_and_counts_the_norm():
    matrix, start = problem()
    settings = {"learning_rate": 0.05, "steps": 20, "log_every": 3}
    plain, rescaled = (
        train_full_batch(
            lambda w: trace_loss(weights=w, matrix=matrix), start, geoopt.Euclidean(), homogeneous=flag, **settings
        )
        for flag in (False, True)
    )
    assert rescaled.step.tolist() == [0, 3, 6, 9, 12, 15, 18, 20]
    torch.testing.assert_close(torch.linalg.matrix_norm(rescaled.weights), torch.ones(8, 3, dtype=torch.float64))
    scale = rescaled.log_norm.exp()
    torch.testing.assert_close(scale[..., None, None] * rescaled.weights, plain.weights, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scale.square() * rescaled.loss, plain.loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scale * rescaled.gradient_norm, plain.gradient_norm, rtol=1e-12, atol=1e-12)


@pytest.mark.long
def test_rescaled_weights_never_overflow():
    matrix, start = problem()
    run = train_full_batch(lambda w: trace_loss(weights=w, matrix=matrix), start, geoopt.Euclidean(), learning_rate=1.0, steps=2000,
                log_every=10, homogeneous=True)  # fmt: skip
    assert torch.isfinite(run.weights).all() and (run.log_norm[-1] > 710).all()  # e^710 fits no float64


def test_seeds_advance_as_if_alone():
    matrix, start = problem()
    loss = lambda w: trace_loss(weights=w, matrix=matrix)  # noqa: E731
    together = train_full_batch(loss, Grassmann().projx(start), Grassmann(), learning_rate=0.1, steps=30)
    for seed in range(3):
        alone = train_full_batch(loss, Grassmann().projx(start[seed]), Grassmann(), learning_rate=0.1, steps=30)
        torch.testing.assert_close(together.weights[:, seed], alone.weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("arm", list(ARMS))
def test_a_gradient_that_is_not_finite_ends_its_run_and_no_other(arm):
    """By the same rule for every arm: an optimizer on a manifold would skip the steps of all seeds, and say nothing."""
    matrix, start = problem()
    start = ARMS[arm]().projx(start)

    class Breaks:
        calls = 0

        def __call__(self, w):
            return trace_loss(weights=w, matrix=matrix)

        def gradient(self, w):
            gradient = 2 * matrix @ w
            self.calls += 1
            if self.calls == 4:
                gradient[1, 0, 0] = torch.nan
            return gradient

    settings = {"learning_rate": 0.05, "steps": 8}
    whole, broken = (
        train_full_batch(loss, start, ARMS[arm](), **settings)
        for loss in (lambda w: trace_loss(weights=w, matrix=matrix), Breaks())
    )
    ends = torch.isfinite(broken.weights).all((-2, -1))
    assert ends[:, 1].tolist() == [True] * 4 + [False] * 5 and ends[:, [0, 2]].all()
    torch.testing.assert_close(broken.weights[:, [0, 2]], whole.weights[:, [0, 2]], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("arm", ["grassmann", "stiefel"])
def test_orthonormality_holds_without_stabilising(arm, dtype, bound):
    matrix, start = problem(64, 8)
    manifold = ARMS[arm]()
    run = train_full_batch(lambda w: trace_loss(weights=w, matrix=matrix.to(dtype)), manifold.projx(start.to(dtype)), manifold,
                learning_rate=0.01, steps=1000, log_every=1000)  # fmt: skip
    gram = run.weights[-1].mT @ run.weights[-1]
    assert (gram - torch.eye(8, dtype=dtype)).abs().amax() <= bound
    assert run.weights.dtype == dtype


def test_an_interrupt_keeps_what_was_recorded():
    matrix, start = problem()

    def train(on_step):
        return train_full_batch(
            lambda w: trace_loss(weights=w, matrix=matrix), start, geoopt.Euclidean(), learning_rate=0.01, steps=20,
            log_every=2, on_step=on_step,
        )  # fmt: skip

    whole = train(lambda: None)
    with pytest.raises(Interrupted, match="after step 8 of 20") as stopped:
        train(partial(Interrupting(10).tick, "steps"))
    kept = stopped.value.recorded
    assert kept.step.tolist() == [0, 2, 4, 6, 8] and torch.equal(kept.weights, whole.weights[:5])
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(partial(Interrupting(2).tick, "steps"))
    assert stopped.type is KeyboardInterrupt  # nothing but the start


def test_json_refuses_what_json_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "run.json", {"x": float("nan")})
    record = provenance(torch.device("cpu"))
    write_json(tmp_path / "run.json", record)
    assert json.loads((tmp_path / "run.json").read_text())["versions"]["torch"] == torch.__version__
