"""The benchmark of encoder steps on a tiny encoder: what it checks, what it records, and its table."""

import pytest
import torch

from benchmarks import encoder_step

CPU = torch.device("cpu")
TINY = {"encoder": "conv", "batch": 8, "size": 8, "hidden": 16, "dim": 4, "target": 1e-6}
SIDES = (encoder_step.FREE, *encoder_step.OURS, *encoder_step.PEERS)


def tiny(name: str) -> encoder_step.Training:
    setting = {key: TINY[key] for key in ("encoder", "batch", "hidden", "dim")}
    return encoder_step.Training(encoder_step.settings(name, {"objective": "nt_xent", **setting}), 8, CPU)


@pytest.mark.slow
def test_records_hold_ratios_rates_and_shares():
    records = encoder_step.run(CPU, 2, **TINY)
    assert [row["kind"] for row in records] == ["step", "loop", "loop"]
    step, *loops = records
    assert set(step["seconds"]) == set(step["deviation"]) == set(SIDES)
    assert set(step["ratio_to_none"]) == set(SIDES) - {encoder_step.FREE}
    # "none" is timed beside every other two sides: ratios lie between those of the extreme times.
    free = step["seconds"][encoder_step.FREE]
    for name, ratio in step["ratio_to_none"].items():
        side = step["seconds"][name]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert ratio["low"] >= side["low"] / free["high"] and ratio["high"] <= side["high"] / free["low"]
    held = {name for name, deviation in step["deviation"].items() if deviation is not None}
    assert held == {"grassmann", "feature-orthonormal", "stiefel", "parametrization", "geoopt-stiefel"}
    assert [row["constraint"] for row in loops] == list(encoder_step.LOOPS)
    for row in loops:
        assert row["images_per_second"]["median"] > 0
        assert all(share > 0 for share in row["shares"].values()) and sum(row["shares"].values()) == pytest.approx(1)
    lines = encoder_step.markdown([{"device": "some CPU", "records": records}])
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + len(SIDES) + len(loops)
    assert sum("grassmann" in line for line in lines) == 2


def test_ratios_are_to_the_side_timed_next(monkeypatch):
    """On a machine that doubles its time with every group, they are those of the sides."""
    true = {name: 1 + i / 10 for i, name in enumerate(SIDES)}
    calls: list[str] = []

    class Timed:
        def __init__(self, name: str) -> None:
            self.name = name

        def advance(self, views: object, count: int) -> None:
            pass

        def per_step(self, views: object, count: int) -> float:
            calls.append(self.name)
            # One call settles the number of steps; then groups of three, and a last one of two.
            place = max(0, len(calls) - 2) % 11
            return true[self.name] * 2 ** (place // 3)

    timed = {name: Timed(name) for name in SIDES}
    result = encoder_step.steps(timed, 2, 8, CPU, 1, 3.0)
    assert result["steps_per_turn"] == 3 and calls.count(encoder_step.FREE) == 1 + 4
    for name, ratio in result["ratio_to_none"].items():
        assert ratio["low"] == ratio["median"] == ratio["high"] == pytest.approx(true[name])
    calls.clear()
    encoder_step.steps(timed, 2, 8, CPU, 2, 3.0)
    assert calls[1:12] == calls[:11:-1]


def test_sides_differ_in_the_constraint_alone():
    """The same head, so the same weights outside its last layer, and as many of them trained."""
    free = tiny(encoder_step.FREE).arm.method.state_dict()
    last = next(name for name in reversed(free) if name.endswith("weight"))
    for name in SIDES:
        side = tiny(name)
        state = side.arm.method.state_dict()
        assert all(torch.equal(state[key], value) for key, value in free.items() if key != last)
        trained = sum(p.numel() for o in side.arm.optimizers for g in o.param_groups for p in g["params"])
        assert trained == sum(p.numel() for p in side.arm.method.parameters())
        assert (len(side.arm.optimizers) == 2) == (name == "muon")


def test_parts_are_those_of_the_step(monkeypatch):
    """A clock that only moves where something is done: 3 s a pair of views, 5 s a forward pass, 7 s an optimizer step, 11 s a follower."""
    now = [0.0]
    monkeypatch.setattr(encoder_step.time, "perf_counter", lambda: now[0])
    side = tiny("grassmann")

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    given = encoder_step.fixed_views(8, 8, CPU)
    side.arm.method.register_forward_hook(lambda *_: pass_by(5.0))
    side.arm.optimizers[0].register_step_post_hook(lambda *_: pass_by(7.0))
    side.arm.followers.append(lambda step: pass_by(11.0))
    side.arm.observers.append(lambda step: pass_by(100.0))  # what only looks is no part of a step
    found = encoder_step.shares(side, lambda step, part: (pass_by(3.0), given(step, part))[1])
    assert list(found.values()) == pytest.approx([3 / 26, 5 / 26, 18 / 26])
    assert side.done == encoder_step.PROFILED
    assert not side.arm.optimizers[0]._optimizer_step_pre_hooks


def test_nothing_is_timed_where_rows_are_not_orthonormal(monkeypatch):
    def off(side: encoder_step.Training) -> None:
        weight = side.arm.method.online.get_submodule(side.arm.constrained[0]).weight
        with torch.no_grad():
            weight.mul_(1 + 1e-5)

    side = tiny("stiefel")
    assert encoder_step.checked("stiefel", side, 8) < encoder_step.TOLERANCE
    side.arm.followers.append(lambda step: off(side))
    with pytest.raises(RuntimeError, match=r"rows of stiefel are orthonormal only to .*; nothing was timed"):
        encoder_step.checked("stiefel", side, 8)


def test_nothing_is_timed_where_the_loss_is_not_finite():
    side = tiny("none")
    with torch.no_grad():
        next(side.arm.method.parameters()).fill_(torch.nan)
    with pytest.raises(RuntimeError, match="none: the loss is not finite from step 0 on; nothing was timed"):
        encoder_step.checked("none", side, 8)
