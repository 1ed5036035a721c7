"""Images that stay in their file: bit for bit those in memory, wherever they are used, and read ahead."""

import gc
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from grassmann_ssl.data import stored
from grassmann_ssl.data.batches import Split, Views, augmentations, load_split
from grassmann_ssl.data.files import load
from grassmann_ssl.data.stored import StoredImages, subset
from grassmann_ssl.distributed import Process
from tests.data.test_files import random_bytes, write_idx, write_stl10

ALONE = Process(0, 1, torch.device("cpu"))


def npy(shape):
    def write(folder):
        np.save(folder / "x.npy", random_bytes(*shape))
        return "arrays", folder / "x.npy"

    return write


def safetensors(folder):
    content = {"images": torch.from_numpy(random_bytes(5, 6, 4, 3)), "a": torch.ones(3), "labels": torch.arange(5)}
    save_file(content, folder / "x.safetensors")
    return "arrays", folder / "x.safetensors"


def stl10(folder):
    write_stl10(folder)
    return "stl10", folder


def idx(folder):
    write_idx(folder)
    return "idx", folder


WRITERS = {
    "grey": npy((6, 5, 4)),
    "channels first": npy((6, 3, 5, 4)),
    "channels last": npy((6, 5, 4, 3)),
    "safetensors": safetensors,
    "stl10": stl10,
    "idx": idx,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_stays_in_the_file_is_what_is_read(tmp_path, monkeypatch, kind):
    name, path = WRITERS[kind](tmp_path)
    whole = load(name, path)
    monkeypatch.setattr(stored, "HELD", 0)
    found = load(name, path)
    assert isinstance(whole.images, torch.Tensor) and isinstance(found.images, StoredImages)
    assert found.classes == whole.classes and len(found.images) == len(whole.images)
    assert found.images.shape == whole.images.shape
    assert torch.equal(found.images[:], whole.images) and found.images[:].is_contiguous()
    assert torch.equal(torch.stack(list(found.images)), whole.images)
    assert torch.equal(found.images[-1], whole.images[-1])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same images in a file and in memory."""
    path = tmp_path_factory.mktemp("stored") / "x.bin"
    pixels = random_bytes(20, 2, 3, 1)
    path.write_bytes(b"head" + pixels.tobytes())
    return StoredImages.of(path, 20, 4, (2, 3, 1), axes=(2, 0, 1)), torch.from_numpy(pixels).permute(0, 3, 1, 2)


places = st.integers(-20, 19)
slices = st.builds(slice, *[st.none() | st.integers(-25, 25)] * 2, st.none() | st.integers(1, 4))


@given(key=st.one_of(places, slices, st.lists(places).map(lambda rows: torch.tensor(rows, dtype=torch.long))))
def test_it_is_indexed_as_a_tensor(both, key):
    file, memory = both
    order = torch.tensor([3, 4, 5, 0, 19, 18, 4, 4, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14])
    assert torch.equal(file[key], memory[key])
    assert torch.equal(file.part(order)[key], memory[order][key])
    if not isinstance(key, int):
        file.ahead(key)
        assert torch.equal(subset(file, key)[:], subset(memory, key))


def test_an_image_that_is_not_there_is_an_index_error(both):
    with pytest.raises(IndexError):
        both[0][20]


def test_neighbours_are_read_together(both, monkeypatch):
    file, _ = both
    reads = []
    monkeypatch.setattr(stored.OpenFile, "read_into", lambda self, buffer, offset: reads.append((len(buffer), offset)))
    file[torch.tensor([3, 4, 5, 1, 0, 7])]
    assert reads == [(3, 4 + 3 * 6), (1, 4 + 6), (1, 4), (1, 4 + 7 * 6)]


def test_a_file_that_is_cut_short_meanwhile_is_said(tmp_path):
    np.save(tmp_path / "x.npy", random_bytes(6, 5, 4))
    file = StoredImages.of(tmp_path / "x.npy", 6, 128, (1, 5, 4))
    os.truncate(tmp_path / "x.npy", 200)
    assert file[:3].shape == (3, 1, 5, 4)
    with pytest.raises(ValueError, match=r"x\.npy was cut short while it was in use"):
        file[torch.tensor([1, 5])]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not list the files of a process")
def test_the_file_is_closed_with_the_last_of_its_images(tmp_path):
    np.save(tmp_path / "x.npy", random_bytes(6, 5, 4))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    some = StoredImages.of(tmp_path / "x.npy", 6, 128, (1, 5, 4)).part(slice(2))
    assert len(os.listdir("/proc/self/fd")) == before + 1 and some[0].any()
    del some
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_other_content_has_another_fingerprint(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, random_bytes(6, 5, 4))

    def one():
        return StoredImages.of(path, 6, 128, (1, 5, 4))

    first = one()
    assert first.fingerprint == one().fingerprint != first.part(slice(3)).fingerprint
    os.utime(path, ns=(1, 1))
    assert one().fingerprint != first.fingerprint
    split = Split(first, None, first.part(slice(3)), None)
    assert split.fingerprint == Split(first, None, first.part(slice(3)), None).fingerprint
    assert split.fingerprint != Split(one(), None, first.part(slice(3)), None).fingerprint


def test_a_random_third_is_held_out_in_the_file(tmp_path, monkeypatch):
    name, path = WRITERS["channels last"](tmp_path)
    whole = load_split(f"{name}:{path}", torch.Generator().manual_seed(1))
    monkeypatch.setattr(stored, "HELD", 0)
    found = load_split(f"{name}:{path}", torch.Generator().manual_seed(1)).to(torch.device("cpu"))
    assert isinstance(found.train, StoredImages) and isinstance(found.test, StoredImages)
    assert torch.equal(found.train[:], whole.train) and torch.equal(found.test[:], whole.test)
    assert found.described == whole.described


def views_of(split, batch=2):
    return Views(split.train, augmentations("simclr", "arrays:x", 4), batch, 5, ALONE)


def test_batches_are_those_in_memory_and_read_one_ahead(both, monkeypatch):
    file, memory = both
    asked = []
    monkeypatch.setattr(StoredImages, "ahead", lambda self, rows: asked.append(rows.tolist()))
    from_file, from_memory = (views_of(Split(images, None, images, None), 6) for images in (file, memory))
    wanted = []
    for index in range(7):  # over the ends of epochs, of three batches each
        wanted.append(from_memory.chosen(index + 1).tolist())
        for one, other in zip(from_file(index), from_memory(index), strict=True):
            assert torch.equal(one, other)
    assert asked == wanted
