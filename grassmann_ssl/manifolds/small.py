"""Products of many small matrices on the CPU.

torch.bmm gives products of 400 multiplications or more to the BLAS, and adds up the rest one by one: 4,096 products (4 x 16)(16 x 4) take
four times as long as numpy's, which calls the BLAS for each. Steps and solvers of such stacks consist of little else.
"""

import numpy as np
import torch
from torch import Tensor
from torch.autograd import graph

from grassmann_ssl.manifolds.applied import watched

FEWEST, MOST = 64, 400
"""multiplications in a product that numpy is quicker for: from the first, below the second (measured; MOST is torch's own limit)"""
MANY = 50
"""matrices from where that makes up for the way to numpy"""
THREADS = 2
"""of torch, up to which the one of numpy is quicker"""
PLAIN = {Tensor, torch.nn.Parameter}


def small_product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor | None:
    """A B of stacks A (k, n, q) and B (k, q, p) by numpy, which shares their memory; None where torch is to do it.

    That is where it is quicker, or has to see the product: on a device, with derivatives in either mode, under torch.func or a compiler,
    in another precision than float32 or float64.
    """
    if not (len(a) >= MANY and FEWEST <= a.shape[1] * a.shape[2] * b.shape[2] < MOST):
        return None
    if not (a.is_cpu and b.is_cpu and a.dtype == b.dtype and a.dtype in (torch.float32, torch.float64)):
        return None
    if torch.get_num_threads() > THREADS:
        return None
    if watched(a, b) or not {type(a), type(b)} <= PLAIN:
        return None
    left, right = a.detach().numpy(), b.detach().numpy()
    if out is None:
        return torch.from_numpy(np.matmul(left, right))
    np.matmul(left, right, out=out.detach().numpy())
    graph.increment_version(out)
    return out
