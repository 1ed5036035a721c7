"""What an encoder is trained on: the views of its steps, views on which it is watched and judged, and what to say of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor

from grassmann_ssl.data.augment import Augmentation, Draw, as_floating, keyed_generator
from grassmann_ssl.data.batches import Split, Views, augmentations, load_split
from grassmann_ssl.data.loaded import Loaded, described, fingerprint_of
from grassmann_ssl.data.stored import Pixels, chunks, subset
from grassmann_ssl.distributed import Process
from grassmann_ssl.experiments.encoders.pretrain_config import PretrainConfig
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.nn.joint_embedding import chunk_size
from grassmann_ssl.registry import own
from grassmann_ssl.runs import ConfigError, Finding, Progress, setting

SEEN = 1024  # most rows on which spectra are recorded
HELD = 2**28  # most bytes of the user's views that are kept for that
COMPARED = 64  # images that are compared with the first at a time
ANY = 2**62  # views can be drawn of an image
VIEWS_STEP = 2**40  # key of the views used for evaluation


@dataclass(frozen=True)
class SeenViews:
    """One evaluation view of each image: chunks of them, made anew whenever they are gone through, so that one is held at a time."""

    images: Pixels
    augmentation: Augmentation
    draw: Draw

    def __iter__(self) -> Iterator[Tensor]:
        size = chunk_size(self.images)
        for k, images in enumerate(chunks(self.images, size)):
            yield self.augmentation.apply(as_floating(images), self.draw.rows(slice(k * size, (k + 1) * size)))

    def first(self, count: int) -> "SeenViews":
        """Those of the first images."""
        return SeenViews(subset(self.images, slice(count)), self.augmentation, self.draw.rows(slice(count)))

    def stacked(self) -> Tensor:
        """All of them, (n, c, size, size)."""
        return torch.cat(list(self))


@dataclass(frozen=True)
class LoadedViews:
    """One view of each of the first rows of the user's batches."""

    loaded: Loaded
    number: int
    rows: int

    def __iter__(self) -> Iterator[Tensor]:
        return (views[self.number] for views in self.loaded.looked_at(self.rows))

    def first(self, count: int) -> "LoadedViews":
        """Those of the first rows."""
        return LoadedViews(self.loaded, self.number, min(count, self.rows))


EvaluationViews = SeenViews | LoadedViews


class Material(ABC):
    """What an encoder is trained on.

    example      some rows of a view, as the encoder takes them; `smaller`: of small crops, of each shape that they have
    count        how many different views of the same rows there are, at least 2
    labelled     samples of which representations are probed and stored, and their labels; None where there are none
    fingerprint  equal for equal data alone
    """

    @property
    @abstractmethod
    def example(self) -> Tensor: ...

    @property
    @abstractmethod
    def smaller(self) -> tuple[Tensor, ...]: ...

    @property
    @abstractmethod
    def count(self) -> int: ...

    @property
    @abstractmethod
    def labelled(self) -> Split | None: ...

    @property
    @abstractmethod
    def fingerprint(self) -> str: ...

    @abstractmethod
    def seen_by(self, config: TrainConfig) -> "Material":
        """The same data under other settings, such as other augmentations."""

    @abstractmethod
    def steps(self, config: TrainConfig) -> Callable[[int, int], tuple[Tensor, ...]]:
        """The views of every step and part. Raises ConfigError for a batch that does not fit."""

    @abstractmethod
    def batch(self, config: TrainConfig) -> int:
        """Rows of a batch, over all processes."""

    @abstractmethod
    def view(self, number: int, rows: int) -> EvaluationViews:
        """The view of this number of each of the first `rows` rows."""

    @abstractmethod
    def watched(self) -> Iterable[Tensor]:
        """Chunks of views on which spectra are recorded, gone through often."""

    @abstractmethod
    def finding(self) -> Finding:
        """How much there was, and what was passed over."""


@dataclass(frozen=True)
class Pictures(Material):
    """Images of a split, seen through two augmentations. Raises ConfigError for settings that do not fit the images."""

    config: TrainConfig
    split: Split
    process: Process

    def __post_init__(self) -> None:
        first = self.split.train[0]
        if all(
            bool((some == first).all()) for some in chunks(self.split.train, COMPARED)
        ):  # ends at the first that differs
            raise ConfigError(f"data: the {len(self.split.train):,} images to train on are all the same")
        self.augmentations  # noqa: B018  checked before training

    @cached_property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """Those of the two views, square, of the images' shorter side, and of small crops."""
        config, size = self.config, min(self.split.train.shape[-2:])
        with setting("augmentation"):
            return augmentations(config.augmentation, config.data, size, config.crops)

    @property
    def example(self) -> Tensor:
        return torch.cat(list(self.view(0, 1)))

    @property
    def smaller(self) -> tuple[Tensor, ...]:
        side = self.augmentations[-1].size
        return (self.example[..., :side, :side],) if self.config.crops else ()

    @property
    def count(self) -> int:
        return ANY

    @property
    def labelled(self) -> Split | None:
        return self.split

    @property
    def fingerprint(self) -> str:
        return self.split.fingerprint

    def seen_by(self, config: TrainConfig) -> "Pictures":
        return Pictures(config, self.split, self.process)

    def steps(self, config: TrainConfig) -> Views:
        with setting():
            return Views(
                self.split.train, self.augmentations, config.batch, config.seed, self.process, config.accumulate
            )

    def batch(self, config: TrainConfig) -> int:
        return config.batch

    def view(self, number: int, rows: int) -> SeenViews:
        images, seed = subset(self.split.train, slice(rows)), self.config.seed
        generator = keyed_generator(seed=seed, step=VIEWS_STEP, rank=0, view=number, device=images.device)
        _, channels, height, width = images.shape
        whole = self.augmentations[0]
        return SeenViews(images, whole, whole.draw(len(images), channels, height, width, generator))

    def watched(self) -> SeenViews:
        return self.view(0, SEEN)

    def finding(self) -> Finding:
        return Finding("images", measured=self.split.described)


@dataclass(frozen=True)
class Batches(Material):
    """Batches of views of the user's own; `probed`: labelled inputs of the encoder, to probe it. Raises ValueError for what is none."""

    loaded: Loaded
    probed: Split | None = None

    def __post_init__(self) -> None:
        self.first  # noqa: B018  read before training

    @cached_property
    def first(self) -> tuple[Tensor, ...]:
        """The views of the first batch."""
        for views in self.loaded.looked_at(SEEN):
            if not _finite(views):
                raise ValueError("the views of its first batch are not finite")
            return views
        raise ValueError("there is no batch in it")

    @property
    def example(self) -> Tensor:
        return self.first[0][:2]

    @property
    def smaller(self) -> tuple[Tensor, ...]:
        return tuple({x.shape: x[:2] for x in self.first if x.shape != self.first[0].shape}.values())

    @property
    def count(self) -> int:
        return sum(x.shape == self.first[0].shape for x in self.first)

    @property
    def labelled(self) -> Split | None:
        return self.probed

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of([self.first])

    def seen_by(self, config: TrainConfig) -> "Batches":
        return self

    def steps(self, config: TrainConfig) -> Callable[[int, int], tuple[Tensor, ...]]:
        return self.loaded.steps(config.accumulate)

    def batch(self, config: TrainConfig) -> int:
        return len(self.first[0])

    def view(self, number: int, rows: int) -> LoadedViews:
        return LoadedViews(self.loaded, number, rows)

    def watched(self) -> list[Tensor]:
        most = HELD // max(1, self.first[0][0].numel() * self.first[0].element_size())
        chunks_of = list(self.view(0, max(2, min(SEEN, most))))
        if not _finite(chunks_of):
            raise ConfigError("data: the views of an epoch are not finite")
        first = chunks_of[0][0]
        if all(x.shape == first.shape and torch.equal(x, first) for chunk in chunks_of for x in chunk):
            raise ConfigError(
                f"data: the {sum(map(len, chunks_of)):,} rows of an epoch that were looked at are all the same"
            )
        return chunks_of

    def finding(self) -> Finding:
        try:
            count = len(self.loaded)
            epoch = f"{count:,} batch{'es' * (count != 1)} an epoch"
        except TypeError:
            epoch = "epochs of unknown length"
        return Finding("data", measured=f"{len(self.first)} views of a batch, {described(self.first)}; {epoch}")


def _finite(views: Iterable[Tensor]) -> bool:
    return all(bool(x.isfinite().all()) for x in views if x.is_floating_point())


def material_of(config: TrainConfig, process: Process, progress: Progress | None) -> Material:
    """What the settings name: images, or the user's own data. Raises ConfigError for what cannot be read or trained on."""
    if isinstance(config, PretrainConfig) and config.given.data is not None:
        probed = config.given.probed and config.given.probed.to(process.device)
        with setting("data"):
            return Batches(Loaded(config.given.data, config.seed, process, config.given.views), probed)
    if config.own_data:
        with setting("data"):
            return Batches(Loaded(own(config.data, needed=False), config.seed, process))
    generator = torch.Generator().manual_seed(config.seed)
    with setting("data"):
        split = load_split(config.data, generator, progress, **asdict(config.data_options)).to(process.device)
    return Pictures(config, split, process)
