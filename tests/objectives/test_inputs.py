"""What every objective asks of its embeddings, and what it does with rows and dimensions that have no direction or no spread."""

import pytest
import torch

from grassmann_ssl.objectives import EMBEDDING_LOSSES, objective
from tests.objectives.declared import new

ALL = [objective(name) for name in EMBEDDING_LOSSES]
DIRECTIONAL = [one for one in ALL if one.directional]


def ids(one):
    return one.name


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def given(one, rows=24, d=4, **changed):
    """Embeddings by name, one of them changed."""
    made = {name: draw(rows, d, seed=k) for k, name in enumerate(one.arguments)}
    return made | changed


@pytest.mark.parametrize("one", ALL, ids=ids)
@pytest.mark.parametrize("shape", [(12, 4), (1, 4), (24, 1), (24, 3)])
def test_shapes_that_differ_are_refused_and_not_broadcast(one, shape):
    first, *others = one.arguments
    for name in others:
        with pytest.raises(
            ValueError, match=rf"^{one.name}: {first} and {name} must have one shape, got \(24, 4\) and"
        ):
            call(one, **given(one, **{name: draw(*shape)}))


def call(one, **embeddings):
    """The function itself: a training hands a projection to every predictive loss."""
    if one.stateful:
        kinds = {z.dtype for z in embeddings.values() if isinstance(z, torch.Tensor) and z.is_floating_point()}
        return new(one, draw(24, 4, dtype=min(kinds or {torch.float64}, key=str)))(**embeddings)
    return one.loss(**embeddings) if isinstance(one.function, type) else one.function(**embeddings, **one.options)


@pytest.mark.parametrize("one", ALL, ids=ids)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda z: z.numpy(), TypeError, "must be a torch.Tensor, got ndarray"),
        (lambda z: z.int(), ValueError, "must be floating, got torch.int32"),
        (lambda z: z[None], ValueError, r"must have a shape \(n, d\) with n, d >= 1, got \(1, 24, 4\)"),
        (lambda z: z[:, 0], ValueError, r"with n, d >= 1, got \(24,\)"),
        (lambda z: z[:0], ValueError, r"with n, d >= 1, got \(0, 4\)"),
        (lambda z: z[:, :0], ValueError, r"with n, d >= 1, got \(24, 0\)"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(one, change, error, message):
    for name in one.arguments:
        made = given(one)
        with pytest.raises(error, match=f"^{one.name}: .*{message}"):
            call(one, **{other: change(z) for other, z in made.items()})
        with pytest.raises((TypeError, ValueError), match=f"^{one.name}: .*{name} "):
            call(one, **made | {name: change(made[name])})


@pytest.mark.parametrize("one", [one for one in ALL if one.rows > 1], ids=ids)
def test_too_few_rows_are_refused(one):
    with pytest.raises(
        ValueError, match=f"^{one.name}: {one.rows} rows or more are needed, in all processes together, got 1"
    ):
        call(one, **given(one, rows=1))


def test_losses_that_compare_rows_or_take_a_variance_need_two():
    assert {one.name for one in ALL if one.rows == 2} == {
        "nt_xent", "directclr", "dcl", "infonce", "alignment_uniformity", "vicreg", "vibcreg", "barlow_twins_normalised",
        "nnclr",
    }  # fmt: skip


# rows without a direction


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("one", DIRECTIONAL, ids=ids)
def test_a_zero_row_has_no_gradient_and_changes_nothing_to_infinity(one, dtype):
    made = {name: z.to(dtype) for name, z in given(one).items()}
    for z in made.values():
        z[:3] = 0
        z.requires_grad_()
    loss = call(one, **made)
    loss.backward()
    assert loss.isfinite()
    for z in made.values():
        if z.grad is not None:  # targets have none
            assert z.grad.isfinite().all() and (z.grad[:3] == 0).all()
    assert sum(float(z.grad.abs().sum()) for z in made.values() if z.grad is not None) > 0


def uniformity(z, t):
    """log mean_{i != j} e^{-t ||u_i - u_j||^2}, from the distances themselves; a zero row stays 0."""
    u = torch.nn.functional.normalize(z)
    squares = (u[:, None] - u[None]).square().sum(-1)
    apart = ~torch.eye(len(z), dtype=torch.bool)
    return (-t * squares[apart]).exp().mean().log()


@pytest.mark.parametrize("t", [0.5, 2.0, 30.0])
@pytest.mark.parametrize("zeros", [0, 1, 5, 23, 24])
def test_uniformity_of_zero_rows_is_that_of_their_distances(zeros, t):
    z, other = draw(24, 4), draw(24, 4, seed=1)
    z[:zeros] = other[:zeros] = 0
    expected = (uniformity(z, t) + uniformity(other, t)) / 2
    loss = objective("alignment_uniformity", alpha=2.0, t=t)
    u, v = (torch.nn.functional.normalize(x) for x in (z, other))
    alignment = (u - v).square().sum(1).mean()
    assert float(loss.loss(z=z, z_positive=other) - alignment) == pytest.approx(float(expected), abs=1e-12 * (1 + t))


def test_complete_collapse_is_not_rewarded():
    zero = torch.zeros(16, 4)
    assert float(objective("alignment_uniformity").loss(z=zero, z_positive=zero)) == pytest.approx(0, abs=1e-6)


# dimensions without a spread


@pytest.mark.parametrize("name", ["barlow_twins_normalised", "vicreg", "vibcreg"])
@pytest.mark.parametrize("d", [4, 60])
def test_gradients_do_not_take_means_for_exact_zeros(name, d):
    """A mean far above the spread: the gradient of the same float32 numbers in float64."""
    loss = objective(name).loss
    views = [(100 + 1e-4 * draw(24, d, seed=k)).float() for k in (0, 1)]
    single, double = (
        [v.detach().to(dtype, copy=True).requires_grad_() for v in views] for dtype in (torch.float32, torch.float64)
    )
    for one in (single, double):
        loss(z=one[0], z_positive=one[1]).backward()
    for a, b in zip(single, double, strict=True):
        assert (a.grad - b.grad).norm() <= 1e-3 * b.grad.norm()  # float32 over a spread of ten of its steps


@pytest.mark.parametrize("name", ["barlow_twins_normalised", "vicreg", "vibcreg"])
def test_constant_embeddings_have_no_gradient(name):
    z, other = (torch.full((24, 4), 1.7, requires_grad=True) for _ in range(2))
    objective(name).loss(z=z, z_positive=other).backward()
    assert z.grad.abs().max() < 1e-6 and other.grad.abs().max() < 1e-6
