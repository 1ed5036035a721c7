"""Two views of a batch through one encoder to a loss: joint embedding, with or without a predictor and a teacher."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from grassmann_ssl.data.augment import as_floating
from grassmann_ssl.data.stored import Pixels, chunks
from grassmann_ssl.objectives import penalties

CHUNK, CHUNK_VALUES = 512, 2**20  # most images, and most of their values, embedded at a time


class JointEmbedding(nn.Module):
    """L(x, x', ...) of views through encoder and projector, z = projector(encoder(x)).

    Without `predictor` and `teacher`: loss(z=z, z_positive=z'). With either, or with `stop_gradient`, the symmetrised loss, the mean of
    loss(prediction=q(z), target=t(x'), projection=z) and the same with the views swapped: q the predictor or the identity, t(x') the
    teacher's embedding or, without one, z'. The loss detaches its target. Batch normalisation takes its statistics per view. A teacher
    without a method `update` stays as it is: it is always in evaluation mode.
    A loss that is a module is a submodule; one that has a method `remember` gets, in training mode and once a call, all predictions and
    all targets, after its values.
    More than two views: those of the first one's shape are global, all others local crops. The loss is the mean over all pairs of views
    with a global one among them; targets are global views alone. Source: multi-crop, Caron et al. 2020, arXiv 2006.09882.
    `orthogonality` adds weight * ||W W^T - I||_F^2 of the weights (out, in) of some layers, the shorter side orthonormal: the soft form of
    a constraint.
    """

    loss: Callable[..., Tensor]

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        loss: Callable[..., Tensor],
        *,
        predictor: nn.Module | None = None,
        teacher: nn.Module | None = None,
        stop_gradient: bool = False,
        orthogonality: tuple[float, Sequence[Any]] = (0.0, ()),
    ) -> None:
        super().__init__()
        self.online = nn.Sequential(OrderedDict(encoder=encoder, projector=projector))
        self.loss, self.predictor, self.teacher = loss, predictor, teacher
        self.predictive = stop_gradient or predictor is not None or teacher is not None
        self.orthogonality = orthogonality

    @property
    def encoder(self) -> nn.Module:
        """The encoder; its outputs are the representations, which are evaluated."""
        return self.online[0]

    @property
    def projector(self) -> nn.Module:
        """The projection head; its outputs are the embeddings, which the objective takes."""
        return self.online[1]

    def forward(self, *views: Shaped[Tensor, " n ..."]) -> Float[Tensor, ""]:
        online, shape = self.online, views[0].shape
        embedded = [online(x) for x in views]
        whole = [k for k, x in enumerate(views) if x.shape == shape]
        losses = self._predictive(views, embedded, whole) if self.predictive else self._symmetric(embedded, whole)
        loss = losses[0] if len(losses) == 1 else sum(losses[1:], losses[0]) / len(losses)
        weight, layers = self.orthogonality
        for layer in layers:
            matrix = layer.weight.flatten(1)
            tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
            loss = loss + weight * penalties.orthogonality(weights=tall)
        return loss

    def train(self, mode: bool = True) -> "JointEmbedding":
        """As of any module, but for a teacher that stays as it is."""
        super().train(mode)
        if self.teacher is not None and not hasattr(self.teacher, "update"):
            self.teacher.train(False)
        return self

    def _symmetric(self, embedded: list[Tensor], whole: list[int]) -> list[Tensor]:
        """The loss of every pair of views with a global one among them."""
        pairs = [(i, j) for i in whole for j in range(len(embedded)) if j > i or j not in whole]
        return [self.loss(z=embedded[i], z_positive=embedded[j]) for i, j in pairs]

    def _predictive(self, views: Sequence[Tensor], embedded: list[Tensor], whole: list[int]) -> list[Tensor]:
        """The loss of every view's prediction of every other global view."""
        targets = {k: embedded[k] for k in whole}
        if self.teacher is not None:
            with torch.no_grad():
                targets = {k: self.teacher(views[k]) for k in reversed(whole)}
        predictions = embedded if self.predictor is None else [self.predictor(z) for z in embedded]
        losses = [
            self.loss(prediction=predictions[i], target=targets[j], projection=embedded[i])
            for i in range(len(embedded))
            for j in whole
            if j != i
        ]
        if self.training and (remember := getattr(self.loss, "remember", None)):
            remember(predictions, [targets[k] for k in whole])
        return losses


def chunk_size(images: Pixels) -> int:
    """How many of the images (n, ...) are embedded at a time."""
    return max(1, min(CHUNK, CHUNK_VALUES // math.prod(images.shape[1:])))


@torch.no_grad()
def embeddings(method: JointEmbedding, images: Pixels | Iterable[Tensor]) -> dict[str, Tensor]:
    """`h` (n, k) representations, `z` (n, d) embeddings and their `directions` z / ||z||, float32 or wider, in evaluation mode.

    Of images (n, ...), floating or uint8 (divided by 255, a chunk at a time), or of chunks of them; other integers are tokens, as they are.
    """
    parts_of = chunks(images, chunk_size(images)) if isinstance(images, Pixels) else images
    with evaluating(method):
        parts = [(h := method.encoder(chunk), method.projector(h)) for chunk in map(floating, parts_of)]
    h, z = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return {"h": h, "z": z, "directions": F.normalize(z, dim=1)}


def floating(x: Tensor) -> Tensor:
    """Images of bytes divided by 255, anything else as it is."""
    return as_floating(x) if x.dtype == torch.uint8 else x


class evaluating:
    """Context manager: a module in evaluation mode, the mode of every submodule restored on exit."""

    def __init__(self, module: nn.Module) -> None:
        self.modes = {part: part.training for part in module.modules()}

    def __enter__(self) -> None:
        for part in self.modes:
            part.training = False

    def __exit__(self, *_: object) -> None:
        for part, mode in self.modes.items():
            part.training = mode
