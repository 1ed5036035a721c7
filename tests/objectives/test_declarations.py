"""What is declared of an objective is true of it, of every objective that there is."""

from pathlib import Path

import pytest
import torch

import grassmann_ssl.objectives
from grassmann_ssl.objectives import EMBEDDING_LOSSES, OBJECTIVES, objective
from grassmann_ssl.objectives.registry import share
from tests.objectives.declared import draw, related_views, value


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_declared_holds(name):
    chosen, views = objective(name), related_views(40, 5)
    q = torch.linalg.qr(draw(5, 5, seed=4))[0]
    before, turned = value(chosen, *views), value(chosen, *(v @ q for v in views))
    assert (abs(before - turned) < 1e-10 * (1 + abs(before))) == chosen.rotation_invariant
    lengths = 1 + draw(40, 1, seed=5).square()
    stretched = value(chosen, *(lengths * v for v in views))
    assert (abs(before - stretched) < 1e-12 * (1 + abs(before))) == chosen.directional
    z, moved, z_negative = views[0].clone().requires_grad_(), views[1].clone().requires_grad_(), views[2]
    gradient, of_moved = torch.autograd.grad(value(chosen, z, moved, z_negative), (z, moved), allow_unused=True)
    assert (of_moved is None) == chosen.predictive
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    assert chosen.source.count("arXiv ") >= 1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_only_what_whitens_needs_more_rows_than_dimensions(name):
    chosen, views = objective(name), related_views(4, 5)
    if chosen.whitens:
        with pytest.raises(ValueError, match="5 dimensions"):
            value(chosen, *views)
    else:
        assert value(chosen, *views).isfinite()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_option_matters(name):
    """A loss that ignores an option declares one that it does not have."""
    plain, views = objective(name), related_views(40, 6)
    for option, usual in plain.options.items():
        if usual is None or isinstance(usual, bool):
            other = {None: 2, False: True}[usual]
        elif isinstance(usual, int):
            other = (
                usual // 2 if usual > 1 else usual + 1
            )  # of twice as many rows of a queue, the same may be the nearest
        else:
            other = usual / 2 if plain.checks.get(option) is share else usual + 1
        assert value(plain.bind(**{option: other}), *views) != value(plain, *views), option


@pytest.mark.parametrize("name", EMBEDDING_LOSSES)
def test_autocast_reaches_no_loss(name):
    chosen = objective(name)
    z, z_positive = (v.bfloat16().requires_grad_() for v in related_views(12, 4)[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = value(chosen, z, z_positive)
    # With a gradient, too: singular values alone and with their vectors differ by rounding on some processors.
    exact = value(chosen, *(v.detach().float().requires_grad_() for v in (z, z_positive)))
    assert under.dtype == torch.float32 and under.item() == exact.item()
    (gradient,) = torch.autograd.grad(under, z)
    assert gradient.dtype == torch.bfloat16 and gradient.isfinite().all()


def test_directions_are_renewed_by_the_step_alone():
    z, z_positive = related_views(20, 5)[:2]
    one, other = objective("lejepa", seed=3).loss, objective("lejepa", seed=3).loss
    first = value(objective("lejepa", seed=3), z, z_positive)
    assert one(z=z, z_positive=z_positive) == first
    one.renew(7)
    other.renew(3)
    other.renew(7)
    seventh = one(z=z, z_positive=z_positive)
    assert seventh == other(z=z, z_positive=z_positive) and seventh != first
    assert torch.equal(one.directions, other.directions)


def test_settings_reach_their_loss():
    z, z_positive = draw(20, 6), draw(20, 6, seed=1)
    half, two = objective("directclr").loss, objective("directclr", dimensions=2).loss
    cut = z.clone()
    cut[:, 3:] = 0
    assert half(z=cut, z_positive=z_positive) == half(z=z, z_positive=z_positive)
    assert two(z=z, z_positive=z_positive) != half(z=z, z_positive=z_positive)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("supervised", {}, f"^unknown objective 'supervised': known are {', '.join(OBJECTIVES)}$"),
        ("vicreg", {"temperature": 0.1}, r"^temperature is a setting of .*\bnt_xent, directclr.*; vicreg has none$"),
        ("nt_xent", {"dimensions": 2}, "^dimensions is a setting of directclr; nt_xent has none$"),
        ("nt_xent", {"temperature": 0.0}, r"^temperature must be positive, got 0\.0$"),
        ("lejepa", {"weight": 1.5}, r"^weight must be from 0 to 1, got 1\.5$"),
        ("vicreg", {"variance": -1}, "^variance must not be negative, got -1$"),
        ("directclr", {"dimensions": 2.5}, r"^dimensions must be a whole number or none, got 2\.5$"),
        ("barlow_twins", {"normalise": 1}, "^normalise must be true or false, got 1$"),
        ("vicreg:variance=2", {"covariance": "big"}, "^covariance must be a number, got 'big'$"),
    ],
)
def test_bad_settings_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        objective(name, **settings)


def test_every_module_declares_or_serves():
    """No list of objectives is kept: the package's names are those of its files."""
    folder = Path(grassmann_ssl.objectives.__file__).parent
    declaring = {
        path.stem for path in folder.glob("*.py") if "@declare" in path.read_text() or "@_trace" in path.read_text()
    }
    assert {objective(name).function.__module__.rpartition(".")[2] for name in OBJECTIVES} == declaring
