"""Eigenspaces of a predictor and of a correlation: against loops over eigenvectors, under rotations, and at the ends of their range."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.metrics.eigenspaces import eigenspaces


def draw(d, seed):
    rng = np.random.default_rng(seed)
    a, w = rng.standard_normal((2 * d, d)), rng.standard_normal((d, d))
    return a.T @ a / (2 * d), w


def found(f, w):
    return {name: value.numpy() for name, value in eigenspaces(torch.tensor(f), torch.tensor(w)).items()}


@given(st.integers(1, 7), st.integers(0, 99))
def test_they_are_those_of_the_loops(d, seed):
    f, w = draw(d, seed)
    one = found(f, w)
    values, vectors = np.linalg.eigh(f)
    order = np.argsort(values)[::-1]
    for k, j in enumerate(order):
        u = vectors[:, j]
        # Eigenvectors are known to rounding over the gap of their eigenvalues.
        gap = min([abs(values[j] - other) for i, other in enumerate(values) if i != j], default=1.0)
        assert abs(one["cosine"][k] - abs(u @ w @ u) / np.linalg.norm(w @ u)) < 1e-12 / min(gap, 1)
        assert abs(one["f"][k] - values[j]) < 1e-13 * values.max()
    axes = [abs(w[i, i]) / np.sqrt((w[:, i] ** 2).sum()) for i in range(d)]
    assert abs(one["unaligned"][0] - np.mean(axes)) < 1e-14
    assert abs(one["asymmetry"][0] - np.sqrt(((w - w.T) ** 2).sum() / (w**2).sum())) < 1e-14
    assert np.abs(one["p"] - np.sort(np.linalg.eigvalsh((w + w.T) / 2))[::-1]).max() < 1e-13 * np.abs(w).sum()


@given(st.integers(2, 6), st.integers(0, 99))
def test_a_rotation_of_the_embeddings_changes_nothing_but_the_axes(d, seed):
    f, w = draw(d, seed)
    f = f + np.diag(np.arange(d) * 10.0)  # eigenvalues apart
    q = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((d, d)))[0]
    one, other = found(f, w), found(q.T @ f @ q, q.T @ w @ q)
    for name in ("f", "p", "cosine", "asymmetry"):
        assert np.abs(one[name] - other[name]).max() < 1e-11 * (1 + np.abs(one[name]).max()), name


def test_a_function_of_f_is_aligned_and_one_of_another_matrix_is_not():
    f, _ = draw(6, 1)
    values, u = np.linalg.eigh(f)
    aligned, other = (u * np.sqrt(values)) @ u.T, np.diag(np.arange(1.0, 7.0))
    assert found(f, aligned)["cosine"].min() > 1 - 1e-12 and found(f, aligned)["asymmetry"][0] < 1e-15
    assert found(f, aligned)["unaligned"][0] < 0.99
    turned = found(f, other)
    assert turned["cosine"].max() < 0.999 and turned["unaligned"][0] == 1
    both = found(f, 3 * np.eye(6))
    assert both["cosine"].min() > 1 - 1e-12 and both["unaligned"][0] == 1  # why the axes are there to compare with


def test_nothing_is_zero_and_batches_are_batches():
    f, w = (np.stack(many) for many in zip(*(draw(4, k) for k in range(3)), strict=True))
    whole = found(f, w)
    for k in range(3):
        for name, value in found(f[k], w[k]).items():
            assert np.abs(whole[name][k] - value).max() < 1e-13, name
    none = found(f[0], np.zeros((4, 4)))
    assert not none["cosine"].any() and not none["asymmetry"].any() and np.isfinite(none["p"]).all()
