"""Batch normalisation over the batch of all processes, on any device, and its statistics before the first step."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from grassmann_ssl.distributed import process_count, total


class GlobalBatchNorm(nn.Module):
    """Batch normalisation whose batch is that of all processes: W processes compute what one would on the concatenated batch.

    y = (x - mean) / sqrt(var + eps) * weight + bias per channel, x (n, c) or (n, c, ...), with the biased variance over samples and
    positions; running statistics with the unbiased one, as torch's. Parameters, buffers and their names are those of the torch module it
    is made from, so that checkpoints fit both. torch.nn.SyncBatchNorm, which does the same, runs on GPUs only.
    Raises ValueError for a module without running statistics or without momentum.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        if norm.momentum is None or not norm.track_running_stats:
            raise ValueError(f"{norm} must track running statistics with a momentum to be made global")
        self.eps, self.momentum = norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.train(norm.training)

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
        if not self.training or process_count() == 1:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
            )
        axes = [0, *range(2, x.ndim)]
        shape = (-1, *(1,) * (x.ndim - 2))
        count = process_count() * x.numel() // x.shape[1]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        mean = total(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = total(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)


def globalise_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every BatchNorm1d, 2d and 3d of a model by `GlobalBatchNorm`, in place; returns the model. Raises as that."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            setattr(model, name, GlobalBatchNorm(child))
        else:
            globalise_batch_norm(child)
    return model


@torch.no_grad()
def settle_batch_norm(model: nn.Module, chunks: Iterable[Tensor]) -> None:
    """Give every batch norm the running statistics of these inputs, chunks (n, ...), in place of those it has.

    sum_i n_i s_i / sum_i n_i of the statistics s_i of the chunks. One of a single row has no variance and is passed over.
    `torch.optim.swa_utils.update_bn` gives a short last chunk the weight of a whole one, and raises where that is one row.
    """
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    momenta, training, rows = [one.momentum for one in norms], model.training, 0
    model.train()
    for chunk in chunks if norms else ():
        if len(chunk) < 2:
            continue
        rows += len(chunk)
        for one in norms:
            one.momentum = len(chunk) / rows
        model(chunk)
    for one, momentum in zip(norms, momenta, strict=True):
        one.momentum = momentum
    model.train(training)
