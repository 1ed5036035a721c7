"""Comparisons trained together are those trained alone."""

import numpy as np
import pytest

from grassmann_ssl.experiments.linear import packed as module
from grassmann_ssl.experiments.linear.compare import CompareConfig, compare
from grassmann_ssl.experiments.linear.packed import packed
from grassmann_ssl.runs import ConfigError

BASE = {"data": "gaussian", "dim": 2, "seeds": 2, "steps": 400, "init_scale": 1e-3, "init_scales": ()}
# Sums are formed in another order in a batch of another size; what that changes grows as the weights do, thousands of times eps at most.
ROUNDING = {"float64": 1e-11, "float32": 1e-3}


def run(configs):
    return [experiment(config) for config, experiment in zip(configs, packed(configs), strict=True)]


def assert_same(together, alone, rounding):
    for then, now in ((together.metrics, alone.metrics), (together.arrays, alone.arrays)):
        assert then.keys() == now.keys()
        for name, values in then.items():
            if values.dtype.kind == "f" and name not in (
                "orthonormality_error",
                "principal_angle",
                "flow_projector_error",
            ):
                scale = np.nanmax(np.abs(now[name]), initial=1e-300)
                np.testing.assert_allclose(values, now[name], rtol=rounding, atol=rounding * scale, err_msg=name)
            elif values.dtype.kind != "f":
                assert np.array_equal(values, now[name]), name
    record = alone.record
    for name, arms in together.record["arms"].items():
        for arm, end in arms.items():
            other = record["arms"][name][arm]
            assert end["kind"] == other["kind"] and end["learning_rate"] == other["learning_rate"]
    assert together.record["config"] == record["config"] and together.record["data"] == record["data"]


@pytest.fixture
def trained(monkeypatch):
    """The numbers of runs that were trained together."""
    sizes = []
    original = module.trained_together
    monkeypatch.setattr(module, "trained_together", lambda problems: sizes.append(len(problems)) or original(problems))
    return sizes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("same", "dtype"),
    [
        ({"objectives": ("barlow_twins", "linear_noncontrastive")}, "float64"),
        ({"objectives": ("spectral_contrastive", "linear_contrastive")}, "float64"),
        ({"objectives": ("barlow_twins",), "arms": ("free", "stiefel"), "barlow_lambda": 0.5}, "float64"),
        ({"objectives": ("barlow_twins",)}, "float32"),
    ],
)
def test_runs_trained_together_are_those_trained_alone(same, dtype, trained):
    own = ({"lr": 0.05}, {"noise": 0.3, "lr": 0.02}, {"init_scale": 1e-2, "seed": 3})
    configs = [CompareConfig(**(BASE | same | {"dtype": dtype} | one)) for one in own]
    for config, outcome in zip(configs, run(configs), strict=True):
        assert_same(outcome, compare(config), ROUNDING[dtype])
    assert trained == [3]


def test_runs_of_other_shapes_are_packed_apart(trained):
    common = BASE | {"objectives": ("barlow_twins",), "steps": 5}
    own = ({}, {"dim": 3}, {"seed": 2}, {"steps": 6}, {"seed": 3}, {"spectrum": (0.5, 0.3, 0.2)}, {"seeds": 3})
    configs = [CompareConfig(**(common | one)) for one in own]
    outcomes = run(configs)
    assert [outcome.record["config"] for outcome in outcomes] == [
        compare(config).record["config"] for config in configs
    ]
    assert sorted(trained) == [1, 1, 1, 1, 3]


@pytest.mark.long
def test_a_run_that_is_refused_or_diverges_changes_no_other(trained):
    common = BASE | {"objectives": ("barlow_twins",), "steps": 60}
    good = CompareConfig(**common)
    refused = CompareConfig(**common, lr=50.0, seed=2)
    _, second = packed([good, refused])
    with pytest.raises(ConfigError, match="above the stability limit"):
        second(refused)
    diverging = CompareConfig(**common, lr=50.0, seed=2, allow_unstable=True)
    outcomes = run([good, diverging])
    assert_same(outcomes[0], compare(good), 1e-9)
    assert list(packed([good, diverging])) == [compare, compare]
    assert "diverged" in outcomes[1].record["arms"]["barlow_twins"]["free"]["reason"]


@pytest.mark.slow
def test_packs_are_as_large_as_the_memory_allows(trained, monkeypatch):
    configs = [CompareConfig(**BASE, seed=seed, objectives=("barlow_twins",)) for seed in range(5)]
    monkeypatch.setattr(module, "MEMORY", 2 * 300 * 2 * 2 * 64 * 2 * 8)
    run(configs)
    assert trained == [2, 2, 1]


@pytest.mark.long
def test_runs_that_share_data_share_no_arrays():
    config = CompareConfig(**BASE, objectives=("barlow_twins",))
    before = compare(config).arrays["moments/cross"]
    kept = before.copy()
    before *= 2
    assert np.array_equal(compare(config).arrays["moments/cross"], kept)
