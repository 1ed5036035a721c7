"""The settings of `train`, and which of them are compatible."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import tyro

from grassmann_ssl.data.batches import AUTO, augmentations
from grassmann_ssl.data.files import FORMATS, DataOptions
from grassmann_ssl.data.images import BUNDLED
from grassmann_ssl.data.presets import PRESETS
from grassmann_ssl.nn.constraint_table import CONSTRAINTS, ConstraintOptions
from grassmann_ssl.nn.encoders import ENCODERS, architecture
from grassmann_ssl.nn.placement import PLACES
from grassmann_ssl.nn.predictors import PREDICTORS, PredictorOptions
from grassmann_ssl.nn.resnet import STEMS
from grassmann_ssl.objectives import EMBEDDING_LOSSES, Objective, objective, options_of
from grassmann_ssl.optim.table import OPTIMIZERS, OptimizerOptions
from grassmann_ssl.runs import ConfigError, LoggedConfig, choice, setting
from grassmann_ssl.training.encoders import PRECISIONS
from grassmann_ssl.training.schedules import SCHEDULES, warmup_cosine

DATA = (*BUNDLED, *(f"{name}:PATH" for name in FORMATS))
CHOICES: dict[str, tuple[str, ...]] = {
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
    """Train an image encoder on two views, with or without a constraint on its weights, and evaluate its representation."""

    NAME: ClassVar[str] = "train"
    RESUMES: ClassVar[bool] = True
    data: Annotated[str, choice(DATA)] = "digits"
    """images: digits or photos (bundled with scikit-learn), or FORMAT:PATH to read files"""
    data_options: Annotated[DataOptions, tyro.conf.arg(name=DataOptions.PREFIX)] = field(default_factory=DataOptions)
    augmentation: Annotated[str, choice((AUTO, *PRESETS))] = "auto"
    """augmentation preset; auto: digits for digits, simclr otherwise"""
    encoder: Annotated[str, choice(ENCODERS)] = "conv"
    """backbone; timm:NAME for a model of timm"""
    stem: Annotated[str, choice(CHOICES["stem"])] = "cifar"
    """stem of a resnet: cifar (3 x 3), stl or imagenet (7 x 7)"""
    hidden: int = 64
    """hidden width of the projection head"""
    dim: int = 8
    """embedding dimension d, below `hidden`"""
    head: Annotated[str, choice(CHOICES["head"])] = "auto"
    """projection head: standard (linear, batch norm, relu, linear), centred (batch norm without gain before a last layer without bias), or
    auto: centred if its last layer is constrained"""
    objective: Annotated[str, choice(CHOICES["objective"])] = "negative_cosine"
    """objective; see docs/objectives.md"""
    temperature: float | None = None
    """temperature of the objective, if it has one; default: the published value"""
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
    embeddings: bool = False
    """also store the representations h and embeddings z of all images, with labels, in embeddings.safetensors"""
    save_every: int | None = None
    """steps between checkpoints; by default as often as takes 1 %% of the time"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in CHOICES.items():
            self.need_one_of(name, known)
        with setting("encoder"):
            architecture(self.encoder)
        with setting("augmentation"):
            augmentations(self.augmentation, self.data, 1)
        self.need("predictor_every", "hidden", "dim", "accumulate", "steps", least=1)
        if self.save_every is not None:
            self.need("save_every", least=1)
        self.need("records", "batch", least=2)
        self.need("lr", "init_scale", "predictor_alpha", above=0)
        self.need("momentum", "teacher", "predictor_rho", least=0, most=0.9999)
        self.need("weight_decay", "predictor_eps", "penalty", "warmup", least=0)
        self._refuse_without_effect()
        if self.warmup >= self.steps:
            raise ConfigError(f"warmup must be below steps = {self.steps}, got {self.warmup}")
        self._check_together()

    def _refuse_without_effect(self) -> None:
        """Raise ConfigError for a setting that differs from its default and has no effect in combination with the others."""
        constraint, optimizer = CONSTRAINTS[self.constraint], OPTIMIZERS[self.optimizer]
        idle: dict[str, str | bool] = {
            "stem": "stem" not in architecture(self.encoder).takes and f"with encoder {self.encoder}",
            "where": not (constraint.rank_of_w or constraint.in_loss or optimizer.comparator)
            and f"with constraint {self.constraint}",
            "init_scale": constraint.rank_of_w and f"with constraint {self.constraint}",
        }
        for group, registry in (
            ("data", FORMATS),
            ("predictor", PREDICTORS),
            ("constraint", CONSTRAINTS),
            ("optimizer", OPTIMIZERS),
        ):
            chosen = getattr(self, group).partition(":")[0]
            for one in self.known():
                if one.group == f"{group}_options" and not (
                    chosen in registry and one.field in registry[chosen].options
                ):
                    owners = ", ".join(name for name, other in registry.items() if one.field in other.options)
                    idle[one.name] = f"with {group} {chosen}: it is an option of {owners}"
        values = self.values()
        for one in self.known():
            if idle.get(one.name) and values[one.name] != one.default:
                raise ConfigError(f"{one.name} = {values[one.name]} has no effect {idle[one.name]}")

    def rate(self, step: int) -> float:
        """Multiplier of the learning rate at a step."""
        return warmup_cosine(step, self.steps, warmup=self.warmup, end=SCHEDULES[self.schedule])

    def loss(self) -> Objective:
        """The objective with its options. Raises ConfigError for an option it does not take."""
        given = {} if self.temperature is None else {"temperature": self.temperature}
        with setting():
            return objective(self.objective, **options_of(self.objective, seed=self.seed), **given)

    def _check_together(self) -> None:
        """Raise ConfigError for incompatible settings."""
        loss = self.loss()
        if self.dim >= self.hidden and self.where == "last":
            raise ConfigError(
                f"dim = {self.dim} must be below hidden = {self.hidden}: the head's last layer maps hidden to dim"
            )
        if loss.whitens and self.batch <= self.dim:
            raise ConfigError(
                f"{loss.name} whitens over the batch: batch must be above dim = {self.dim}, got {self.batch}"
            )
        if not loss.predictive and (self.predictor != "none" or self.teacher):
            raise ConfigError(f"{self.objective} compares two embeddings: it takes no predictor and no teacher")
        if loss.needs_predictor and self.predictor == "none":
            raise ConfigError(f"{self.objective} needs a predictor")
        trained = self.predictor != "none" and (
            not PREDICTORS[self.predictor].closed_form or self.predictor_options.every > 1
        )
        if loss.needs_predictor and trained:
            closed = ", ".join(name for name, one in PREDICTORS.items() if one.closed_form)
            raise ConfigError(
                f"{self.objective} passes no gradient to the predictor, which would never be trained: take one in closed form, {closed}, "
                "with predictor.every = 1"
            )
        with setting():
            constraint = CONSTRAINTS[self.constraint]
            constraint.check(
                where=self.where, objective=self.objective, invariant=loss.rotation_invariant, predictor=self.predictor,
                equivariant=self.predictor == "none" or PREDICTORS[self.predictor].equivariant,
            )  # fmt: skip
            OPTIMIZERS[self.optimizer].check(constraint, self.where)
