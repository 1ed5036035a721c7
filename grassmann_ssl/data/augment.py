"""Random augmentations of colour and grey images, batched and on the images' device: crop, flip, colour jitter, blur, noise."""

import math
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from grassmann_ssl.data.colour import greyscale, jitter, solarise
from grassmann_ssl.data.warp import blur, random_boxes, resample

MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Draw:
    """The random parameters of n views, one row a view; None where an operation is off for all of them.

    boxes: top, left, height, width of the crop in pixels; angles in radians; flips; jitters: which have their colours changed by
    factors (brightness, contrast, saturation), hue and order (see `jitter`); greys, solarises: which are; sigmas of the blur in
    pixels, 0 for none; noise: what is added.
    """

    boxes: Float[Tensor, " n 4"]
    angles: Float[Tensor, " n"]
    flips: Bool[Tensor, " n"]
    jitters: Bool[Tensor, " n"] | None
    factors: Float[Tensor, " n 3"]
    hue: Float[Tensor, " n"]
    order: Int[Tensor, " n 4"]
    greys: Bool[Tensor, " n"] | None
    sigmas: Float[Tensor, " n"] | None
    solarises: Bool[Tensor, " n"] | None
    noise: Float[Tensor, " n c size size"] | None

    def rows(self, rows: slice) -> "Draw":
        """The parameters of some of the views."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[rows] for name, value in named.items() if value is not None})

    def to(self, device: torch.device, dtype: torch.dtype) -> "Draw":
        """The same parameters on another device, the real ones in another dtype."""
        moved = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                value = value.to(device, dtype if value.dtype.is_floating_point else value.dtype)
            moved[field.name] = value
        return Draw(**moved)


@dataclass(frozen=True)
class Augmentation:
    """A random view of an image: crop and resize, rotate, flip, colour jitter, greyscale, blur, solarise, add noise, in this order.

    `size`: side of the square view. `scale`, `ratio`: ranges of the crop's share of the area and of its width / height (see
    `random_boxes`). `rotation`: angle ~ U(-rotation, rotation) in degrees about the centre of the crop. `flip`, `jitter`, `grey`, `blur`,
    `solarise`: probability of each. `brightness`, `contrast`, `saturation` s: factor ~ U(max(0, 1 - s), 1 + s); `hue` s: shift ~ U(-s,
    s) of a turn; the four in a uniformly drawn order per view. `sigma`: range of the blur's standard deviation in pixels, `radius` its
    reach. `noise`: standard deviation of Gaussian noise, after which values are clamped to [0, 1].

    augmentation(images, generator) = apply(images, draw(n, c, h, w, generator)): parameters are drawn per view. Images
    (n, c, h, w), c = 1 or 3, floating with values in [0, 1] (not checked) or uint8 (divided by 255, float32); the views
    (n, c, size, size) have values in [0, 1]. Where c = 1 saturation, hue and greyscale are the identity. Nothing waits for the device.
    Raises ValueError where a setting is outside its range or images have another shape or type.
    """

    size: int
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    flip: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    radius: int = 1
    solarise: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "grey", "blur", "solarise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a probability in [0, 1], got {getattr(self, name)}")
        for name in ("rotation", "brightness", "contrast", "saturation", "noise"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        for name in ("scale", "ratio", "sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf:
                raise ValueError(f"{name} must be (low, high) with 0 < low <= high, both finite, got {(low, high)}")
        if self.scale[1] > 1:
            raise ValueError(f"scale must be shares of the area, at most 1, got {self.scale}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must be in [0, 0.5] of a turn, got {self.hue}")
        if self.size < 1 or self.radius < 1:
            raise ValueError(f"size and radius must be at least 1, got {self.size} and {self.radius}")
        if self.blur and self.radius >= self.size:
            raise ValueError(f"radius must be below size {self.size} (the border is mirrored), got {self.radius}")

    def __call__(
        self, images: Num[Tensor, " n c h w"], generator: torch.Generator
    ) -> Float[Tensor, " n c {self.size} {self.size}"]:
        pixels = as_floating(images)
        n, channels, height, width = pixels.shape
        return self.apply(pixels, self.draw(n, channels, height, width, generator))

    def draw(self, n: int, channels: int, height: int, width: int, generator: torch.Generator) -> Draw:
        """Random parameters of views of n images, in float32 on the generator's device.

        Each operation takes its numbers whether it is on or off, noise last, so that a change of one setting leaves the
        draws of the others as they were.
        """
        device = generator.device
        boxes = random_boxes(n, height, width, scale=self.scale, ratio=self.ratio, generator=generator)
        uniform = torch.rand(15, n, device=device, generator=generator)
        turn, flips, jitters, greys, blurs, solarises, sigma, hue = uniform[:8]
        strength = torch.tensor([self.brightness, self.contrast, self.saturation], device=device)
        low = (1 - strength).clamp(min=0)
        noise = None
        if self.noise:
            shape = (n, channels, self.size, self.size)
            noise = torch.randn(shape, device=device, generator=generator).mul_(self.noise)
        sigmas = self.sigma[0] + (self.sigma[1] - self.sigma[0]) * sigma
        return Draw(
            boxes=boxes,
            angles=math.radians(self.rotation) * (2 * turn - 1),
            flips=flips < self.flip,
            jitters=(jitters < self.jitter) if self.jitter else None,
            factors=low + (1 + strength - low) * uniform[8:11].T,
            hue=self.hue * (2 * hue - 1),
            order=uniform[11:15].T.argsort(1),
            greys=(greys < self.grey) if self.grey else None,
            sigmas=torch.where(blurs < self.blur, sigmas, 0) if self.blur else None,
            solarises=(solarises < self.solarise) if self.solarise else None,
            noise=noise,
        )

    def apply(self, images: Float[Tensor, " n c h w"], draw: Draw) -> Float[Tensor, " n c {self.size} {self.size}"]:
        """The views of the images under the parameters `draw`, in the images' dtype and on their device.

        Raises ValueError where `draw` has another number of views than there are images.
        """
        if len(draw.boxes) != len(images):
            raise ValueError(f"draw must have one view for each of {len(images)} images, got {len(draw.boxes)}")
        draw = draw.to(images.device, images.dtype)
        views = resample(images, self.size, boxes=draw.boxes, angles=draw.angles, flips=draw.flips)
        if draw.jitters is not None:
            views = jitter(views, factors=draw.factors, hue=draw.hue, order=draw.order, chosen=draw.jitters)
        if draw.greys is not None:
            views = greyscale(views, draw.greys)
        if draw.sigmas is not None:
            views = blur(views, draw.sigmas, self.radius)
        if draw.solarises is not None:
            views = solarise(views, draw.solarises)
        if draw.noise is not None:
            views = views + draw.noise
        # Weights of interpolation and blur sum to one only up to rounding.
        return views.clamp(0, 1)


def as_floating(images: Num[Tensor, " n c h w"]) -> Float[Tensor, " n c h w"]:
    """uint8 images divided by 255 as float32; float32 and float64 images as they are, half precision as float32.

    Raises ValueError where the shape is not (n, 1 or 3, h, w) or the type is another.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise ValueError(f"images must be a non-empty (n, c, h, w) array with c = 1 or 3, got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.dtype.is_floating_point:
        raise ValueError(f"images must be uint8 or floating in [0, 1], got {images.dtype}")
    return images if images.dtype in (torch.float32, torch.float64) else images.float()


def normalise(
    images: Float[Tensor, " n c h w"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, " n c h w"]:
    """(images - mean) / std, channel by channel.

    Raises ValueError where mean and std do not have one finite number per channel, or a std is not positive.
    """
    channels = images.shape[1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels or not all(math.isfinite(v) and (name == "mean" or v > 0) for v in values):
            sign = " positive" if name == "std" else ""
            raise ValueError(f"{name} must be {channels} finite{sign} numbers, one per channel, got {tuple(values)}")
    shift, scale = (
        torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None] for values in (mean, std)
    )
    return (images - shift) / scale


def keyed_generator(*, seed: int, step: int, rank: int, view: int, device: torch.device | str) -> torch.Generator:
    """A random generator of one view of one step of one process, whatever ran before.

    Its seed is s_3 with s_0 = mix(seed), s_1 = mix(s_0 xor step), s_2 = mix(s_1 xor rank), s_3 = mix(s_2 xor view), where mix is
    `splitmix64`: a resumed run draws what the unbroken one would have drawn. The same key gives other numbers on another kind of
    device. A CPU generator of torch takes the low 32 bits of a seed: of k keys about k^2 / 2^33 pairs then share their numbers.
    Raises ValueError where a number is negative or does not fit in 64 bits.
    """
    state = 0
    for name, value in (("seed", seed), ("step", step), ("rank", rank), ("view", view)):
        if not 0 <= value <= MASK:
            raise ValueError(f"{name} must be in 0..2^64 - 1, got {value}")
        state = splitmix64(state ^ value)
    return torch.Generator(device).manual_seed(state)


def splitmix64(value: int) -> int:
    """A bijection of 64-bit numbers that spreads each bit of its argument over all bits of the result.

    z = value + 0x9E3779B97F4A7C15;  z = (z xor z >> 30) 0xBF58476D1CE4E5B9;  z = (z xor z >> 27) 0x94D049BB133111EB;  z xor z >> 31, all
    modulo 2^64. Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators", with the constants of
    Vigna's splitmix64.c, whose first output for the state `value` this is.
    """
    z = (value + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)
