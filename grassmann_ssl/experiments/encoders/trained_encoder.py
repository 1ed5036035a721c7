"""The encoder that a training run keeps in its folder: its weights as they are stored, and the module that they are loaded into."""

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geoopt
import numpy as np
import torch
from torch import Tensor, nn

from grassmann_ssl.audit import Audit
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.encoder_arms import assemble
from grassmann_ssl.experiments.encoders.pretrain_config import Given, PretrainConfig
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.nn.joint_embedding import JointEmbedding, floating
from grassmann_ssl.runs import ConfigError, Outcome
from grassmann_ssl.runs.load import read_record

SCALE = 50.0  # between [0, 1] and bytes there is more, between views of one kind less


class TrainedEncoder(nn.Module):
    """h = module(images): the representations (n, k) of images (n, c, height, width), or of what else the encoder takes.

    Images are uint8, as data come, or floating in [0, 1]; float32 or float64. The first pass warns where their largest value is a factor of
    50 from that of the views of the training, `largest`. `projector(h)` is the embedding z, which the objective took;
    `predictor` and `teacher` are those of the training, None where it had none. Constrained weights are on their manifolds.
    """

    def __init__(self, method: JointEmbedding, largest: float | None = None) -> None:
        super().__init__()
        self.encoder, self.projector = method.encoder, method.projector
        self.predictor, self.teacher = method.predictor, method.teacher
        self.largest = largest

    def forward(self, images: Tensor) -> Tensor:
        x = floating(images)
        if self.largest and not torch.compiler.is_compiling():
            self._look(x, self.largest)
        h: Tensor = self.encoder(x)
        return h

    def _look(self, x: Tensor, largest: float) -> None:
        """Warn, at the first pass alone, of values that are on another scale."""
        got = largest_of(x)
        self.largest = None
        if got and not largest / SCALE < got < largest * SCALE:
            warnings.warn(
                f"the encoder was trained on values up to {largest:.3g} and got values up to {got:.3g}: bring them to the scale of the "
                "training (uint8 images are divided by 255 here, floating ones are taken as they are)",
                stacklevel=5,
            )

    def weights(self) -> dict[str, np.ndarray]:
        """Parameters and buffers by name, the content of weights.safetensors."""
        return {name: value.numpy(force=True) for name, value in self.state_dict().items()}


@dataclass(frozen=True, repr=False)
class Pretrained(Outcome):
    """The outcome of a training: what any run leaves, the trained `model`, and the collapse `audit` of its embeddings."""

    model: TrainedEncoder = field(kw_only=True)
    audit: Audit = field(kw_only=True)


def largest_of(x: Tensor) -> float | None:
    """The largest of their absolute values; None of integers, which are tokens, and of tensors without values."""
    if not x.is_floating_point() or not x.numel() or x.is_meta:
        return None
    with contextlib.suppress(RuntimeError):  # below vmap there is no number
        return float(x.detach().abs().max())
    return None


def load_encoder(
    folder: str | Path,
    *,
    encoder: nn.Module | None = None,
    projector: nn.Module | None = None,
    predictor: nn.Module | None = None,
    teacher: nn.Module | Callable[[nn.Module], nn.Module] | None = None,
    constraint: geoopt.Manifold | None = None,
) -> TrainedEncoder:
    """The encoder of a run folder of `train` or `pretrain`, from its run.json and weights.safetensors: on the CPU, in evaluation mode.

    `encoder`, `projector`, `predictor`, `teacher` and `constraint` are your own, where the training had such, made as they were then;
    weights are replaced. Nothing of your own is imported by its name. Names, types and shapes of all weights are checked before any is
    loaded. Raises ConfigError, in one line, where the folder holds no such run, a file cannot be read, a part is missing, or the weights do
    not fit.
    """
    folder = Path(folder)
    given: dict[str, Any] = {"encoder": encoder, "projector": projector, "predictor": predictor}
    given |= {"teacher": teacher, "constraint": constraint}
    config, example, largest = _settings(folder / "run.json", given)
    path = folder / "weights.safetensors"
    weights = _read(path)
    try:
        module = TrainedEncoder(assemble(config, example, Process(0, 1, torch.device("cpu"))).method, largest)
    except (RuntimeError, MemoryError, TypeError) as error:  # sizes that no memory holds, or that are no numbers
        raise ConfigError(f"{folder / 'run.json'}: {(str(error).splitlines() or ['it does not fit'])[0]}") from None
    needed = module.state_dict()
    for name in sorted({*weights, *needed}):
        there, own = _described(weights.get(name)), _described(needed.get(name))
        if there != own:
            raise ConfigError(f"{path} does not fit run.json: {name} is {there}, and {own} is needed")
    try:
        module.load_state_dict(weights)
    except ValueError as error:  # off its manifold
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None
    return module.eval()


# What stands for parts of the user's own that leave no weights.
STAND_INS = {"objective": "negative_cosine", "optimizer": "sgd", "schedule": "cosine", "data": "digits"}


def _settings(path: Path, given: dict[str, Any]) -> tuple[TrainConfig, Tensor, float | None]:
    """The settings of a stored training, with the user's own parts in their place, rows of the shape of a view, and their largest value."""
    record = read_record(path.parent)
    experiment, stored = record["experiment"], record["config"]
    try:
        if experiment not in (TrainConfig.NAME, PretrainConfig.NAME):
            kinds = f"{TrainConfig.NAME} and {PretrainConfig.NAME}"
            raise ConfigError(f"{path.parent} is a run of {experiment}; encoders are kept by runs of {kinds}")
        if "shape" not in record.get("input", {}):
            raise ConfigError(f"{path.parent} keeps no encoder: an earlier version wrote it; run it again")
        unknown = sorted(stored.keys() - {one.name for one in PretrainConfig.known()})
        if unknown:
            raise ConfigError(f"{path} has settings that this version does not know: {', '.join(unknown)}")
        for name, value in given.items():
            if name in record["own"] and value is None:
                raise ConfigError(
                    f"{name}: {path.parent} was trained with your own {stored[name]}: give it, {name}=..."
                )
            if name not in record["own"] and value is not None:
                raise ConfigError(
                    f"{name}: that of {path.parent} is {stored.get(name)}, made from its settings; give none"
                )
        stand_ins: dict[str, Any] = {name: STAND_INS[name] for name in STAND_INS if name in record["own"]}
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
        try:
            config = PretrainConfig.of(**{**settings, **stand_ins, "out": path.parent}, given=Given(**given))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        shape, dtype = record["input"]["shape"], getattr(torch, record["input"]["dtype"])
        largest = record["input"].get("largest")
        return config, torch.zeros(2, *shape, dtype=dtype), None if largest is None else float(largest)
    except ConfigError:
        raise
    except (AttributeError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ConfigError(f"{path} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            # A copy each: views of the file's buffer lie at any address, and products of them round in another order.
            return {name: file.get_tensor(name).clone() for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _described(value: Any) -> str:
    return "missing" if value is None else f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
