"""ResNets with torchvision's names of modules and parameters, so that its checkpoints load."""

from torch import Tensor, nn

from grassmann_ssl.registry import nearest

# name: (side of the first convolution, its stride, whether max pooling follows)
STEMS: dict[str, tuple[int, int, bool]] = {"imagenet": (7, 2, True), "stl": (7, 2, False), "cifar": (3, 1, False)}


def _convolution(inputs: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, out, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(inputs: int, out: int, stride: int) -> nn.Module | None:
    if stride == 1 and inputs == out:
        return None
    return nn.Sequential(_convolution(inputs, out, 1, stride), nn.BatchNorm2d(out))


class BasicBlock(nn.Module):
    """Residual block of two 3 x 3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, width, 3), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return y


class Bottleneck(nn.Module):
    """Residual block of 1 x 1, 3 x 3 (with the stride) and 1 x 1 convolutions, of 4 `width` output channels."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1, self.bn1 = _convolution(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _convolution(width, out, 1), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return y


# name: (block, blocks of the four stages)
DEPTHS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
WIDTH = 64


class ResNet(nn.Module):
    """ResNet-18, 34 or 50 without its classifier: images (n, c, h, w) -> representations (n, out_features) by global average pooling.

    The four stages have 1, 2, 4 and 8 times `width` channels (4 times as many leave a bottleneck); 64 is the published width. Names of
    modules and parameters are those of torchvision, less fc; initial weights as there (He normal, fan out). `stem`: imagenet is a 7 x 7
    convolution of stride 2 and 3 x 3 max pooling of stride 2; stl the same convolution without pooling; cifar a 3 x 3 convolution of
    stride 1, as in SimCLR on CIFAR-10 (arXiv 2002.05709, App. B.9). Raises ValueError for an unknown name or stem, or a width below 1.
    Source: He et al. 2016, arXiv 1512.03385, with the stride in the 3 x 3 convolution of a bottleneck.
    """

    def __init__(self, name: str, in_channels: int = 3, stem: str = "imagenet", width: int = WIDTH) -> None:
        super().__init__()
        if name not in DEPTHS:
            raise ValueError(f"unknown residual network {name!r}: known are {', '.join(DEPTHS)}{nearest(name, DEPTHS)}")
        if stem not in STEMS:
            raise ValueError(f"unknown stem {stem!r}: known are {', '.join(STEMS)}{nearest(stem, STEMS)}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        block, depths = DEPTHS[name]
        side, stride, pooled = STEMS[stem]
        self.conv1 = _convolution(in_channels, width, side, stride)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if pooled else nn.Identity()
        self._inputs = width
        self.layer1 = self._stage(block, width, depths[0], 1)
        self.layer2 = self._stage(block, 2 * width, depths[1], 2)
        self.layer3 = self._stage(block, 4 * width, depths[2], 2)
        self.layer4 = self._stage(block, 8 * width, depths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.out_features = self._inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, block: type[BasicBlock | Bottleneck], width: int, depth: int, stride: int) -> nn.Sequential:
        blocks = []
        for k in range(depth):
            blocks.append(block(self._inputs, width, stride if k == 0 else 1))
            self._inputs = width * block.expansion
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        pooled: Tensor = self.avgpool(x)
        return pooled.flatten(1)
