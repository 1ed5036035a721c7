"""Every objective in several processes, and losses without negatives compiled."""

import subprocess
import sys

import pytest
import torch

from tests.objectives.declared import cases
from tests.objectives.noncontrastive_cases import settings_of
from tests.objectives.processes import check


@pytest.mark.slow
def test_wide_embeddings_of_several_processes(tmp_path):
    """d > 2 W n: all forms by matrices of rows."""
    check(tmp_path, [*cases(whitened=False), *settings_of(15, torch.float32)], n=3, d=15)


@pytest.mark.slow
def test_embeddings_of_several_processes(tmp_path):
    check(tmp_path, [*cases(whitened=True), *settings_of(5, torch.float32)], n=9, d=5)


@pytest.mark.slow
def test_losses_compile_without_a_break():
    """In a process of its own: shape checks, which other tests run under, break graphs."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == 15  # four of them in two forms


COMPILED = """
import torch
from tests.objectives.noncontrastive_cases import settings_of, views
from grassmann_ssl.objectives.whitening import w_mse
done = 0
for n, d in ((4, 9), (9, 4)):
    cases = [(loss, settings) for name, loss, settings in settings_of(d) if "," not in name]
    for loss, settings in cases[:4] if n < d else [*cases, (w_mse, {})]:
        z, zp = (v.requires_grad_() for v in views(n, d))
        torch._dynamo.reset()
        compiled = torch.compile(loss, backend="eager", fullgraph=True)(z=z, z_positive=zp, **settings)
        plain = loss(z=z, z_positive=zp, **settings)
        assert torch.allclose(compiled, plain, rtol=1e-12, atol=0)
        assert torch.allclose(*(torch.autograd.grad(v, z)[0] for v in (compiled, plain)), rtol=1e-12, atol=1e-14)
        done += 1
print(done)
"""
