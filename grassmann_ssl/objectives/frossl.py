"""FroSSL: spread the embedding over all directions by minimising the Frobenius norm of its second moment."""

from jaxtyping import Float
from torch import Tensor

from grassmann_ssl.distributed import process_count, total
from grassmann_ssl.objectives.gram import squared_moment_norm
from grassmann_ssl.objectives.registry import declare, not_negative
from grassmann_ssl.objectives.similarity import on_unit_sphere
from grassmann_ssl.precision import full_precision


@declare(
    source="Skean et al. 2024, arXiv 2310.02903",
    rotation_invariant=True,
    directional=True,
    checks={"invariance": not_negative},
)
@full_precision
def frossl(
    *, z: Float[Tensor, " n d"], z_positive: Float[Tensor, " n d"], invariance: float = 1.0
) -> Float[Tensor, ""]:
    """FroSSL on two views, normalised to the unit sphere.

    L = log ||K||_F^2 + log ||K'||_F^2 + invariance (1/2n) sum_k ||u_k - u'_k||^2,   K = (1/n) sum_k u_k u_k^T of trace 1,
    u_k = z_k / ||z_k||, K' and u' the same of z'; -log ||K||_F^2 is the Renyi entropy of order 2 of the eigenvalues of K.
    Shapes (n, d), (n, d) -> scalar, n the rows of all processes. Rotation-invariant. Its minimum -2 log d is reached by equal isotropic
    views; complete collapse has L = 0. Where d > n, no d x d matrix is formed.
    Source: Skean et al. 2024, arXiv 2310.02903, in the convention of its code for many views: rows of length sqrt(d), each compared with
    the mean of its views by a mean over rows and dimensions. The code for two views standardises dimensions instead, and is not
    rotation-invariant.
    """
    n = process_count() * len(z)
    u, u_positive = on_unit_sphere(z), on_unit_sphere(z_positive)
    spread = sum((squared_moment_norm(v, v) / n**2).log() for v in (u, u_positive))
    return spread + invariance * total((u - u_positive).square().sum()) / (2 * n)
