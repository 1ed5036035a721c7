"""The settings of `train`, and which of them are compatible."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import tyro
from torch import nn

from grassmann_ssl.audit import CollapseMonitor
from grassmann_ssl.data.batches import AUTO
from grassmann_ssl.data.files import FORMATS, DataOptions
from grassmann_ssl.data.images import BUNDLED
from grassmann_ssl.data.presets import PRESETS
from grassmann_ssl.nn.constraint_table import CONSTRAINTS, Constraint, ConstraintOptions
from grassmann_ssl.nn.encoders import ENCODERS, Architecture, architecture
from grassmann_ssl.nn.placement import PLACES, is_pattern
from grassmann_ssl.nn.predictors import PREDICTORS, Predictor, PredictorOptions
from grassmann_ssl.nn.resnet import STEMS
from grassmann_ssl.objectives import EMBEDDING_LOSSES, Objective
from grassmann_ssl.objectives.own import resolved
from grassmann_ssl.optim.table import OPTIMIZERS, Optimizer, OptimizerOptions
from grassmann_ssl.registry import is_own, parted
from grassmann_ssl.runs import ConfigError, LoggedConfig, choice, setting
from grassmann_ssl.training.encoders import PRECISIONS
from grassmann_ssl.training.schedules import SCHEDULES, warmup_cosine

DATA = (*BUNDLED, *(f"{name}:PATH" for name in FORMATS))
CHOICES: dict[str, tuple[str, ...]] = {
    "augmentation": (AUTO, *PRESETS),
    "head": ("auto", "standard", "centred"),
    "objective": tuple(EMBEDDING_LOSSES),
    "predictor": ("none", *PREDICTORS),
    "constraint": tuple(CONSTRAINTS),
    "where": PLACES,
    "optimizer": tuple(OPTIMIZERS),
    "schedule": tuple(SCHEDULES),
    "precision": tuple(PRECISIONS),
    "stem": tuple(STEMS),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LoggedConfig):
    """Train an encoder on two views, with or without a constraint on its weights, and evaluate its representation."""

    NAME: ClassVar[str] = "train"
    EXAMPLE: ClassVar[str] = "train --objective nt_xent --constraint grassmann --out runs/constrained"
    RESUMES: ClassVar[bool] = True
    data: Annotated[str, choice(DATA)] = "digits"
    """images, digits or photos (bundled with scikit-learn) or FORMAT:PATH to read files; or PACKAGE.MODULE:NAME, a function of your own
    that returns batches of views"""
    data_options: Annotated[DataOptions, tyro.conf.arg(name=DataOptions.PREFIX)] = field(default_factory=DataOptions)
    augmentation: Annotated[str, choice(CHOICES["augmentation"])] = "auto"
    """augmentation preset; auto: digits for digits, simclr otherwise"""
    crops: int = 0
    """small crops beside the two views (multi-crop), of half the side and 5 to 40 %% of the area; the loss is the mean over all pairs with
    a whole view among them"""
    encoder: Annotated[str, choice(ENCODERS)] = "conv"
    """backbone; timm:NAME for a model of timm, PACKAGE.MODULE:NAME for a function of your own that makes one"""
    stem: Annotated[str, choice(CHOICES["stem"])] = "cifar"
    """stem of a resnet: cifar (3 x 3), stl or imagenet (7 x 7)"""
    width: int | None = None
    """width of the encoder: features of linear and mlp, channels of the first layer of conv and of the first stage of a resnet; by default
    256, 16 and 64"""
    hidden: int = 64
    """hidden width of the projection head"""
    dim: int = 8
    """embedding dimension d, below `hidden`"""
    head: Annotated[str, choice(CHOICES["head"])] = "auto"
    """projection head: standard (linear, batch norm, relu, linear), centred (batch norm without gain before a last layer without bias), or
    auto: centred if its last layer is constrained"""
    objective: Annotated[str, choice(CHOICES["objective"])] = "nt_xent"
    """objective, by name (docs/objectives.md) or PACKAGE.MODULE:NAME of your own; options follow the name, as in
    vicreg:variance=10:covariance=2, `list objectives` shows them; negative_cosine without predictor and constraint collapses, on purpose"""
    predictor: Annotated[str, choice(CHOICES["predictor"])] = "none"
    """predictor, for objectives that regress a target"""
    predictor_options: Annotated[PredictorOptions, tyro.conf.arg(name=PredictorOptions.PREFIX)] = field(
        default_factory=PredictorOptions
    )
    teacher: float = 0.0
    """initial momentum of the EMA teacher, rising to 1; 0: no teacher, the target is the encoder itself under stop-gradient"""
    constraint: Annotated[str, choice(CHOICES["constraint"])] = "none"
    """constraint on the weights; docs/encoders.md lists the guarantees"""
    where: Annotated[str, choice(CHOICES["where"])] = "last"
    """layers to constrain: last (the head's last linear layer), linear (all linear layers) or conv (all convolutions)"""
    constraint_options: Annotated[ConstraintOptions, tyro.conf.arg(name=ConstraintOptions.PREFIX)] = field(
        default_factory=ConstraintOptions
    )
    optimizer: Annotated[str, choice(CHOICES["optimizer"])] = "sgd"
    """optimizer; muon updates the layers of `where`, sgd all others"""
    lr: float = 0.05
    """peak learning rate, reached after the warm-up"""
    schedule: Annotated[str, choice(CHOICES["schedule"])] = "cosine"
    """learning-rate schedule after the warm-up: cosine decay to 0, or constant"""
    optimizer_options: Annotated[OptimizerOptions, tyro.conf.arg(name=OptimizerOptions.PREFIX)] = field(
        default_factory=OptimizerOptions
    )
    warmup: int = 0
    """linear warm-up steps"""
    batch: int = 256
    """global batch size, over all processes"""
    accumulate: int = 1
    """gradient accumulation: batches per optimizer step; losses and batch norms see one of them at a time, all else the whole step"""
    steps: int = 600
    """optimizer steps"""
    precision: Annotated[str, choice(CHOICES["precision"])] = "float32"
    """precision of the encoder (autocast); losses and constrained updates stay in float32"""
    init_scale: float = 1.0
    """scale of the initial weights of the head's unconstrained last layer; small for stepwise learning"""
    records: int = 60
    """number of recorded spectra, log-spaced in the step"""
    online_probes: bool = False
    """also probe the representation h by its labels at every record, by k nearest neighbours and ridge regression on at most 1024 samples
    of each part; the training is the same to the bit"""
    embeddings: bool = False
    """also store the representations h and embeddings z of all samples, with labels, in embeddings.safetensors"""
    save_every: int | None = None
    """steps between checkpoints; by default as often as takes 1 % of the time"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in CHOICES.items():
            if name not in self.own and not (name == "objective" and self._is_objective):
                if not (name == "where" and isinstance(self.where, str) and is_pattern(self.where)):
                    self.need_one_of(name, known)
        self.architecture()
        self.need("predictor_every", "hidden", "dim", "accumulate", "steps", least=1)
        for one in ("save_every", "width"):
            if getattr(self, one) is not None:
                self.need(one, least=1)
        self.need("records", "batch", least=2)
        self.need("lr", "init_scale", "predictor_alpha", "predictor_rate", above=0)
        self.need("momentum", "predictor_rho", *(() if "teacher" in self.own else ("teacher",)), least=0, most=0.9999)
        self.need("weight_decay", "predictor_eps", "penalty", "warmup", "crops", least=0)
        self._refuse_without_effect()
        if self.warmup >= self.steps:
            raise ConfigError(f"warmup must be below steps = {self.steps}, got {self.warmup}")
        self._check_together()

    def _refuse_without_effect(self) -> None:
        """Raise ConfigError for a setting that differs from its default and has no effect in combination with the others."""
        constraint, optimizer, predictor = self.constraint_used(), self.optimizer_used(), self.predictor_used()
        idle: dict[str, str | bool] = {
            "stem": "stem" not in self.architecture().takes and f"with encoder {self.encoder}",
            "width": self.architecture().width is None and f"with encoder {self.encoder}",
            "where": not (
                constraint.rank_of_w or constraint.in_loss or optimizer.comparator or "constraint" in self.own
            )
            and f"with constraint {self.constraint}",
            "init_scale": constraint.rank_of_w and f"with constraint {self.constraint}",
            **{name: "projector" in self.own and "with a projector of your own" for name in ("hidden", "head")},
            "lr": "optimizer" in self.own
            and "with an optimizer of your own, which has its own; the schedule multiplies it",
            "warmup": "schedule" in self.own and "with a schedule of your own",
            "predictor_rate": not self.trains_predictor and f"with predictor {self.predictor}, which is not trained",
            **{
                name: self.own_data and f"with data {self.data}, which are views already"
                for name in ("augmentation", "crops")
            },
        }
        data = FORMATS.get(self.data.partition(":")[0])
        for group, registry, options in (
            ("data", FORMATS, data.options if data else ()),
            ("predictor", PREDICTORS, predictor.options if predictor else ()),
            ("constraint", CONSTRAINTS, constraint.options),
            ("optimizer", OPTIMIZERS, optimizer.options),
        ):
            chosen = getattr(self, group).partition(":")[0]
            for one in self.known():
                if one.group == f"{group}_options" and one.field not in options:
                    owners = ", ".join(name for name, other in registry.items() if one.field in other.options)
                    idle[one.name] = f"with {group} {chosen}: it is an option of {owners}"
        values = self.values()
        for one in self.known():
            if idle.get(one.name) and values[one.name] != one.default:
                raise ConfigError(f"{one.name} = {values[one.name]} has no effect {idle[one.name]}")

    @property
    def _is_objective(self) -> bool:
        """Whether the objective's name, without its options, is known, or the user's own."""
        with setting("objective"):
            family = self.objective.partition(":")[0]
            known = CHOICES["objective"]
            return parted(self.objective)[0] in known or (is_own(self.objective) and family not in known)

    @property
    def own(self) -> Collection[str]:
        """The settings that are values of the user's own, not names."""
        return ()

    @property
    def all_own(self) -> list[str]:
        """The settings that are the user's own, as values or as PACKAGE.MODULE:NAME."""
        named = {
            "encoder": is_own(self.encoder) and f"{self.encoder.partition(':')[0]}:NAME" not in ENCODERS,
            "objective": is_own(self.objective),
            "data": self.own_data,
        }
        return sorted({*self.own, *(name for name, own in named.items() if own)})

    @property
    def own_data(self) -> bool:
        """Whether the data are batches of views of the user's own."""
        return "data" in self.own or (is_own(self.data) and not self.reads_files)

    @property
    def reads_files(self) -> bool:
        """Whether the data are in files of a known format, or bundled."""
        return self.data.partition(":")[0] in {*FORMATS, *BUNDLED}

    def architecture(self) -> Architecture:
        """The encoder. Raises ConfigError for an unknown one."""
        with setting("encoder"):
            return architecture(self.encoder)

    def constraint_used(self) -> Constraint:
        """The constraint."""
        return CONSTRAINTS[self.constraint]

    def predictor_used(self) -> Predictor | None:
        """The predictor, None without one."""
        return None if self.predictor == "none" else PREDICTORS[self.predictor]

    @property
    def trains_predictor(self) -> bool:
        """Whether there is a predictor that the optimizer steps."""
        predictor = self.predictor_used()
        return predictor is not None and (not predictor.closed_form or self.predictor_options.every > 1)

    def optimizer_used(self) -> Optimizer:
        """The optimizer."""
        return OPTIMIZERS[self.optimizer]

    def projector_used(self) -> nn.Module | None:
        """The user's own projection head, None where it is made from the settings."""
        return None

    def teacher_used(self) -> "nn.Module | Callable[[nn.Module], nn.Module] | None":
        """The user's own teacher, or what makes it of the model; None where there is none, or one that follows by the momentum."""
        return None

    def own_modules(self) -> list[nn.Module]:
        """The modules of the user's own, which are trained in place."""
        return []

    def monitor_used(self) -> CollapseMonitor | None:
        """What sees the embeddings of every step, and acts where they collapse; None without one."""
        return None

    def rate(self, step: int) -> float:
        """Multiplier of the learning rate at a step."""
        return warmup_cosine(step, self.steps, warmup=self.warmup, end=SCHEDULES[self.schedule])

    def loss(self) -> Objective:
        """The objective with its options. Raises ConfigError for an unknown one, and for an option it does not take."""
        with setting("objective" if is_own(self.objective) else ""):
            chosen = resolved(self.objective, dim=self.dim)
        return self.seeded(chosen)

    def seeded(self, chosen: Objective) -> Objective:
        """An objective that draws, with the seed of the run, unless its own is given."""
        return chosen.bind(seed=self.seed) if "seed" in chosen.options and "seed" not in chosen.given else chosen

    def _check_together(self) -> None:
        """Raise ConfigError for incompatible settings."""
        loss, predictor, constraint = self.loss(), self.predictor_used(), self.constraint_used()
        if self.dim >= self.hidden and self.where == "last" and "projector" not in self.own:
            raise ConfigError(
                f"dim = {self.dim} must be below hidden = {self.hidden}: the head's last layer maps hidden to dim"
            )
        if loss.whitens and self.batch <= self.dim:
            raise ConfigError(
                f"{loss.name} whitens over the batch: batch must be above dim = {self.dim}, got {self.batch}"
            )
        if not loss.predictive and (predictor or self.teacher):
            raise ConfigError(f"{self.objective} compares two embeddings: it takes no predictor and no teacher")
        if loss.needs_teacher and not self.teacher:
            raise ConfigError(f"{self.objective} needs a momentum teacher: set teacher, its momentum, to 0.99, say")
        if loss.needs_predictor and not predictor:
            raise ConfigError(f"{self.objective} needs a predictor")
        if loss.needs_predictor and self.trains_predictor:
            closed = ", ".join(name for name, one in PREDICTORS.items() if one.closed_form)
            raise ConfigError(
                f"{self.objective} passes no gradient to the predictor, which would never be trained: take one in closed form, {closed}, "
                "with predictor.every = 1"
            )
        with setting():
            constraint.check(
                where=self.where, objective=self.objective, invariant=loss.rotation_invariant, predictor=self.predictor,
                equivariant=not predictor or predictor.equivariant,
            )  # fmt: skip
            self.optimizer_used().check(constraint, self.where)
