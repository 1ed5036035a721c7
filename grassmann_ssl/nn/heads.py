"""Projection heads: from the representation of an encoder to the embedding that the objective sees."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from grassmann_ssl.registry import Registry


@dataclass(frozen=True)
class Head:
    """The layers around the last linear layer of a projection head.

    before  whether a BatchNorm without gain and offset precedes it
    bias    whether it has a bias
    gain    whether the BatchNorm after it, without offset, has a gain; None for no BatchNorm
    """

    before: bool = False
    bias: bool = False
    gain: bool | None = None


HEADS: Registry[Head] = Registry("head")
HEADS.add("standard", Head(bias=True))
HEADS.add("centred", Head(before=True))
HEADS.add("simsiam", Head(gain=False))
HEADS.add("byol", Head())
HEADS.add("simclr", Head(gain=True))
HEADS.add("barlow_twins", Head())
HEADS.add("vicreg", Head())


class ProjectionHead(nn.Sequential):
    """Linear layers with batch norm and relu between them; `last` is the last linear layer, the one that is constrained by default."""

    last: nn.Linear


def projector(in_features: int, widths: Sequence[int], kind: str = "standard") -> ProjectionHead:
    """Projection head: an MLP in_features -> widths[0] -> ... -> widths[-1]; `kind` sets the layers around its last linear layer.

    standard      Linear (no bias), BatchNorm, ReLU; ...; Linear with bias
    byol, barlow_twins, vicreg      as standard, the last layer without bias, as the released code of the three has it
    centred       before the last layer another BatchNorm, without gain and offset, and that layer without bias: its inputs have mean 0 and
                  variance 1 in every feature, so that neither a bias nor a mean aligns all embeddings; for constrained layers
    simclr        the last layer without bias, followed by BatchNorm with gain but no offset (its released code)
    simsiam       the same, neither gain nor offset
    One width is a single linear layer. Deviation: hidden layers have no bias anywhere; BYOL and VICReg have one, which the BatchNorm
    after it subtracts. Raises ValueError for an unknown kind (lists the known ones) and for no or non-positive widths.
    Sources: Chen et al. 2020, arXiv 2002.05709; Grill et al. 2020, arXiv 2006.07733; Chen & He 2021, arXiv 2011.10566; Zbontar et al.
    2021, arXiv 2103.03230; Bardes et al. 2022, arXiv 2105.04906.
    """
    around = HEADS[kind]
    if not widths or min(*widths, in_features) < 1:
        raise ValueError(
            f"in_features and widths must be positive, and widths not empty, got {in_features} and {widths}"
        )
    layers: list[nn.Module] = []
    width = in_features
    for hidden in widths[:-1]:
        layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
        width = hidden
    if around.before:
        layers.append(nn.BatchNorm1d(width, affine=False))
    last = nn.Linear(width, widths[-1], bias=around.bias)
    layers.append(last)
    if around.gain is not None:
        norm = nn.BatchNorm1d(widths[-1], affine=around.gain)
        norm.register_parameter("bias", None)
        layers.append(norm)
    head = ProjectionHead(*layers)
    # An attribute beside the sequence: registered twice, its parameters would be saved twice.
    object.__setattr__(head, "last", last)
    return head
