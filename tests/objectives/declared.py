"""Every objective with its options as declared, as a function of views: what the tests of all objectives run through."""

import numpy as np
import torch

from grassmann_ssl.objectives import EMBEDDING_LOSSES, objective


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def related_views(n, d):
    """A view, its positive, and another one, (n, d) each, with directions of uneven scale, below 1 for most."""
    z = 0.3 * draw(n, d) @ draw(d, d, seed=1)
    return z, z + 0.1 * draw(n, d, seed=2), draw(n, d, seed=3)


def embeddings(chosen, z, z_positive, z_negative=None, prediction=None):
    """The arguments of an objective: a loss of predictions takes one of z, or z itself, as a prediction of z_positive."""
    prediction = z if prediction is None else prediction
    known = {
        "z": z, "z_positive": z_positive, "z_negative": z_negative,
        "prediction": prediction, "target": z_positive, "projection": z,
    }  # fmt: skip
    taken = (*chosen.arguments, "projection") if chosen.predictive else chosen.arguments
    return {name: known[name] for name in taken}


def new(chosen, z, filled=False):
    """The loss of an `Objective` for such embeddings. If it keeps a state: that of the seed, or after two batches."""
    if not chosen.stateful:
        return chosen.loss
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dtype = torch.promote_types(z.dtype, torch.float32)
        loss = chosen.new(z.shape[1]).to(dtype)
    if filled:
        for seed in (10, 20):
            if chosen.predictive:
                loss.remember(*[[draw(*z.shape, seed=seed + k).to(dtype)] for k in (0, 1)])
    return loss


def value(chosen, z, z_positive, z_negative=None):
    """The loss of an `Objective` on views: where it is one of predictions, the first is the prediction and what it is made of."""
    return new(chosen, z, filled=True)(**embeddings(chosen, z, z_positive, z_negative))


def of_views(*, z, z_positive, name):
    """The same by name, of a new state; what a predictor would turn around, it does, so that prediction and projection differ."""
    chosen = objective(name)
    return new(chosen, z)(**embeddings(chosen, z, z_positive, prediction=z.flip(1)))


def cases(*, whitened):
    """(name, function of views, settings) of every objective that deep encoders train on, those that whiten only if asked."""
    return [(name, of_views, {"name": name}) for name in EMBEDDING_LOSSES if whitened or not objective(name).whitens]


def slopes(oracle, z, step=1e-6):
    """The gradient of an oracle at z (n, d), of numpy, by central differences entry by entry."""
    out = np.zeros_like(z)
    for place in np.ndindex(*z.shape):
        moved = np.zeros_like(z)
        moved[place] = step
        out[place] = (oracle(z + moved) - oracle(z - moved)) / (2 * step)
    return out
