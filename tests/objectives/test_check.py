"""`check_objective`: every registered loss of two views passes, and each kind of fault is named."""

import math
import multiprocessing
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from grassmann_ssl.objectives import EMBEDDING_LOSSES, check_objective, objective
from tests.processes import IMPORTS

TWO_VIEWS = [name for name in EMBEDDING_LOSSES if objective(name).arguments == ("z", "z_positive")]


def cross(z, z_positive):
    c = z.T @ z_positive / len(z)
    return (c - torch.eye(len(c), dtype=c.dtype)).square().sum()


@pytest.mark.long
@pytest.mark.parametrize("name", TWO_VIEWS)
def test_registered_losses_pass_and_get_the_manifold_of_their_declaration(name):
    report = check_objective(name, raises=True)
    assert report.ok and report.rotation_invariant == objective(name).rotation_invariant
    assert report.manifold == ("Grassmann" if report.rotation_invariant else "Stiefel")


def test_a_loss_of_ones_own_is_taken_by_position_or_by_name():
    own = check_objective(cross)
    assert own.ok and own.manifold == "Grassmann" and own["rotation"].says == "rotation-invariant"
    by_position = check_objective(lambda a, b: cross(a, b))
    assert [one.value for one in by_position.findings] == [one.value for one in own.findings]
    assert check_objective(lambda *, z, z_positive: cross(z, z_positive)).ok


def test_the_report_reads_as_a_table():
    text = str(check_objective("vicreg"))
    assert text.splitlines()[0] == "vicreg on two views of shape (24, 6): ok"
    assert "not rotation-invariant, as declared" in text
    assert text.splitlines()[-1].startswith("  manifold: Stiefel, since it changes by 0.")
    broken = str(check_objective(lambda a, b: cross(a, b) + (a[0] * b[1]).sum()))
    assert (
        broken.startswith("<lambda> on two views of shape (24, 6): NOT ok")
        and "NOT the order of rows matters" in broken
    )


@pytest.mark.parametrize(
    ("loss", "degree", "says"),
    [
        (lambda a, b: (a * b).sum(), 2, "homogeneous of degree 2"),
        (lambda a, b: (a - b).norm(), 1, "homogeneous of degree 1"),
        (lambda a, b: nn.functional.cosine_similarity(a, b).mean(), 0, "scale-invariant"),
        (cross, math.nan, "neither homogeneous nor scale-invariant"),
    ],
)
def test_the_degree_of_homogeneity(loss, degree, says):
    found = check_objective(loss)["scale"]
    assert found.value == pytest.approx(degree, nan_ok=True) and found.says == says


class Wrong(torch.autograd.Function):
    """x, with a gradient that is wrong by a part in a thousand."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 1.001 * gradient


class Lossy(torch.autograd.Function):
    """x, with a gradient that loses its digits in float32."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient + 1e5 - 1e5


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


def overflow(a, b):
    return (1e4 * a).square().sum().sqrt() / 1e4 + cross(a, b)


FAULTS = {
    "gradient in z_positive": (lambda a, b: cross(a, b.detach()), "it is detached"),
    "gradient in z": (lambda a, b: cross(Wrong.apply(a), b), "is not that of the value"),
    "permutation": (lambda a, b: cross(a, b) + (a[0] * b[1]).sum(), "the order of rows matters"),
    "zero rows": (lambda a, b: (unit(a) * unit(b)).sum(), "value and gradient not finite"),
    "equal views": (lambda a, b: (a - b).square().sum(1).sqrt().sum(), "gradient not finite"),
    "duplicate rows": (lambda a, b: 1 / (torch.pdist(a) * torch.pdist(b)).min(), "value not finite"),
    "float32": (lambda a, b: 1e-3 * cross(Lossy.apply(a), b), "it loses its digits"),
    "float16": (overflow, "value or gradient is not finite"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(name):
    loss, says = FAULTS[name]
    report = check_objective(loss)
    failed = {one.name: one.says for one in report.findings if not one.ok}
    assert says in failed[name]
    # A wrong gradient is wrong for turned views too; a division by zero is one wherever there are zeros
    assert set(failed) <= {name, "equal views", "zero rows", "gradient in z", "float16", "bfloat16"}
    with pytest.raises(AssertionError, match=f"fails: .*{name} "):
        check_objective(loss, raises=True)


def test_a_stop_gradient_does_not_hide_that_the_value_is_invariant():
    report = check_objective(lambda a, b: cross(a, b.detach()))
    assert report.manifold == "Grassmann" and not report.ok


def test_what_is_constant_in_a_gradient_is_declared():
    says = check_objective("swav")["gradient in z"].says
    assert says == "that of the value but for the codes, declared to be constants in it"
    silent = check_objective(replace(objective("swav"), detached=""))
    assert {one.name for one in silent.findings if not one.ok} == {"gradient in z", "gradient in z_positive"}
    wrong = check_objective(replace(objective("vicreg"), detached="the means"))["gradient in z"]
    assert not wrong.ok and wrong.says == "that of the value, the means too, declared to be constants in it"


def test_what_is_declared_wrongly_is_named():
    right = objective("nt_xent")
    turned = check_objective(replace(right, invariance=False))
    assert not turned.ok and turned["rotation"].says == "rotation-invariant, and declared to be not so"
    lengths = check_objective(replace(objective("vicreg"), directional=True))
    assert not lengths.ok and lengths["directions"].says == "the lengths of rows matter, and it is declared otherwise"
    invariant = check_objective(replace(objective("vicreg"), invariance=True))
    assert invariant["rotation"].says == "not rotation-invariant, and declared to be so"


def test_a_module_is_left_as_it_is():
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(6))

        def forward(self, a, b):
            if self.training:
                self.seen += a.detach().mean(0)
            return cross(a, b) + (a.mean(0) * self.seen).sum()

    module = Running()
    assert check_objective(module).ok
    assert module.training and module.seen.dtype == torch.float32 and not module.seen.any()


def summed_without_a_gradient(z, z_positive):
    """The cross-moment by a sum over processes that autograd does not see: the gradient is 1/W of it."""
    c = z.T @ z_positive
    if dist.is_initialized():
        every = c.detach().clone()
        dist.all_reduce(every)
        c, n = c + every - c.detach(), dist.get_world_size() * len(z)
    else:
        n = len(z)
    return (c / n - torch.eye(len(c), dtype=c.dtype)).square().sum()


@pytest.mark.slow
def test_processes_that_share_the_rows():
    multiprocessing.set_forkserver_preload(list(IMPORTS))
    assert check_objective(objective("dcl", temperature=0.5), processes=2, raises=True)["processes"].value < 1e-12
    report = check_objective(summed_without_a_gradient, processes=2)
    assert [one.name for one in report.findings if not one.ok] == ["processes"]
    assert report["processes"].value == pytest.approx(0.5) and "do not train as one" in report["processes"].says


def test_processes_need_a_loss_that_they_can_import_and_equal_shares():
    with pytest.raises(ValueError, match="<lambda> must be a loss that other processes can import"):
        check_objective(lambda a, b: cross(a, b), processes=2)
    with pytest.raises(ValueError, match="processes must be at least 1 and divide n = 24, got 5"):
        check_objective("vicreg", processes=5)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(
        ValueError, match="negative_cosine takes prediction, target: check_objective takes losses of z and z_positive"
    ):
        check_objective("negative_cosine")
    with pytest.raises(ValueError, match="unknown objective 'nt_xnet'"):
        check_objective("nt_xnet")
    with pytest.raises(ValueError, match=r"must return a floating scalar, got \(24,\) of torch.float64"):
        check_objective(lambda a, b: (a * b).sum(1))
    with pytest.raises(ValueError, match="must be finite on random views, got nan"):
        check_objective(lambda a, b: (a * b).sum() * math.nan)
    with pytest.raises(ValueError, match="must be deterministic, but gave"):
        check_objective(lambda a, b: (a * torch.rand(6)).sum())
