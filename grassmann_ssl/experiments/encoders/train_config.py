"""The settings of the training of one encoder, and which of them go together."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import tyro

from grassmann_ssl.data.batches import AUTO, augmentations
from grassmann_ssl.data.files import FORMATS
from grassmann_ssl.data.images import BUNDLED
from grassmann_ssl.data.presets import PRESETS
from grassmann_ssl.nn.constraint_table import CONSTRAINTS, ConstraintOptions
from grassmann_ssl.nn.encoders import ENCODERS, architecture
from grassmann_ssl.nn.placement import PLACES
from grassmann_ssl.nn.predictors import PREDICTORS, PredictorOptions
from grassmann_ssl.nn.resnet import STEMS
from grassmann_ssl.objectives import EMBEDDING_LOSSES, Objective, objective, options_of
from grassmann_ssl.optim.table import OPTIMIZERS, OptimizerOptions
from grassmann_ssl.registry import nearest
from grassmann_ssl.runs import ConfigError, RunConfig, choice, setting
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
    "stem": STEMS,
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Train an encoder on two views of images, with or without a constraint on its weights, and judge what it learned."""

    NAME: ClassVar[str] = "train"
    data: Annotated[str, choice(DATA)] = "digits"
    """images: digits and photos come with scikit-learn, FORMAT:PATH is read from files"""
    augmentation: Annotated[str, choice((AUTO, *PRESETS))] = "auto"
    """preset of the views; auto is digits for the data digits and simclr elsewhere"""
    encoder: Annotated[str, choice(ENCODERS)] = "conv"
    """encoder; timm:NAME is a model of timm"""
    stem: Annotated[str, choice(CHOICES["stem"])] = "cifar"
    """first layers of a resnet: cifar (3 x 3), stl or imagenet (7 x 7)"""
    hidden: int = 64
    """width of the projection head's hidden layer"""
    dim: int = 8
    """embedding dimension d, below `hidden`"""
    head: Annotated[str, choice(CHOICES["head"])] = "auto"
    """projection head: standard (linear, batch norm, relu, linear), centred (before the last layer a batch norm without gain, and that
    layer without bias), or auto: centred where its last layer is constrained"""
    objective: Annotated[str, choice(CHOICES["objective"])] = "negative_cosine"
    """objective: docs/objectives.md says what each is"""
    temperature: float | None = None
    """temperature of an objective that has one; that of its source where not given"""
    predictor: Annotated[str, choice(CHOICES["predictor"])] = "none"
    """predictor, for objectives that regress a target"""
    predictor_options: Annotated[PredictorOptions, tyro.conf.arg(name=PredictorOptions.PREFIX)] = field(
        default_factory=PredictorOptions
    )
    teacher: float = 0.0
    """momentum of a moving-average teacher at the start, rising to 1; 0: the target is the encoder itself without gradient"""
    constraint: Annotated[str, choice(CHOICES["constraint"])] = "none"
    """constraint on weights: docs/encoders.md says what each guarantees"""
    where: Annotated[str, choice(CHOICES["where"])] = "last"
    """layers to constrain: the last linear layer of the head, all linear layers, or all convolutions"""
    constraint_options: Annotated[ConstraintOptions, tyro.conf.arg(name=ConstraintOptions.PREFIX)] = field(
        default_factory=ConstraintOptions
    )
    optimizer: Annotated[str, choice(CHOICES["optimizer"])] = "sgd"
    """optimizer; muon steps the layers of `where`, and sgd the others"""
    lr: float = 0.05
    """learning rate at the end of the warm-up"""
    schedule: Annotated[str, choice(CHOICES["schedule"])] = "cosine"
    """learning rate after the warm-up: cosine, down to 0, or constant"""
    optimizer_options: Annotated[OptimizerOptions, tyro.conf.arg(name=OptimizerOptions.PREFIX)] = field(
        default_factory=OptimizerOptions
    )
    warmup: int = 0
    """steps of linear warm-up"""
    batch: int = 256
    """images of a batch, over all processes"""
    accumulate: int = 1
    """batches whose gradients make one step"""
    steps: int = 600
    """optimizer steps"""
    precision: Annotated[str, choice(CHOICES["precision"])] = "float32"
    """precision of the encoder; losses and constrained steps are in float32"""
    init_scale: float = 1.0
    """factor of the initial weights of the head's last layer, unless they are constrained: below 1 for stepwise learning"""
    records: int = 60
    """how often spectra are recorded, at equal ratios of the step"""
    checkpoint: str | None = None
    """file to save to, and to go on from where it exists"""
    save_every: int = 1000
    """steps between two checkpoints"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}{nearest(value, known)}")
        with setting("encoder"):
            architecture(self.encoder)
        with setting("augmentation"):
            augmentations(self.augmentation, self.data, 1)
        self.need("predictor_every", "hidden", "dim", "accumulate", "steps", "save_every", least=1)
        self.need("records", "batch", least=2)
        self.need("lr", "init_scale", "predictor_alpha", above=0)
        self.need("momentum", "teacher", "predictor_rho", least=0, most=0.9999)
        self.need("weight_decay", "predictor_eps", "penalty", "warmup", least=0)
        self._refuse_without_effect()
        if self.warmup >= self.steps:
            raise ConfigError(f"warmup must be below steps = {self.steps}, got {self.warmup}")
        self._check_together()

    def _refuse_without_effect(self) -> None:
        """Raise ConfigError for a setting that differs from its default and has no effect beside the others."""
        constraint, optimizer = CONSTRAINTS[self.constraint], OPTIMIZERS[self.optimizer]
        idle: dict[str, str | bool] = {
            "stem": "stem" not in architecture(self.encoder).takes and f"with encoder {self.encoder}",
            "where": not (constraint.rank_of_w or constraint.in_loss or optimizer.comparator)
            and f"with constraint {self.constraint}",
            "init_scale": constraint.rank_of_w and f"with constraint {self.constraint}",
            "save_every": self.checkpoint is None and "without checkpoint",
        }
        for group, registry in (("predictor", PREDICTORS), ("constraint", CONSTRAINTS), ("optimizer", OPTIMIZERS)):
            chosen = getattr(self, group)
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
        """Factor of the learning rate at a step."""
        return warmup_cosine(step, self.steps, warmup=self.warmup, end=SCHEDULES[self.schedule])

    def loss(self) -> Objective:
        """The objective with its options. Raises ConfigError where it does not take them."""
        given = {} if self.temperature is None else {"temperature": self.temperature}
        with setting():
            return objective(self.objective, **options_of(self.objective, seed=self.seed), **given)

    def _check_together(self) -> None:
        """Raise ConfigError for settings that do not go together."""
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
        with setting():
            constraint = CONSTRAINTS[self.constraint]
            constraint.check(
                where=self.where, objective=self.objective, invariant=loss.rotation_invariant, predictor=self.predictor,
                equivariant=self.predictor == "none" or PREDICTORS[self.predictor].equivariant,
            )  # fmt: skip
            OPTIMIZERS[self.optimizer].check(constraint, self.where)
