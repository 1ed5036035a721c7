"""The source of emoji on small packages in the real format, whole and damaged, and the split that keeps like pictures together."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from grassmann_ssl.data.batches import load_split
from grassmann_ssl.data.emoji import emoji, kind_of
from grassmann_ssl.data.files import load

TONES = ("1F3FB", "1F3FF")


def entry(unified, category, tones=(), **more):
    return {
        "name": "NAME",
        "unified": unified,
        "image": f"{unified.lower()}.png",
        "category": category,
        "sort_order": 1,
        "has_img_apple": True,
        "has_img_google": True,
        **({"skin_variations": {tone: _toned(unified, tone) for tone in tones}} if tones else {}),
        **more,
    }


def _toned(unified, tone):
    first, *rest = unified.split("-")
    return {key: value for key, value in entry("-".join([first, tone, *rest]), "").items() if key != "category"}


def write(folder, entries, size=8, colour=None):
    """A package of these emoji, each picture of one colour on a transparent ground; `colour` maps a file name to its own."""
    pictures = folder / "img" / "google" / "64"
    pictures.mkdir(parents=True)
    (folder / "emoji.json").write_text(json.dumps(entries))
    (folder / "package.json").write_text('{"name": "emoji-datasource-google"}')
    rng = np.random.default_rng(0)
    for one in entries:
        for shown in (one, *one.get("skin_variations", {}).values()):
            pixels = np.full(
                (size, size, 4), (200, 10, 10, 0), np.uint8
            )  # what is transparent has a colour, which is not seen
            pixels[2:6, 2:6] = (*rng.integers(0, 256, 3), 255)
            pixels[2:6, 2:6, :3] = (colour or {}).get(shown["image"], pixels[2, 2, :3])
            Image.fromarray(pixels).save(pictures / shown["image"])
    return folder


RUNNER, FLAG, CAT = entry("1F3C3", "People & Body", TONES), entry("1F1E6-1F1E9", "Flags"), entry("1F408", "Animals")
WOMAN_RUNNING = entry("1F3C3-200D-2640-FE0F", "People & Body", TONES)
SET = [RUNNER, FLAG, CAT, WOMAN_RUNNING, entry("0023-FE0F-20E3", "Symbols")]


def test_a_package_is_read_with_its_classes_and_groups(tmp_path):
    found = load("emoji", write(tmp_path, SET))
    assert tuple(found.images.shape) == (9, 3, 8, 8) and found.images.dtype == torch.uint8
    assert found.classes == ("Animals", "Flags", "People & Body", "Symbols")
    assert found.labels.tolist() == [2, 2, 2, 1, 0, 2, 2, 2, 3]
    # The runner in all tones and genders is one group.
    groups = found.groups.tolist()
    assert len(set(groups)) == 4 and len({groups[k] for k in (0, 1, 2, 5, 6, 7)}) == 1
    assert found.notes == ("4 groups of pictures that are alike",)


def test_what_is_transparent_is_white(tmp_path):
    images = emoji(write(tmp_path, [FLAG], colour={FLAG["image"]: (1, 2, 3)})).images
    assert images[0, :, 0, 0].tolist() == [255, 255, 255] and images[0, :, 3, 3].tolist() == [1, 2, 3]
    half = np.full((8, 8, 4), (0, 0, 0, 128), np.uint8)
    Image.fromarray(half).save(tmp_path / "img/google/64" / FLAG["image"])
    assert emoji(tmp_path).images.unique().tolist() == [127]


def test_equal_pictures_are_one_group(tmp_path):
    """As flags of dependent territories are."""
    a, b, c = (entry(f"1F1E6-1F1E{k}", "Flags") for k in (6, 7, 8))
    found = emoji(
        write(tmp_path, [a, b, c], colour={a["image"]: (9, 9, 9), c["image"]: (9, 9, 9), b["image"]: (7, 9, 9)})
    )
    assert found.groups.tolist() == [0, 1, 0]


def test_pictures_are_joined_through_others(tmp_path):
    """The first and the last have neither kind nor pixels in common."""
    other = entry("1F46F", "People & Body")
    found = emoji(write(tmp_path, [RUNNER, other], colour={"1f3c3-1f3ff.png": (5, 5, 5), other["image"]: (5, 5, 5)}))
    assert set(found.groups.tolist()) == {0}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1F44B", "1F44B-1F3FD"),  # a hand and its tone
        ("1F468-200D-1F680", "1F469-1F3FB-200D-1F680"),  # astronauts
        ("1F9D1-200D-1F680", "1F469-1F3FB-200D-1F680"),
        ("1F6B6", "1F6B6-200D-2640-FE0F-200D-27A1-FE0F"),  # walks to the other side
        ("1F468-200D-1F9B0", "1F469"),  # hair
        ("1F46C", "1F9D1-1F3FB-200D-1F91D-200D-1F9D1-1F3FF"),  # hand in hand
        ("1F491", "1F469-200D-2764-FE0F-200D-1F468"),
        ("1F474", "1F9D3"),
    ],
)
def test_variants_are_of_one_kind(one, other):
    assert kind_of(one) == kind_of(other)


def test_others_are_of_other_kinds():
    kinds = [
        "1F3FB",
        "1F3FC",
        "1F1E6-1F1E9",
        "1F1E6-1F1EA",
        "1F44B",
        "1F44C",
        "1F9D1-200D-1F680",
        "1F9D1-200D-1F692",
        "2640-FE0F",
    ]
    assert len({kind_of(one) for one in kinds}) == len(kinds)


def test_a_split_parts_no_group(tmp_path):
    write(tmp_path, SET + [entry(f"1F60{k}", "Faces", TONES) for k in range(9)])
    whole = emoji(tmp_path)
    for seed in range(8):
        split = load_split(f"emoji:{tmp_path}", torch.Generator().manual_seed(seed))
        parts = [
            {int((whole.images == image).flatten(1).all(1).nonzero()[0, 0]) for image in part}
            for part in (split.train, split.test)
        ]
        groups = [set(whole.groups[sorted(part)].tolist()) for part in parts]
        assert not groups[0] & groups[1] and len(parts[0]) + len(parts[1]) == 36 and 6 <= len(parts[1]) <= 12
    assert "these a random third in whole groups" in split.described


def test_one_group_alone_cannot_be_split(tmp_path):
    write(tmp_path, [RUNNER])
    with pytest.raises(ValueError, match=r"whole groups .* at least 2 are needed, got 1"):
        load_split(f"emoji:{tmp_path}", torch.Generator())


def test_what_google_has_not_is_counted(tmp_path):
    found = emoji(write(tmp_path, [FLAG, CAT | {"has_img_google": False}]))
    assert len(found.images) == 1 and found.classes == ("Flags",)
    assert "1 without a picture of Google" in found.notes[-1]


def test_pictures_are_resized(tmp_path):
    assert tuple(load("emoji", write(tmp_path, SET), size=4).images.shape) == (9, 3, 4, 4)


def broken(folder, content):
    write(folder, SET)
    (folder / "emoji.json").write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "emoji.json cannot be read: Expecting"),
        ("[" * 100_000, "emoji.json cannot be read"),
        ({"a": 1}, "must hold a list of emoji, got dict"),
        ([3], "emoji 0 must have category, unified, image and has_img_google"),
        ([FLAG, CAT | {"category": ""}], "emoji 1 must have category"),
        ([FLAG | {"category": None}], "emoji 0 must have category"),
        ([FLAG | {"image": "../../../secret.png"}], "emoji 0 must have category"),
        ([FLAG | {"unified": "1F1E6 "}], "emoji 0 must have category"),
        ([FLAG | {"has_img_google": 1}], "emoji 0 must have category"),
        ([FLAG | {"skin_variations": [1]}], "skin_variations of emoji 0 must be a table, got list"),
        ([FLAG | {"skin_variations": {"1F3FB": 1}}], "emoji 0 must have category"),
        ([FLAG, FLAG], "has the picture 1f1e6-1f1e9.png twice"),
        ([], "lacks 0 of 0 pictures: the unpacked npm package emoji-datasource-google"),
        ([FLAG, entry("1F6F8", "Flags")], "lacks 1 of 2 pictures, such as .*1f6f8.png: the unpacked npm package"),
    ],
)
def test_a_broken_list_is_refused(tmp_path, content, message):
    broken(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        emoji(tmp_path)


def test_another_folder_and_a_broken_picture_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"has no emoji.json: the unpacked npm package emoji-datasource-google, with emoji.json"
    ):
        load_split(f"emoji:{tmp_path}", torch.Generator())
    write(tmp_path, SET)
    (tmp_path / "img/google/64" / CAT["image"]).write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match=r"1f408\.png cannot be read as a picture"):
        emoji(tmp_path)
