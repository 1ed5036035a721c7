"""Decoded pictures in the cache folder: made once, found again, made anew where broken; and whether there is room for them."""

import json
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import ImageOps

from grassmann_ssl.data import picture_cache, room, stored
from grassmann_ssl.data.batches import load_split
from grassmann_ssl.data.files import parts
from grassmann_ssl.data.pictures import image_folder
from grassmann_ssl.data.stored import StoredImages
from tests.data.test_files import random_bytes, write_picture


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(stored, "HELD", 0)
    return tmp_path / "cache" / "grassmann_ssl"


def write_set(folder, test=True):
    for k, name in enumerate(("a", "b")):
        for part in ("train", "test") if test else ("train",):
            for i in range(3):
                path = folder / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_picture(path, random_bytes(6, 5, 3, seed=10 * k + i))
    return folder


class Ticks:
    """A progress that counts."""

    def __init__(self):
        self.total, self.labels = None, Counter()

    def __call__(self, total):
        self.total = total
        return lambda label: self.labels.update([label])


def read_both(folder, progress=None, **options):
    return [read() for read in parts("folder", folder, progress, **options) if read is not None]


@pytest.mark.parametrize("size", [None, 4])
def test_pictures_from_the_cache_are_those_decoded(tmp_path, monkeypatch, cache, size):
    folder = write_set(tmp_path / "set")
    with monkeypatch.context() as small:
        small.setattr(stored, "HELD", 2**20)
        whole = read_both(folder, size=size)
    assert not cache.exists()
    made, ticks = read_both(folder, size=size), Ticks()
    again = read_both(folder, ticks, size=size)
    assert ticks.total == 24 and not ticks.labels  # neither headers nor pictures are read again
    for found in (made, again):
        for one, other in zip(found, whole, strict=True):
            assert isinstance(one.images, StoredImages) and torch.equal(one.images[:], other.images)
            assert torch.equal(one.labels, other.labels) and one.classes == other.classes
            assert one.notes == (*other.notes, f"decoded in {next(cache.glob('*/'))}")


def test_the_cache_is_plain_numpy(tmp_path, cache):
    image = image_folder(write_set(tmp_path / "set") / "train").images[:]
    (path,) = cache.glob("*/0.npy")
    assert np.array_equal(np.load(path), image)
    assert sorted(os.listdir(path.parent)) == ["0.npy", "about.json"]


def test_it_says_how_far_it_is_where_it_is_and_how_large(tmp_path, cache, capsys):
    ticks = Ticks()
    read_both(write_set(tmp_path / "set"), ticks)
    assert ticks.total == 24 and ticks.labels == {"headers of pictures": 12, "pictures": 12}
    (entry,) = cache.glob("*/")
    assert capsys.readouterr().err == f"decoding 12 pictures, once, into {entry} (1.08 kB)\n"


def test_changed_pictures_are_decoded_anew(tmp_path, cache):
    folder = write_set(tmp_path / "set", test=False)
    first = image_folder(folder / "train").images[:]
    changed = folder / "train" / "a" / "1.png"
    write_picture(changed, random_bytes(6, 5, 3, seed=99))
    os.utime(changed, ns=(1, 1))
    found = image_folder(folder / "train").images[:]
    assert not torch.equal(found, first) and torch.equal(found[[0, 2, 3, 4, 5]], first[[0, 2, 3, 4, 5]])
    changed.unlink()
    assert len(image_folder(folder / "train").images) == 5
    assert len(list(cache.glob("*/"))) == 3


def cut(entry):
    os.truncate(entry / "0.npy", 300)


def other_header(entry):
    content = bytearray((entry / "0.npy").read_bytes())
    content[30] ^= 1
    (entry / "0.npy").write_bytes(content)


def other_key(entry):
    about = json.loads((entry / "about.json").read_text())
    (entry / "about.json").write_text(json.dumps({**about, "key": "x"}))


def other_count(entry):
    about = json.loads((entry / "about.json").read_text())
    (entry / "about.json").write_text(json.dumps({**about, "shapes": [], "moving": []}))


BREAKS = {
    "cut": cut,
    "other header": other_header,
    "other key": other_key,
    "other count": other_count,
    "no about": lambda entry: (entry / "about.json").unlink(),
    "no json": lambda entry: (entry / "about.json").write_text("]"),
    "no object": lambda entry: (entry / "about.json").write_text("[]"),
    "gone": shutil.rmtree,
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_or_foreign_entry_is_made_anew(tmp_path, cache, how):
    folder = write_set(tmp_path / "set", test=False) / "train"
    images = image_folder(folder).images
    first, before = images[:], images.fingerprint
    (entry,) = cache.glob("*/")
    BREAKS[how](entry)
    again = image_folder(folder).images
    assert torch.equal(again[:], first) and again.fingerprint == before
    assert list(cache.glob("*/")) == [entry] and len(np.load(entry / "0.npy")) == 6


def test_a_picture_that_breaks_off_leaves_nothing(tmp_path, cache):
    folder = write_set(tmp_path / "set", test=False) / "train"
    path = folder / "b" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"2\.png cannot be read as a picture"):
        image_folder(folder)
    assert not list(cache.glob("*/"))


def test_what_a_killed_process_left_is_replaced(tmp_path, cache):
    folder = write_set(tmp_path / "set", test=False) / "train"
    first = image_folder(folder).images[:]
    (entry,) = cache.glob("*/")
    entry.rename(entry.with_suffix(".part"))
    (entry.with_suffix(".part") / "about.json").unlink()
    assert torch.equal(image_folder(folder).images[:], first) and list(cache.glob("*/")) == [entry]


def test_of_several_that_need_the_same_one_decodes(tmp_path, monkeypatch, cache):
    """Locks of two files that were opened in one process hold each other off as those of two processes do."""
    folder = write_set(tmp_path / "set", test=False) / "train"
    decoded = []
    upright = ImageOps.exif_transpose
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda picture: decoded.append(1) or upright(picture))
    with ThreadPoolExecutor(4) as pool:
        found = [images.images[:] for images in pool.map(image_folder, [folder] * 4)]
    assert len(decoded) == 6 and all(torch.equal(one, found[0]) for one in found)


def test_a_random_third_of_a_cached_folder_is_held_out(tmp_path, monkeypatch, cache):
    folder = write_set(tmp_path / "set", test=False) / "train"
    found = load_split(f"folder:{folder}", torch.Generator().manual_seed(1))
    monkeypatch.setattr(stored, "HELD", 2**20)
    whole = load_split(f"folder:{folder}", torch.Generator().manual_seed(1))
    assert torch.equal(found.train[:], whole.train) and torch.equal(found.test[:], whole.test)


def refuse_decoding(monkeypatch):
    def decoded(*_):
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", decoded)


def test_too_little_room_is_said_before_any_picture_is_decoded(tmp_path, monkeypatch, cache):
    """12 pictures of 6 x 5 x 3 bytes are 1080."""
    folder = write_set(tmp_path / "set")
    refuse_decoding(monkeypatch)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1079))
    needed = rf"set/train: 12 pictures of 3 x 6 x 5: 1\.08 kB are needed on the disk of {cache}, and 1\.08 kB are free"
    with pytest.raises(ValueError, match=needed):
        read_both(folder)
    assert not list(cache.glob("*/"))
    monkeypatch.setattr(stored, "HELD", 1080)
    monkeypatch.setattr(room, "free_memory", lambda: 1079)
    with pytest.raises(
        ValueError, match=r"12 pictures of 3 x 6 x 5: 1\.08 kB of memory are needed, and 1\.08 kB are free"
    ):
        read_both(folder)


def test_a_full_disk_and_a_cache_that_cannot_be_written_are_one_line(tmp_path, monkeypatch, cache):
    folder = write_set(tmp_path / "set")
    with monkeypatch.context() as full:
        refuse_decoding(full)
        full.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
        with pytest.raises(ValueError, match=f"{cache} cannot be written: No space left on device; XDG_CACHE_HOME"):
            read_both(folder)
    assert not list(cache.glob("*/"))
    shutil.rmtree(cache.parent)
    cache.parent.write_text("")
    with pytest.raises(ValueError, match=f"{cache} cannot be written: Not a directory"):
        read_both(folder)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1281167, 3, 224, 224), (12345, 1, 999, 10)])
def test_the_header_is_that_of_numpy(tmp_path, shape):
    header = picture_cache.npy_header(shape)
    (tmp_path / "x.npy").write_bytes(header)
    with (tmp_path / "x.npy").open("rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == (shape, False, np.dtype("u1"))
    assert not len(header) % 64


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 bytes"), (999, "999 bytes"), (3 * 2**30, "3.22 GB"), (5e15, "5000 TB")]
)
def test_sizes_in_words(count, words):
    assert room.in_words(int(count)) == words


def test_free_memory_is_known_here():
    free = room.free_memory()
    assert free is None or 0 < free < 2**50
