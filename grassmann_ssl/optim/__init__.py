"""Riemannian optimizers: constrained and ordinary parameters of a torch model in one step."""

import grassmann_ssl.manifolds  # noqa: F401  before any import of geoopt, whose warnings it silences
from grassmann_ssl.optim.adam import RiemannianAdam
from grassmann_ssl.optim.cg import RiemannianCG
from grassmann_ssl.optim.clip import clip_grad_norm_
from grassmann_ssl.optim.landing import Landing
from grassmann_ssl.optim.lars import LARS
from grassmann_ssl.optim.lbfgs import RiemannianLBFGS
from grassmann_ssl.optim.muon import RiemannianMuon
from grassmann_ssl.optim.sgd import RiemannianSGD

__all__ = [
    "LARS",
    "Landing",
    "RiemannianAdam",
    "RiemannianCG",
    "RiemannianLBFGS",
    "RiemannianMuon",
    "RiemannianSGD",
    "clip_grad_norm_",
]
