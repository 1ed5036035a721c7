"""The encoder that a training run keeps in its folder: its weights as they are stored, and the module that they are loaded into."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from grassmann_ssl.data.augment import as_floating
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.encoder_arms import assemble
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.nn.joint_embedding import JointEmbedding
from grassmann_ssl.runs import ConfigError
from grassmann_ssl.runs.load import read_record


class TrainedEncoder(nn.Module):
    """h = module(images): the representations (n, k) of images (n, c, height, width).

    Images are uint8, as data come, or floating in [0, 1]; float32 or float64. `projector(h)` is the embedding z, which the objective took;
    `predictor` and `teacher` are those of the training, None where it had none. Constrained weights are on their manifolds.
    """

    def __init__(self, method: JointEmbedding) -> None:
        super().__init__()
        self.encoder, self.projector = method.encoder, method.projector
        self.predictor, self.teacher = method.predictor, method.teacher

    def forward(self, images: Tensor) -> Tensor:
        h: Tensor = self.encoder(as_floating(images))
        return h

    def weights(self) -> dict[str, np.ndarray]:
        """Parameters and buffers by name, the content of weights.safetensors."""
        return {name: value.numpy(force=True) for name, value in self.state_dict().items()}


def load_encoder(folder: str | Path) -> TrainedEncoder:
    """The encoder of a run folder of `train`, from its run.json and weights.safetensors: on the CPU, in evaluation mode.

    Names, types and shapes of all weights are checked before any is loaded. Raises ConfigError, in one line,
    where the folder holds no such run, a file cannot be read, or the weights do not fit the settings.
    """
    folder = Path(folder)
    config, channels, size = _settings(folder / "run.json")
    path = folder / "weights.safetensors"
    weights = _read(path)
    try:
        module = TrainedEncoder(assemble(config, channels, size, Process(0, 1, torch.device("cpu"))).method)
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


def _settings(path: Path) -> tuple[TrainConfig, int, int]:
    """The settings of a stored training, and the channels and the size of its images."""
    record = read_record(path.parent)
    experiment, stored = record["experiment"], record["config"]
    try:
        if experiment != TrainConfig.NAME:
            raise ConfigError(
                f"{path.parent} is a run of {experiment}; encoders are kept by runs of {TrainConfig.NAME}"
            )
        if "input" not in record:
            raise ConfigError(f"{path.parent} keeps no encoder: an earlier version wrote it; run it again")
        unknown = sorted(stored.keys() - {one.name for one in TrainConfig.known()})
        if unknown:
            raise ConfigError(f"{path} has settings that this version does not know: {', '.join(unknown)}")
        return TrainConfig.of(**{**stored, "out": path.parent}), record["input"]["channels"], record["input"]["size"]
    except ConfigError:
        raise
    except (ValueError, TypeError, KeyError) as error:
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
