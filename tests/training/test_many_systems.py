"""The engine for thousands of small systems: exact where it can be, cell by cell as if alone, within the memory it is given."""

import gc
import shutil
import weakref
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from grassmann_ssl.training import Interrupted, many_systems, simulate
from tests.experiments.progress import Interrupting


def decay(x, *, rate):
    return {"x": -rate * x}


def orbit(p, q, *, frequency):
    """A rotating matrix: q is (N, 2, 2), p a number a cell that grows with the trace of q."""
    turn = q.new_tensor([[0.0, -1.0], [1.0, 0.0]])
    return {"q": frequency[:, None, None] * (turn @ q), "p": p * q.diagonal(dim1=-2, dim2=-1).sum(-1)}


def cells(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = {
        "p": torch.rand(n, dtype=torch.float64, generator=generator),
        "q": torch.randn(n, 2, 2, dtype=torch.float64, generator=generator),
    }
    return state, {"frequency": torch.rand(n, dtype=torch.float64, generator=generator)}


def test_a_step_of_runge_kutta_is_the_taylor_polynomial_of_degree_four():
    z = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    end = simulate(decay, {"x": torch.ones(3, dtype=torch.float64)}, {"rate": z}, step=1.0, steps=1)["x"][-1]
    assert (end - (1 - z + z**2 / 2 - z**3 / 6 + z**4 / 24)).abs().max() < 4 * torch.finfo(torch.float64).eps


def test_discrete_updates_are_what_they_say():
    rate = torch.tensor([0.3, 2.5], dtype=torch.float64)
    run = simulate(
        decay,
        {"x": torch.ones(2, dtype=torch.float64)},
        {"rate": rate},
        step=0.5,
        steps=7,
        method="discrete",
        log_every=3,
    )
    assert run.step.tolist() == [0, 3, 6, 7] and run.time.tolist() == [0, 1.5, 3, 3.5]
    assert run.time.dtype == torch.float64
    assert (run["x"] - (1 - 0.5 * rate) ** run.step[:, None]).abs().max() < 1e-15


def test_halving_the_step_divides_the_error_by_sixteen():
    state, parameters = cells(5)

    def end(steps):
        return simulate(orbit, state, parameters, step=1 / steps, steps=steps)["p"][-1]

    exact = end(2048)
    errors = [(end(steps) - exact).abs().max() for steps in (16, 32, 64)]
    assert 14 < errors[0] / errors[1] < 18 and 14 < errors[1] / errors[2] < 18


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["rk4", "discrete"]))
def test_chunks_do_not_change_a_cell(n, fit, method):
    state, parameters = cells(n, seed=n)
    settings = {"step": 0.1, "steps": 5, "method": method, "log_every": 2}
    logged = 4  # steps 0, 2, 4, 5
    memory = fit * 40 * (many_systems.LIVE_COPIES + logged)
    whole = simulate(orbit, state, parameters, **settings)
    seen = []
    parts = simulate(orbit, state, parameters, **settings, memory=memory, on_step=seen.append)
    assert sum(seen) == 5 * n and max(seen) == min(fit, n)
    for name in state:
        assert torch.equal(whole[name], parts[name])
        assert torch.equal(whole[name][0], state[name])


def test_a_cell_that_blows_up_leaves_the_others_alone():
    state = {"x": torch.tensor([1.0, 0.01], dtype=torch.float64)}
    run = simulate(lambda x: {"x": x**3}, state, step=0.1, steps=100)
    assert not torch.isfinite(run["x"][-1, 0])
    assert abs(float(run["x"][-1, 1]) - (1e4 - 20) ** -0.5) < 1e-13


@pytest.mark.parametrize("fit", [5, 2])
def test_an_interrupt_keeps_the_steps_that_every_cell_has(fit):
    """5 cells in one chunk of 9 steps, or in chunks of 2, 2 and 1: 27 steps in all."""
    state, parameters = cells(5)
    settings = {"step": 0.1, "steps": 9, "log_every": 2, "memory": fit * 40 * (many_systems.LIVE_COPIES + 6)}
    whole = simulate(orbit, state, parameters, **settings)
    before = 9 * (-(-5 // fit) - 1)  # steps of the chunks before the last
    with pytest.raises(Interrupted, match="after step 4 of 9") as stopped:
        simulate(orbit, state, parameters, **settings, on_step=partial(Interrupting(before + 6).tick, "steps"))
    kept = stopped.value.recorded
    assert kept.step.tolist() == [0, 2, 4] and torch.equal(kept.time, whole.time[:3])
    assert all(torch.equal(kept[name], whole[name][:3]) for name in state)
    for early in {1, before, before + 2} - {0}:  # nothing but the start, of the last cells or of all
        with pytest.raises(KeyboardInterrupt) as stopped:
            simulate(orbit, state, parameters, **settings, on_step=partial(Interrupting(early).tick, "steps"))
        assert stopped.type is KeyboardInterrupt


def test_the_start_is_not_written_to_and_no_graph_is_kept():
    start = torch.ones(3, dtype=torch.float64, requires_grad=True)
    end = simulate(decay, {"x": start}, {"rate": 1.0}, step=0.1, steps=2)["x"]
    assert torch.equal(start, torch.ones_like(start)) and not end.requires_grad


class Alive(TorchDispatchMode):
    """The largest number of bytes that the tensors made under it held at one time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        taken = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        if (
            isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in taken
        ):  # no view, not in place
            size = result.untyped_storage().nbytes()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(result, self.drop, size)
        return result

    def drop(self, size):
        self.now -= size


def rule_of_modes(p, s, *, tau, alpha_p, eta):
    slack = tau - p
    return {"p": alpha_p * s * slack - eta * p, "s": 2 * s * (p * slack - eta)}


@pytest.mark.slow
@pytest.mark.parametrize("log_every", [None, 2])
def test_what_is_alive_stays_below_the_memory_that_was_given(log_every):
    n, steps = 20_000, 10
    state = {"p": torch.rand(n, dtype=torch.float64), "s": torch.rand(n, dtype=torch.float64)}
    parameters = {"tau": 1.0, "alpha_p": 1.0, "eta": torch.full((n,), 0.01, dtype=torch.float64)}
    used = []
    for memory in (200_000, 400_000, 800_000):
        gc.collect()
        most = []
        with Alive() as alive:
            simulate(
                rule_of_modes,
                state,
                parameters,
                step=0.01,
                steps=steps,
                log_every=log_every,
                memory=memory,
                on_step=lambda cells, alive=alive, most=most: most.append(alive.most),
            )
        used.append(
            most[steps - 1]
        )  # at the end of the first chunk, before its answer is joined to those of the others
    assert all(u <= memory for u, memory in zip(used, (200_000, 400_000, 800_000), strict=True))
    assert 1.9 < used[1] / used[0] < 2.1 and 1.9 < used[2] / used[1] < 2.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's compiler, about torch
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_are_the_same_steps():
    state, parameters = cells(50)
    settings = {"step": 0.1, "steps": 6, "method": "rk4", "log_every": 3}
    plain = simulate(orbit, state, parameters, **settings)
    fused = simulate(orbit, state, parameters, **settings, compiled=True)
    for name in state:
        assert (plain[name] - fused[name]).abs().max() < 1e-13


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "euler"}, "method must be 'rk4' or 'discrete'"),
        ({"step": 0.0}, "step must be positive and finite"),
        ({"step": float("nan")}, "step must be positive and finite"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"log_every": 0}, "log_every must be at least 1"),
        ({"memory": 10}, "memory must hold one cell, 136 bytes"),
        ({"state": {}}, "state must name at least one tensor"),
        ({"state": {"x": torch.ones(3), "y": torch.ones(2)}}, "of one N >= 1, got leading sizes {'x': 3, 'y': 2}"),
        ({"state": {"x": torch.tensor(1.0)}}, "of one N >= 1"),
        ({"parameters": {"rate": torch.ones(2)}}, r"parameters\['rate'\] needs a leading size of 3"),
    ],
)
def test_bad_settings_are_named(change, message):
    settings = {
        "state": {"x": torch.ones(3, dtype=torch.float64)},
        "parameters": {"rate": 1.0},
        "step": 0.1,
        "steps": 2,
    }
    with pytest.raises(ValueError, match=message):
        simulate(decay, **(settings | change))
