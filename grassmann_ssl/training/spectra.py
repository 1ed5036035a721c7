"""Spectra of embeddings during training of an encoder: on fixed images at chosen steps, on the device until the end."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor

from grassmann_ssl.metrics import effective_rank
from grassmann_ssl.metrics.accumulate import SecondMoments
from grassmann_ssl.metrics.eigenspaces import eigenspaces
from grassmann_ssl.nn.joint_embedding import JointEmbedding, embeddings
from grassmann_ssl.nn.predictors import matrix_of
from grassmann_ssl.training.recorder import Recorder
from grassmann_ssl.training.watch import Diverged, FiniteWatch

NAMES = {"h": "representations", "z": "embeddings", "directions": "directions of embeddings"}


class SpectraRecorder:
    """An observer of `train_encoder`: records at its steps the mean loss since the last one and eigenvalues of covariances.

    Recorded: `loss`; `z`, eigenvalues (d,) of the covariance of the embeddings, `directions` the same of z / ||z||, and `h` of the
    representations, all decreasing, float64, on `images`, or chunks of them, with the model in evaluation mode; where the predictor is a
    matrix, `metrics.eigenspaces` of it and of F = E[z z^T], each by its name after `predictor_`. Nothing is copied to
    the host before `stacked`, but the watch is checked. `probes()`: more numbers by name, of the weights as they are; what it draws and
    trains leaves the training as it is. Raises Diverged where the loss or an embedding is not finite.
    """

    def __init__(
        self,
        method: JointEmbedding,
        images: Tensor | Iterable[Tensor],
        steps: Collection[int],
        watch: FiniteWatch,
        probes: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self.method, self.images, self.watch, self.probes = method, images, watch, probes
        self._recorder = Recorder(steps)

    def __call__(self, step: int) -> None:
        if not self._recorder.due(step) or (len(self) and step <= self._recorder.done):  # recorded before a checkpoint
            return
        self.watch.check()
        values, matrix = {"loss": self.watch.mean()}, matrix_of(self.method.predictor)
        if matrix is not None and not bool(torch.isfinite(matrix).all()):
            raise Diverged(f"the predictor is not finite at step {step}")
        for name, rows in embeddings(self.method, self.images).items():
            if not bool(torch.isfinite(rows).all()):
                raise Diverged(
                    f"{NAMES[name]} are not finite at step {step}: the weights have grown beyond the range of their dtype"
                )
            moments = SecondMoments.of(rows)
            values[name] = torch.linalg.eigvalsh(moments.covariance).flip(-1).clamp_min(0)
            if name == "z" and matrix is not None:
                found = eigenspaces(moments.second, matrix.to(moments.second))
                values |= {f"predictor_{key}": value for key, value in found.items()}
        probed = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.probes().items()}
        self._recorder.record(step, **values, **probed)

    def telling(self, log: Callable[[int, dict[str, float]], object]) -> Callable[[int], None]:
        """An observer, for after this one: tells `log` step and numbers of every record, those before a checkpoint first.

        The numbers: `loss`, effective ranks such as `effective_rank/z`, and eigenvalues such as `z/1`, the largest; of h, which is wide,
        the rank alone. What is not finite, as the loss before there is any, is left out. Waits for the device at recorded steps.
        """
        told = 0

        def tell(step: int) -> None:
            nonlocal told
            for at, values in self._recorder.records[told:]:
                log(at, _numbers(values))
            told = len(self)

        return tell

    def __len__(self) -> int:
        """How many steps were recorded."""
        return len(self._recorder.records)

    def stacked(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The recorded steps, and each value with a leading axis over them, on the host."""
        return self._recorder.stacked()

    def state(self) -> dict[str, Tensor]:
        """What was recorded, and the sum of the loss since then, for a checkpoint."""
        steps, values = self.stacked() if len(self) else (torch.zeros(0, dtype=torch.int64), {})
        return {"step": steps, **values, **{f"watch_{name}": value for name, value in self.watch.state().items()}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`. Raises ValueError where it is not one of as many steps for every value."""
        watched = {name: state[f"watch_{name}"] for name in self.watch.state() if f"watch_{name}" in state}
        values = {name: value for name, value in state.items() if name != "step" and not name.startswith("watch_")}
        steps = state.get("step")
        if (
            steps is None
            or watched.keys() != self.watch.state().keys()
            or any(len(value) != len(steps) for value in values.values())
        ):
            raise ValueError("what was recorded before the checkpoint is not whole")
        self.watch.restore(watched)
        device = self.watch.device
        self._recorder.records[:] = [
            (int(step), {name: value[k].to(device) for name, value in values.items()}) for k, step in enumerate(steps)
        ]


def _numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """A record in plain numbers."""
    found = {"loss": float(values["loss"])}
    found |= {f"effective_rank/{name}": float(effective_rank(values[name])) for name in NAMES}
    found |= {f"{name}/{k}": value for name in ("z", "directions") for k, value in enumerate(values[name].tolist(), 1)}
    return {name: value for name, value in found.items() if math.isfinite(value)}
