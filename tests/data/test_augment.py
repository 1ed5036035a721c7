"""Views of images: each operation against a reference that goes pixel by pixel, the draws, the keys and the presets."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.data.augment import Augmentation, Draw, as_floating, keyed_generator, normalise, splitmix64
from grassmann_ssl.data.colour import greyscale, jitter, luma, shift_hue, solarise
from grassmann_ssl.data.presets import PRESETS, preset
from grassmann_ssl.data.warp import blur, random_boxes, resample
from tests.oracles import augment as oracle
from tests.profiles import examples

EPS = torch.finfo(torch.float64).eps
EVERYTHING = Augmentation(
    6, scale=(0.2, 1.0), ratio=(0.5, 2.0), rotation=30.0, flip=0.5, jitter=0.8, brightness=0.8, contrast=1.5, saturation=0.8,
    hue=0.5, grey=0.3, blur=0.5, radius=2, solarise=0.5, noise=0.2,
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=3, c=3, h=5, w=7, seed=0):
    return torch.rand(n, c, h, w, dtype=torch.float64, generator=generator(seed))


def same_for_each(function, images, *each):
    """The batched function next to the oracle on each image, the latter as (n, c, h, w)."""
    results = [function(image.permute(1, 2, 0).numpy(), *row) for image, *row in zip(images, *each, strict=True)]
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2)


def close(found, expected, units=16):
    torch.testing.assert_close(found, expected.expand(found.shape), rtol=0, atol=units * EPS)


@given(seed=st.integers(0, 10**6), h=st.integers(1, 6), w=st.integers(1, 6), size=st.integers(1, 7))
@examples(30)
def test_crops_turns_and_flips_are_those_of_the_reference(seed, h, w, size):
    images = pictures(3, 1, h, w, seed)
    drawn = Augmentation(size, scale=(0.1, 1), ratio=(0.3, 3), rotation=180, flip=0.5).draw(3, 1, h, w, generator(seed))
    boxes, angles = drawn.boxes.double(), drawn.angles.double()
    found = resample(images, size, boxes=boxes, angles=angles, flips=drawn.flips)
    expected = same_for_each(
        lambda image, box, angle, flip: oracle.crop(image, size, box, float(angle), flip),
        images, boxes, angles, drawn.flips,
    )  # fmt: skip
    # A coordinate of up to 10 pixels has an error of some 10 eps, times a slope of 1 in each direction.
    close(found, expected, units=100)


def whole(images, size):
    n, _, h, w = images.shape
    boxes = torch.tensor([[0.0, 0, h, w]], dtype=images.dtype).expand(n, 4)
    return resample(images, size, boxes=boxes, angles=boxes[:, 0], flips=torch.zeros(n, dtype=torch.bool))


def test_the_whole_image_at_its_own_size_is_the_image():
    images = pictures(2, 3, 6, 6)
    close(whole(images, 6), images)


def test_a_flip_of_the_whole_image_mirrors_it():
    images = pictures(2, 3, 6, 6)
    boxes = torch.tensor([[0.0, 0, 6, 6]], dtype=torch.float64).expand(2, 4)
    flips = torch.tensor([True, False])
    found = resample(images, 6, boxes=boxes, angles=boxes[:, 0], flips=flips)
    close(found, torch.stack([images[0].flip(-1), images[1]]))


def test_enlarging_equals_torch_with_and_without_antialiasing():
    images = pictures(2, 3, 5, 6)
    for antialias in (False, True):
        close(whole(images, 9), F.interpolate(images, (9, 9), mode="bilinear", antialias=antialias), units=50)


def test_enlarging_a_box_equals_pillow():
    from PIL import Image

    images = pictures(1, 1, 9, 8).float()
    top, left, height, width = 1.3, 2.6, 5.5, 3.2
    pillow = Image.fromarray(images[0, 0].numpy()).resize(
        (7, 7), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
    )
    boxes = torch.tensor([[top, left, height, width]])
    found = resample(images, 7, boxes=boxes, angles=torch.zeros(1), flips=torch.zeros(1, dtype=torch.bool))
    # Both sum in float32, over coordinates of up to 9 pixels.
    torch.testing.assert_close(found[0, 0], torch.from_numpy(np.array(pillow)), rtol=0, atol=1e-5)


def test_a_larger_image_is_sampled_without_antialiasing():
    stripes = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    stripes[..., ::3] = 1  # columns 0, 3, 6, 9
    # Three times smaller, output pixel j reads column 3 j + 1 alone: the stripes vanish, where an average would be 1/3.
    assert whole(stripes, 4).abs().max() <= 16 * EPS


@pytest.mark.parametrize("c", [1, 3])
@given(seed=st.integers(0, 10**6))
@examples(25)
def test_colours_change_as_in_the_reference(c, seed):
    images = pictures(4, c, 3, 2, seed)
    rand = torch.rand(4, 9, dtype=torch.float64, generator=generator(seed + 1))
    factors, hue, order = 2.5 * rand[:, :3], 2 * rand[:, 3] - 1, rand[:, 4:8].argsort(1)
    chosen = rand[:, 8] < 0.7
    found = jitter(images, factors=factors, hue=hue, order=order, chosen=chosen)
    expected = same_for_each(
        lambda image, f, s, o, on: oracle.jitter(image, f, s, o.tolist()) if on else image,
        images, factors, hue, order, chosen,
    )  # fmt: skip
    # Each of up to three blends multiplies an error by up to 2.5 + 1.5; a hue of six sectors by six.
    close(found, expected, units=1000)


def test_the_order_of_the_colour_changes_matters_and_is_each_images_own():
    images = pictures(1).expand(2, -1, -1, -1)
    settings = dict(factors=torch.tensor([[2.0, 0.5, 1.0]] * 2).double(), hue=torch.zeros(2).double())
    order = torch.tensor([[0, 1, 2, 3], [1, 0, 2, 3]])
    both = jitter(images, order=order, chosen=torch.ones(2, dtype=torch.bool), **settings)
    assert (both[0] - both[1]).abs().max() > 0.1


@given(shift=st.floats(-1, 1), pixel=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=3, max_size=3))
def test_hue_agrees_with_colorsys_where_channels_are_equal(shift, pixel):
    image = torch.tensor(pixel, dtype=torch.float64)[None, :, None, None]
    expected = same_for_each(oracle.hue, image, [shift])
    close(shift_hue(image, torch.tensor([shift], dtype=torch.float64)), expected)


def test_a_third_of_a_turn_permutes_the_channels():
    images = pictures()
    close(shift_hue(images, torch.full((3,), 1 / 3, dtype=torch.float64)), images.roll(1, 1))


def test_greyscale_and_solarisation_are_those_of_the_reference():
    images, chosen = pictures(), torch.tensor([True, False, True])
    images[0, :, 0, 0] = 0.5
    for function, reference in ((greyscale, oracle.greyscale), (solarise, oracle.solarise)):
        expected = same_for_each(
            lambda image, on, reference=reference: reference(image) if on else image, images, chosen
        )
        close(function(images, chosen), expected)


@given(seed=st.integers(0, 10**6), radius=st.integers(1, 3), h=st.integers(4, 6), w=st.integers(4, 6))
@examples(10)
def test_blur_is_that_of_the_reference(seed, radius, h, w):
    images = pictures(2, 1, h, w, seed)
    sigmas = 0.1 + 2 * torch.rand(2, dtype=torch.float64, generator=generator(seed))
    expected = same_for_each(lambda image, sigma: oracle.blur(image, float(sigma), radius), images, sigmas)
    close(blur(images, sigmas, radius), expected)


def test_blur_of_width_zero_is_the_image_and_keeps_the_others():
    images = pictures(2)
    blurred = blur(images, torch.tensor([0.0, 1.0], dtype=torch.float64), 2)
    assert torch.equal(blurred[0], images[0])
    assert (blurred[1] - images[1]).abs().max() > 0.05


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_view_with_everything_is_that_of_the_reference(c, dtype):
    images = pictures(12, c, 9, 8).to(dtype)
    draw = EVERYTHING.draw(12, c, 9, 8, generator(1))
    views = EVERYTHING.apply(images, draw)
    expected = np.stack([oracle.view(images[i], draw, i, size=6, radius=2) for i in range(12)])
    assert views.dtype == dtype
    # The colour changes multiply an error of the interpolation, about 10 eps, by up to 2.5 * 1.8 * 1.8 * 6.
    tolerance = 1000 * torch.finfo(dtype).eps
    torch.testing.assert_close(views.double(), torch.from_numpy(expected), rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("c", "size"), [(1, 8), (3, 12), (3, 40)])
def test_presets_give_the_views_of_the_reference(name, c, size):
    for number, augmentation in enumerate(preset(name, size)):
        images = pictures(3, c, 9, 10, number)
        draw = augmentation.draw(3, c, 9, 10, generator(number))
        expected = [oracle.view(images[i], draw, i, size=size, radius=augmentation.radius) for i in range(3)]
        found = augmentation.apply(images, draw)
        torch.testing.assert_close(found, torch.from_numpy(np.stack(expected)), rtol=0, atol=1000 * EPS)


def rows(draw, i):
    values = {field.name: getattr(draw, field.name) for field in fields(Draw)}
    return Draw(**{name: None if value is None else value[i : i + 1] for name, value in values.items()})


@pytest.mark.parametrize("c", [1, 3])
def test_a_batch_is_the_stack_of_its_single_images(c):
    images = pictures(5, c)
    draw = EVERYTHING.draw(5, c, 5, 7, generator(2))
    single = [EVERYTHING.apply(images[i : i + 1], rows(draw, i)) for i in range(5)]
    close(EVERYTHING.apply(images, draw), torch.cat(single))


@given(seed=st.integers(0, 10**6), c=st.sampled_from([1, 3]), dtype=st.sampled_from([torch.float32, torch.float64]))
@examples(25)
def test_values_stay_in_the_unit_interval(seed, c, dtype):
    images = (torch.rand(6, c, 8, 8, generator=generator(seed)) * 2 - 0.5).clamp(0, 1).to(dtype)
    for augmentation in (EVERYTHING, replace(EVERYTHING, noise=0), *preset("byol", 8)):
        views = augmentation(images, generator(seed))
        assert views.shape == (6, c, augmentation.size, augmentation.size) and views.dtype == dtype
        assert 0 <= views.min() and views.max() <= 1


def test_without_settings_a_square_image_is_kept():
    images = pictures(4, 3, 8, 8)
    close(Augmentation(8)(images, generator()), images)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("flip", lambda x: x.flip(-1)),
        ("grey", lambda x: luma(x).expand_as(x)),
        ("solarise", lambda x: torch.where(x < 0.5, x, 1 - x)),
    ],
)
def test_probability_zero_never_changes_and_one_always_does(name, changed):
    images = pictures(50, 3, 8, 8)
    close(Augmentation(8, **{name: 0.0})(images, generator()), images)
    close(Augmentation(8, **{name: 1.0})(images, generator()), changed(images))


@pytest.mark.parametrize("settings", [{"jitter": 1.0, "brightness": 0.5}, {"blur": 1.0, "sigma": (1.0, 1.0)}])
def test_jitter_and_blur_of_probability_one_change_every_image(settings):
    images = pictures(50, 3, 8, 8)
    change = (Augmentation(8, **settings)(images, generator()) - images).abs().amax((1, 2, 3))
    assert change.min() > 1e-3


def test_probabilities_and_ranges_are_those_of_the_settings():
    n = 20_000
    settings = Augmentation(
        8, rotation=20, flip=0.3, jitter=0.8, brightness=0.4, contrast=1.6, saturation=0.2, hue=0.1, grey=0.2, blur=0.1,
        sigma=(0.5, 2.0), solarise=0.7,
    )  # fmt: skip
    draw = settings.draw(n, 3, 8, 8, generator())
    shares = {
        "flip": draw.flips, "jitter": draw.jitters, "grey": draw.greys, "blur": draw.sigmas > 0, "solarise": draw.solarises
    }  # fmt: skip
    for name, chosen in shares.items():
        p = getattr(settings, name)
        assert abs(chosen.double().mean() - p) < 5 * math.sqrt(p * (1 - p) / n), name
    ranges = [
        (draw.factors[:, 0], 0.6, 1.4), (draw.factors[:, 1], 0, 2.6), (draw.factors[:, 2], 0.8, 1.2), (draw.hue, -0.1, 0.1),
        (draw.sigmas[draw.sigmas > 0], 0.5, 2.0), (draw.angles, -math.radians(20), math.radians(20)),
    ]  # fmt: skip
    for values, low, high in ranges:
        width = high - low
        assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
        assert values.min() < low + 0.01 * width and values.max() > high - 0.01 * width
        assert abs(values.double().mean() - (low + high) / 2) < 5 * width / math.sqrt(12 * len(values))
    counts = torch.bincount((draw.order * torch.tensor([64, 16, 4, 1])).sum(1))
    counts = counts[counts > 0]
    assert len(counts) == 24 and (counts - n / 24).abs().max() < 5 * math.sqrt(n / 24)


def test_draws_of_different_operations_are_uncorrelated():
    n = 20_000
    draw = replace(EVERYTHING, noise=0).draw(n, 3, 8, 8, generator())
    columns = [
        draw.boxes,
        draw.angles[:, None],
        draw.flips[:, None],
        draw.jitters[:, None],
        draw.factors,
        draw.hue[:, None],
    ]
    columns += [draw.greys[:, None], draw.sigmas[:, None], draw.solarises[:, None], draw.order[:, :3]]
    matrix = torch.corrcoef(torch.cat([column.double() for column in columns], 1).T)
    matrix[:4, :4] = matrix[-3:, -3:] = 0  # sides of one box, and places in one order, do depend on each other
    assert (matrix - torch.diag(matrix.diag())).abs().max() < 5 / math.sqrt(n)


@given(
    seed=st.integers(0, 10**6), h=st.integers(1, 40), w=st.integers(1, 40), low=st.floats(0.05, 1), ratio=st.floats(0.2, 1)
)  # fmt: skip
def test_boxes_lie_inside_the_image_and_have_the_ratio(seed, h, w, low, ratio):
    boxes = random_boxes(20, h, w, scale=(low, 1.0), ratio=(ratio, 1 / ratio), generator=generator(seed)).double()
    top, left, height, width = boxes.T
    slack = 1e-5 * max(h, w)
    assert (boxes >= 0).all() and (top + height <= h + slack).all() and (left + width <= w + slack).all()
    assert (width / height >= ratio * (1 - 1e-5)).all() and (width / height <= (1 + 1e-5) / ratio).all()


def test_areas_and_places_of_boxes_are_uniform():
    n = 20_000
    top, left, height, width = random_boxes(
        n, 32, 32, scale=(0.2, 0.5), ratio=(0.75, 4 / 3), generator=generator()
    ).double().T  # fmt: skip
    # Half of the area with ratio 4/3 is 26.1 wide: every shape fits and none is drawn again.
    values = {
        "area": (height * width / 32**2 - 0.2) / 0.3, "ratio": ((width / height).log() / math.log(4 / 3) + 1) / 2,
        "top": top / (32 - height), "left": left / (32 - width),
    }  # fmt: skip
    for name, uniform in values.items():
        quantiles = uniform.sort().values
        distance = (quantiles - (torch.arange(n) + 0.5) / n).abs().max()
        assert distance < 2.2 / math.sqrt(n), name  # Kolmogorov-Smirnov at a level of 1e-4


def test_places_in_the_two_directions_are_independent():
    n = 20_000
    top, left, height, width = random_boxes(
        n, 32, 32, scale=(0.2, 0.5), ratio=(0.75, 4 / 3), generator=generator()
    ).T.double()  # fmt: skip
    shares = torch.stack([top / (32 - height), left / (32 - width)])
    assert abs(torch.corrcoef(shares)[0, 1]) < 5 / math.sqrt(n)


def test_the_ratio_is_width_by_height():
    height, width = random_boxes(50, 32, 32, scale=(0.1, 0.2), ratio=(1.5, 2.0), generator=generator()).T[2:]
    assert (1.499 < width / height).all() and (width / height < 2.001).all()


@pytest.mark.parametrize(("h", "w", "box"), [(8, 40, (0, 15, 8, 10)), (40, 8, (15, 0, 10, 8))])
def test_where_no_shape_fits_the_box_is_the_middle_of_the_image(h, w, box):
    ratio = (1.0, 1.25) if w > h else (0.8, 1.0)
    boxes = random_boxes(20, h, w, scale=(0.9, 1.0), ratio=ratio, generator=generator())
    torch.testing.assert_close(boxes, torch.tensor(box).float().expand(20, 4))


def test_shapes_that_do_not_fit_are_drawn_again():
    # Of whole-area shapes only those of ratio about 1 fit: the others must not be squeezed into the image.
    boxes = random_boxes(20_000, 32, 32, scale=(0.9, 0.9), ratio=(0.5, 2), generator=generator()).double()
    fitted = boxes[(boxes[:, 2:].prod(1) / 32**2 - 0.9).abs() < 1e-5]
    assert len(fitted) > 0.7 * len(
        boxes
    )  # a draw fits with probability log(1 / 0.9) / log 2 = 0.15: 1 - 0.85^10 = 0.80
    assert len(fitted) < 0.85 * len(boxes)
    others = boxes[(boxes[:, 2:].prod(1) / 32**2 - 0.9).abs() >= 1e-5]
    close(others, torch.tensor([0.0, 0, 32, 32], dtype=torch.float64))


def test_one_setting_leaves_the_draws_of_the_others():
    full = EVERYTHING.draw(4, 3, 8, 8, generator())
    less = replace(EVERYTHING, jitter=0, grey=0, blur=0, solarise=0, noise=0, flip=1).draw(4, 3, 8, 8, generator())
    for name in ("boxes", "angles", "factors", "hue", "order"):
        assert torch.equal(getattr(full, name), getattr(less, name)), name
    assert [less.jitters, less.greys, less.sigmas, less.solarises, less.noise] == [None] * 5


def test_bytes_are_divided_by_255():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floating = as_floating(images)
    assert floating.dtype == torch.float32 and floating.max() == 1
    torch.testing.assert_close(floating[0, 0, 0, 5].item(), 5 / 255, rtol=1e-7, atol=0)
    view = Augmentation(16)(images, generator())
    torch.testing.assert_close(view, floating, rtol=0, atol=1e-6)
    assert as_floating(pictures().half()).dtype == torch.float32


def test_autocast_does_not_change_a_view():
    images = pictures(4).float()
    expected = EVERYTHING(images, generator())
    with torch.autocast("cpu", torch.bfloat16):
        found = EVERYTHING(images, generator())
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_normalise_gives_each_channel_its_own_mean_and_deviation():
    images = pictures()
    mean, std = (0.1, 0.5, -2.0), (1.0, 0.25, 3.0)
    found = normalise(images, mean, std)
    for k in range(3):
        close(found[:, k], (images[:, k] - mean[k]) / std[k])


def test_splitmix64_is_the_published_generator():
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert splitmix64(1234567) == 6457827717110365317
    assert splitmix64(1234567 + 0x9E3779B97F4A7C15) == 3203168211198807973


KEY = {"seed": 3, "step": 5, "rank": 1, "view": 0}


def test_a_key_gives_the_same_views_whatever_ran_before():
    images = pictures()
    first = EVERYTHING(images, keyed_generator(**KEY, device="cpu"))
    torch.rand(1000)
    used = keyed_generator(**KEY, device="cpu")
    torch.rand(7, generator=used)
    assert torch.equal(EVERYTHING(images, keyed_generator(**KEY, device=torch.device("cpu"))), first)


@pytest.mark.parametrize("name", KEY)
def test_every_part_of_the_key_counts(name):
    def numbers(key):
        return torch.rand(1000, generator=keyed_generator(**key, device="cpu"), dtype=torch.float64)

    base, other = numbers(KEY), numbers({**KEY, name: KEY[name] + 1})
    correlation = torch.corrcoef(torch.stack([base, other]))[0, 1]
    assert not (base == other).any() and abs(correlation) < 5 / math.sqrt(1000)


def test_keys_with_numbers_in_other_places_differ():
    # 4^4 small keys: exchanged numbers or equal sums must not meet.
    small = [(a, b, c, d) for a in range(4) for b in range(4) for c in range(4) for d in range(4)]
    seeds = [
        keyed_generator(seed=a, step=b, rank=c, view=d, device="cpu").initial_seed() & 0xFFFFFFFF
        for a, b, c, d in small
    ]
    assert len(set(seeds)) == len(small)


def test_a_cpu_generator_takes_the_low_32_bits_of_a_seed():
    low, high = (torch.rand(4, generator=torch.Generator().manual_seed(seed)) for seed in (7, 7 + (5 << 32)))
    assert torch.equal(low, high)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, "flip must be a probability"),
        ({"blur": -0.1}, "blur must be a probability"),
        ({"grey": math.nan}, "grey must be a probability"),
        ({"brightness": -1.0}, "brightness must be finite"),
        ({"noise": math.inf}, "noise must be finite"),
        ({"hue": 0.6}, r"hue must be in \[0, 0.5\]"),
        ({"scale": (0.0, 1.0)}, "scale must be"),
        ({"scale": (0.5, 1.5)}, "scale must be shares"),
        ({"ratio": (2.0, 1.0)}, "ratio must be"),
        ({"sigma": (0.0, 1.0)}, "sigma must be"),
        ({"size": 0}, "size and radius must be"),
        ({"radius": 8, "blur": 0.5}, "radius must be below size 8"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**{"size": 8, **settings})


def test_bad_images_are_refused():
    with pytest.raises(ValueError, match="c = 1 or 3"):
        as_floating(torch.zeros(2, 4, 5, 5))
    with pytest.raises(ValueError, match="non-empty"):
        as_floating(torch.zeros(0, 3, 5, 5))
    with pytest.raises(ValueError, match=r"got torch\.int64"):
        as_floating(torch.zeros(2, 3, 5, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="one view for each of 3 images, got 2"):
        EVERYTHING.apply(pictures(3), EVERYTHING.draw(2, 3, 5, 7, generator()))
    with pytest.raises(ValueError, match="mean must be 3 finite numbers"):
        normalise(pictures(), (0.5,), (0.5,))
    with pytest.raises(ValueError, match="std must be 3 finite positive numbers"):
        normalise(pictures(), (0.5,) * 3, (0.5, 0.0, 0.5))
    with pytest.raises(ValueError, match="step must be in"):
        keyed_generator(seed=0, step=-1, rank=0, view=0, device="cpu")
    with pytest.raises(ValueError, match="known are simclr, byol, stl, digits"):
        preset("moco", 32)


def test_presets_hold_the_published_numbers():
    big, small = preset("simclr", 224)[0], preset("simclr", 32)[0]
    assert (big.brightness, big.contrast, big.saturation, big.hue, big.jitter, big.grey) == (
        0.8,
        0.8,
        0.8,
        0.2,
        0.8,
        0.2,
    )
    assert (big.blur, big.radius, big.sigma, big.scale, big.flip) == (0.5, 11, (0.1, 2.0), (0.08, 1.0), 0.5)
    assert (small.brightness, small.hue, small.blur) == (0.4, 0.1, 0)
    first, second = preset("byol", 224)
    assert (first.blur, first.solarise, second.blur, second.solarise) == (1.0, 0.0, 0.1, 0.2)
    assert replace(second, blur=1.0, solarise=0.0) == first
    assert (first.brightness, first.contrast, first.saturation, first.hue) == (0.4, 0.4, 0.2, 0.1)
    stl = preset("stl", 96)[0]
    assert (stl.scale, stl.grey, stl.blur, stl.brightness, stl.hue) == ((0.2, 1.0), 0.1, 0, 0.4, 0.1)
    digits = preset("digits", 8)[0]
    assert (digits.flip, digits.jitter, digits.noise) == (0, 0, 0.05)
