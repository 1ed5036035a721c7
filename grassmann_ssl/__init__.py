"""Self-supervised learning on the Grassmann manifold: train with and without the constraint, compare with theory.

A layer of any torch model whose weight stays orthonormal, and one optimizer for all parameters:

    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), grassmann_ssl.constrain(torch.nn.Linear(64, 8)))
    optimizer = grassmann_ssl.RiemannianSGD(model, lr=0.1, momentum=0.9)
    loss.backward(), optimizer.step()

Where things are, from the ground up:

    manifolds             `Grassmann`, `Stiefel`, `GeneralizedGrassmann` as geoopt manifolds; distances, means, averages of subspaces
    manifolds.checks      diagnostics in numbers: `check_gradient`, `check_hessian`, `check_retraction`, `check_rotation_invariance`
    manifolds.pymanopt    `solve`: pymanopt's trust regions and conjugate gradients on torch tensors; needs pymanopt
    objectives            losses by name, `objective`, from views and, where there is a closed form, from population moments; `OBJECTIVES`
    objectives.penalties  `weight_decay`, `orthogonality`, `variance`, `sliced_normality`
    data                  digits, photos, Gaussian pairs; local files by `load` and `image_folder`; views, population moments
    metrics               `SecondMoments`, ranks, probes, steps over training
    audit                 `audit_embeddings`: did embeddings collapse, how, how sure is that; the same over time: `CollapseMonitor`; `judge`
    nn                    `constrain`, `constrain_model`, `constraints`, `GrassmannLinear`; encoders, heads, predictors, `JointEmbedding`
    optim                 `RiemannianSGD`, `RiemannianAdam` and other Riemannian optimizers, `LARS`
    pretraining           `pretrain`: your own encoder, data and loss, trained with all that the command `train` does
    training              `train_full_batch`, `train_encoder`, `simulate` for many small systems, `save_checkpoint`, `load_checkpoint`
    runs                  the settings of a run, its result as an `Outcome`, the folder that holds it; many as a table: `load_runs`
    experiments           one module per scientific question; `load_encoder`: what a run of `train` trained
    report                figures and the page of a stored run: `draw`
    citation              `cite`: BibTeX of the papers and tools that a run used
    run                   `run`: an experiment from its settings to its folder and page

The closed-form theory is a package beside this one: `import theory`. Everything is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Module -> the names of it that are found here; a module's own name stands for the module.
_HOMES = {
    "audit": ("Audit", "CollapseError", "CollapseMonitor", "audit", "audit_embeddings", "judge"),
    "citation": ("cite",),
    "data": ("data", "image_folder"),
    "experiments": ("experiments", "load_encoder"),
    "manifolds": ("GeneralizedGrassmann", "Grassmann", "Stiefel", "manifolds"),
    "manifolds.checks": ("checks",),
    "metrics": ("SecondMoments", "metrics"),
    "nn": ("GrassmannLinear", "JointEmbedding", "constrain", "constrain_model", "constraints", "feature_orthonormal", "nn"),
    "objectives": ("objective", "objectives"),
    "objectives.penalties": ("penalties",),
    "optim": (
        "LARS", "Landing", "RiemannianAdam", "RiemannianCG", "RiemannianLBFGS", "RiemannianMuon", "RiemannianSGD", "optim",
    ),
    "pretraining": ("pretrain",),
    "report": ("report",),
    "run": ("run",),
    "runs": ("Outcome", "load_runs", "runs"),
    "training": ("load_checkpoint", "save_checkpoint", "simulate", "train_encoder", "train_full_batch", "training"),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from grassmann_ssl import audit as audit
    from grassmann_ssl import data as data
    from grassmann_ssl import experiments as experiments
    from grassmann_ssl import manifolds as manifolds
    from grassmann_ssl import metrics as metrics
    from grassmann_ssl import nn as nn
    from grassmann_ssl import objectives as objectives
    from grassmann_ssl import optim as optim
    from grassmann_ssl import report as report
    from grassmann_ssl import run as run
    from grassmann_ssl import runs as runs
    from grassmann_ssl import training as training
    from grassmann_ssl.audit import Audit as Audit
    from grassmann_ssl.audit import CollapseError as CollapseError
    from grassmann_ssl.audit import CollapseMonitor as CollapseMonitor
    from grassmann_ssl.audit import audit_embeddings as audit_embeddings
    from grassmann_ssl.audit import judge as judge
    from grassmann_ssl.citation import cite as cite
    from grassmann_ssl.data import image_folder as image_folder
    from grassmann_ssl.experiments import load_encoder as load_encoder
    from grassmann_ssl.manifolds import GeneralizedGrassmann as GeneralizedGrassmann
    from grassmann_ssl.manifolds import Grassmann as Grassmann
    from grassmann_ssl.manifolds import Stiefel as Stiefel
    from grassmann_ssl.manifolds import checks as checks
    from grassmann_ssl.metrics import SecondMoments as SecondMoments
    from grassmann_ssl.nn import JointEmbedding as JointEmbedding
    from grassmann_ssl.nn import constrain_model as constrain_model
    from grassmann_ssl.nn.constrain import GrassmannLinear as GrassmannLinear
    from grassmann_ssl.nn.constrain import constrain as constrain
    from grassmann_ssl.nn.constrain import constraints as constraints
    from grassmann_ssl.nn.feature_orthonormal import feature_orthonormal as feature_orthonormal
    from grassmann_ssl.objectives import objective as objective
    from grassmann_ssl.objectives import penalties as penalties
    from grassmann_ssl.optim import LARS as LARS
    from grassmann_ssl.optim import Landing as Landing
    from grassmann_ssl.optim import RiemannianAdam as RiemannianAdam
    from grassmann_ssl.optim import RiemannianCG as RiemannianCG
    from grassmann_ssl.optim import RiemannianLBFGS as RiemannianLBFGS
    from grassmann_ssl.optim import RiemannianMuon as RiemannianMuon
    from grassmann_ssl.optim import RiemannianSGD as RiemannianSGD
    from grassmann_ssl.pretraining import pretrain as pretrain
    from grassmann_ssl.runs import Outcome as Outcome
    from grassmann_ssl.runs import load_runs as load_runs
    from grassmann_ssl.training import load_checkpoint as load_checkpoint
    from grassmann_ssl.training import save_checkpoint as save_checkpoint
    from grassmann_ssl.training import simulate as simulate
    from grassmann_ssl.training import train_encoder as train_encoder
    from grassmann_ssl.training import train_full_batch as train_full_batch
else:  # hidden from type checkers, which would take it to answer to any name

    def __getattr__(name):
        if name not in _HOME:
            from difflib import get_close_matches

            near = get_close_matches(name, __all__, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"module 'grassmann_ssl' has no attribute {name!r}{hint}")
        home = _HOME[name]
        module = import_module(f"{__name__}.{home}")
        value = module if home.rpartition(".")[2] == name else getattr(module, name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
