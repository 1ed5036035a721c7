"""Fixed random features: a linear model on them is a kernel method."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RandomFeatures(nn.Module):
    """phi(x) = sqrt(2 / F) relu(x R + b), R and b standard Gaussian and never trained; shapes (..., m) -> (..., F).

    As F grows, phi(x) . phi(y) approaches the arc-cosine kernel of order 1 of (x, 1) and (y, 1) (Cho & Saul, NeurIPS 2009).
    Raises ValueError for inputs < 1 or features < 1.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, inputs: int, features: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__()
        for name, count in (("inputs", inputs), ("features", features)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        self.register_buffer("weight", torch.randn(inputs, features, generator=generator, dtype=dtype))
        self.register_buffer("bias", torch.randn(features, generator=generator, dtype=dtype))

    def forward(self, x: Float[Tensor, " *b m"]) -> Float[Tensor, " *b f"]:
        scale: float = (2 / self.bias.numel()) ** 0.5
        return scale * torch.relu(x @ self.weight + self.bias)
