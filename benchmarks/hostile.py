"""What do hostile files do? `python -m benchmarks.hostile` alters valid files of every loader, and loads them.

A case is one loader and its files, of which one is altered: bytes are cut, flipped, inserted, repeated or zeroed, numbers are blown up, or
it is replaced by a bomb of its kind. Each case must load or raise ValueError (ConfigError is one) in one line within 20 s, change no file
and write none, and take no more memory than twice what files and result take (and one picture, of at most 179 megapixels), and 64 MiB.
Processes that die are counted and started again.
The result is written to benchmarks/results/hostile-cpu.json; the exit code is 1 where a case broke a rule.
"""

import gzip
import io
import json
import multiprocessing
import os
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import tyro

from benchmarks.harness import environment, resident_peak, write
from grassmann_ssl.data.array_files import load_array, load_column
from grassmann_ssl.data.batches import Split, load_split
from grassmann_ssl.data.stored import StoredImages
from grassmann_ssl.experiments.encoders.train import train
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.experiments.encoders.trained_encoder import load_encoder
from grassmann_ssl.runs import Outcome, setting, toml
from grassmann_ssl.runs.load import load_runs

SECONDS = 20
PICTURE = 4 * 178_956_970  # the largest picture that Pillow decodes
SLACK = 64 * 2**20
SCRIPT = "<script>alert(1)</script>"


@dataclass(frozen=True)
class Loader:
    """A loader, and valid files for it.

    write(folder)   makes the files
    load(folder)    loads them
    stated          bytes that loading takes beside files and result, as documented
    """

    write: Callable[[Path], None]
    load: Callable[[Path], object]
    stated: int = 0


def _data(spec: str, **options: Any) -> Callable[[Path], object]:
    """As a command loads images: with every image read."""

    def load(folder: Path) -> Split:
        with setting("data"):
            split = load_split(
                f"{spec.partition(':')[0]}:{folder / spec.partition(':')[2]}", torch.Generator(), **options
            )
        for images in (split.train, split.test):
            if isinstance(images, StoredImages):
                images[:2]
        return split

    return load


def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _cifar10(folder: Path) -> None:
    for name in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        (folder / f"{name}.bin").write_bytes(b"".join(bytes([k]) + _pixels(3072).tobytes() for k in range(2)))
    (folder / "batches.meta.txt").write_text("\n".join(f"class {k} {SCRIPT}" for k in range(10)))


def _cifar100(folder: Path) -> None:
    for name in ("train", "test"):
        (folder / f"{name}.bin").write_bytes(b"".join(bytes([1, k]) + _pixels(3072).tobytes() for k in range(3)))


def _stl10(folder: Path) -> None:
    for name in ("train", "test"):
        (folder / f"{name}_X.bin").write_bytes(_pixels(3, 27648).tobytes())
        (folder / f"{name}_y.bin").write_bytes(bytes([1, 2, 10]))


def _idx(pack: Callable[[bytes], bytes], ending: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for part in ("train", "t10k"):
            images = struct.pack(">4I", 0x803, 4, 5, 6) + _pixels(120).tobytes()
            labels = struct.pack(">2I", 0x801, 4) + bytes([0, 1, 2, 1])
            for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
                (folder / f"{part}-{kind}-ubyte{ending}").write_bytes(pack(content))

    return make


def _pictures(ending: str, **options: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from PIL import Image

        for part in ("train", "test"):
            for name in ("a", "b\n\x1b[31m" + SCRIPT.replace("/", "")):
                at = folder / part / name
                at.mkdir(parents=True)
                for k in range(2):
                    Image.fromarray(_pixels(9, 8, 3)).save(at / f"{k}{ending}", **options)

    return make


def _emoji(folder: Path) -> None:
    from PIL import Image

    pictures = folder / "img" / "google" / "64"
    pictures.mkdir(parents=True)
    entries = [
        {"category": category, "unified": code, "image": f"{code.lower()}.png", "has_img_google": True, "name": SCRIPT}
        for category, code in (("Flags", "1F3C1"), ("Symbols", "0023-20E3"), (SCRIPT, "1F408"))
    ]
    entries[0]["skin_variations"] = {"1F3FB": entries[0] | {"unified": "1F3C1-1F3FB", "image": "1f3c1-1f3fb.png"}}
    (folder / "emoji.json").write_text(json.dumps(entries))
    for k, name in enumerate(("1f3c1", "1f3c1-1f3fb", "0023-20e3", "1f408")):  # equal ones would be one group
        Image.fromarray(np.roll(_pixels(9, 8, 4), k, 0)).save(pictures / f"{name}.png")


def _npy(folder: Path) -> None:
    np.save(folder / "x.npy", _pixels(6, 3, 5, 4))
    np.save(folder / "labels.npy", np.arange(6) % 3)


def _npz(save: Callable[..., None]) -> Callable[[Path], None]:
    return lambda folder: save(folder / "x.npz", images=_pixels(6, 3, 5, 4), labels=np.arange(6) % 3)


def _safetensors(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"images": _pixels(6, 3, 5, 4), "labels": np.arange(6) % 3}, folder / "x.safetensors")


def _embeddings(ending: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from safetensors.numpy import save_file

        path, rows = folder / f"x{ending}", np.random.default_rng(0).standard_normal((12, 4))
        if ending == ".npy":
            np.save(path, rows)
        elif ending == ".npz":
            np.savez(path, z=rows)
        elif ending == ".safetensors":
            save_file({"z": rows}, path)
        elif ending == ".csv":
            np.savetxt(path, rows, delimiter=",", header=f"a,b,{SCRIPT},d", comments="")
        else:
            pq.write_table(pa.table({"z": list(rows)} if ending == ".parquet" else {}), path)

    return make


def _column(ending: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, words = folder / f"x{ending}", ["a", "b", SCRIPT] * 4
        if ending == ".npy":
            np.save(path, np.array(words))
        elif ending == ".csv":
            path.write_text("label\n" + "\n".join(words) + "\n")
        else:
            pq.write_table(pa.table({"label": words}), path)

    return make


CONFIG = TrainConfig.of(steps=2, batch=8, records=2, dim=2, hidden=4, encoder="linear")


def _toml(folder: Path) -> None:
    (folder / "x.toml").write_text(toml.dumps("train", CONFIG.values()))


def _load_toml(folder: Path) -> object:
    return TrainConfig.of(**toml.load(folder / "x.toml", TrainConfig))


def _arrays(folder: Path) -> object:
    return _data("arrays:x.npy", labels=str(folder / "labels.npy"))(folder)


def _loading(load: Callable[[Path], object], name: str) -> Callable[[Path], object]:
    return lambda folder: load(folder / name)


class _RunFolder:
    """The files of one small training, made once."""

    files: dict[str, bytes] | None = None

    def __call__(self, folder: Path) -> None:
        if self.files is None:
            outcome = train(CONFIG)
            assert outcome is not None
            outcome.save(folder)
            self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


_run = _RunFolder()
LOADERS = {
    "cifar10": Loader(_cifar10, _data("cifar10:")),
    "cifar100": Loader(_cifar100, _data("cifar100:")),
    "stl10": Loader(_stl10, _data("stl10:")),
    "idx": Loader(_idx(bytes, ""), _data("idx:")),
    "idx.gz": Loader(_idx(gzip.compress, ".gz"), _data("idx:")),
    **{
        f"folder {ending}": Loader(_pictures(ending, **options), _data("folder:", size=size), PICTURE)
        for ending, options, size in (
            (".png", {}, None), (".jpg", {}, None), (".gif", {}, 4), (".webp", {}, 4), (".bmp", {}, 4), (".tif", {}, None),
            (".tiff", {"compression": "tiff_lzw"}, 4),
        )
    },
    "emoji": Loader(_emoji, _data("emoji:"), PICTURE),
    "arrays .npy": Loader(_npy, _arrays),
    "arrays .npz": Loader(_npz(np.savez), _data("arrays:x.npz")),
    "arrays .npz, compressed": Loader(_npz(np.savez_compressed), _data("arrays:x.npz")),
    "arrays .safetensors": Loader(_safetensors, _data("arrays:x.safetensors")),
    **{
        f"load_array {ending}": Loader(_embeddings(ending), _loading(load_array, f"x{ending}"))
        for ending in (".npy", ".npz", ".safetensors", ".parquet", ".csv")
    },
    **{
        f"load_column {ending}": Loader(_column(ending), _loading(load_column, f"x{ending}"))
        for ending in (".npy", ".parquet", ".csv")
    },
    "settings": Loader(_toml, _load_toml),
    "Outcome.load": Loader(_run, Outcome.load),
    "load_runs": Loader(_run, load_runs),
    "load_encoder": Loader(_run, load_encoder),
}  # fmt: skip


# --- what is done to a file


def _span(content: bytearray, random: Random) -> tuple[int, int]:
    start = random.randrange(len(content) + 1)
    return start, min(len(content), start + random.choice((1, 2, 4, 8, 32, 200)))


def _cut(content: bytearray, random: Random) -> None:
    del content[random.randrange(len(content) + 1) :]


def _flip(content: bytearray, random: Random) -> None:
    # Headers are at the start or, of zip and parquet, at the end.
    near = random.choice((len(content), 128, -256))
    for _ in range(random.choice((1, 1, 3, 20))):
        place = (
            random.randrange(max(0, len(content) + near), len(content))
            if near < 0
            else random.randrange(min(near, len(content)))
        )
        content[place] ^= 1 << random.randrange(8)


def _insert(content: bytearray, random: Random) -> None:
    start, _ = _span(content, random)
    content[start:start] = random.randbytes(random.choice((1, 3, 64)))


def _remove(content: bytearray, random: Random) -> None:
    start, end = _span(content, random)
    del content[start:end]


def _repeat(content: bytearray, random: Random) -> None:
    start, end = _span(content, random)
    content[start:start] = content[start:end] * random.choice((1, 2, 50))


def _zero(content: bytearray, random: Random) -> None:
    start, end = _span(content, random)
    content[start:end] = bytes(end - start)


def _blow_up(content: bytearray, random: Random) -> None:
    """A digit, or a number of 4 or 8 bytes, becomes a large one."""
    digits = [k for k, byte in enumerate(content[:4096]) if 48 <= byte < 58]
    if digits and random.random() < 0.7:
        place = random.choice(digits)
        content[place : place + 1] = random.choice(
            (b"9" * 5, b"9" * 12, b"9" * 25, b"-1", b"1e9", b"0", b"nan", b"1.5")
        )
    else:
        start, _ = _span(content, random)
        content[start : start + 8] = random.choice(
            (b"\xff" * 8, b"\xff" * 4, b"\x7f" + b"\xff" * 7, b"\x00" * 7 + b"\x10")
        )


def _words(content: bytearray, random: Random) -> None:
    start, _ = _span(content, random)
    content[start:start] = random.choice(
        (
            SCRIPT.encode(),
            b"\x1b[2J",
            b"\r\n\r\n",
            b"\x00",
            "\u202e\ud7ff".encode(),
            b"../../../",
            b"[" * 3000,
            b'{"a":' * 3000,
        )
    )


def _random(content: bytearray, random: Random) -> None:
    content[:] = random.randbytes(random.choice((0, 1, 9, 500)))


def _bomb(content: bytearray, random: Random, name: str) -> None:
    """A file of the same kind that claims, or holds, far more than it should."""
    kind = Path(name).suffix
    bombs = BOMBS.get(kind)
    if bombs is None:
        _blow_up(content, random)
    else:
        content[:] = random.choice(bombs)(random)


CHANGES = (_cut, _flip, _insert, _remove, _repeat, _zero, _blow_up, _words, _random)


def npy_bomb(random: Random) -> bytes:
    shape = random.choice(
        ("(1000000000000,)", "(99999, 99999, 3, 3)", "(-1, 3, 4, 4)", "(2.5,)", "('a',)", "(0, 0)", "((((1,),),),)",
         "(6, 3, 5, 4)", "(" * 900 + ")" * 900, "(10**9,)", "(9223372036854775807, 9223372036854775807)", "[6]", "None",
         "(" + "1, " * 99 + ")")
    )  # fmt: skip
    kind = random.choice(
        ("|u1", "|O", "<f8", "<U999999999", "|V99999999", "<i8", "nothing", "|S0", "(2,)u1", "[('a', '<f8')]")
    )
    more = random.choice(
        ("", f", 'x': {SCRIPT!r}", ", '__import__': (lambda: 0)()", " " * 9999, ", 'a': " + "-" * 3000 + "1")
    )
    header = f"{{'descr': {kind!r}, 'fortran_order': {random.choice(('False', 'True', '3'))}, 'shape': {shape}{more}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(header), 65535)) + header + random.randbytes(360)


def npz_bomb(random: Random) -> bytes:
    target = io.BytesIO()
    with (
        zipfile.ZipFile(target, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", UserWarning)  # names that are there twice
        for name in random.sample(
            ("../../evil.npy", "/tmp/evil.npy", "images.npy", "labels.npy", f"{SCRIPT}.npy", "a\n\x1b[2Jb.npy",
             "images.npy", "z.npy", "..npy"),
            random.choice((1, 2, 4)),
        ):  # fmt: skip
            archive.writestr(name, random.choice((npy_bomb, _zeros, lambda _: b"", lambda r: r.randbytes(99)))(random))
    return target.getvalue()


def _zeros(random: Random) -> bytes:
    """32 MB that compress to nothing, under a header that tells the truth or does not."""
    target = io.BytesIO()
    shape = random.choice(((10_000, 3, 32, 32), (99_999_999, 3, 32, 32), (2, 3, 4, 4)))
    np.lib.format.write_array_header_1_0(target, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return target.getvalue() + bytes(30_720_000)


def safetensors_bomb(random: Random) -> bytes:
    end = random.choice((360, 10**12, -1, 2**64, 361, 0))
    entry = {"dtype": random.choice(("U8", "F64", "I64", "X", 3)), "shape": random.choice(([6, 3, 5, 4], [10**6] * 3, [-6], ["a"], 3, [])),
             "data_offsets": random.choice(([0, end], [end, 0], [0], "ab", None, [0, 360, 1]))}  # fmt: skip
    header = json.dumps(
        {random.choice(("images", "z", SCRIPT, "../x")): entry, "__metadata__": random.choice(({}, 3, {"a": "b"}))}
    ).encode()
    header = random.choice((header, header, b"[" * 5000, b'{"images": ' * 3000, b"[]", b"null"))
    return (
        struct.pack("<Q", random.choice((len(header), len(header), 2**63, 2**40, 0))) + header + random.randbytes(360)
    )


def gzip_bomb(random: Random) -> bytes:
    header = random.choice(
        (
            struct.pack(">4I", 0x803, *random.choice(((4, 5, 6), (10**6, 9, 9), (2**32 - 1,) * 3))),
            struct.pack(">2I", 0x801, 4),
        )
    )
    return gzip.compress(header + bytes(random.choice((120, 4, 20_000_000))), 1)


def png_bomb(random: Random) -> bytes:
    """Any size in its header, over a stream that holds far more or less."""
    width, height = random.choice(
        ((9, 8), (8, 9), (13_000, 13_000), (60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (0, 5))
    )

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(
        ">2I5B", width, height, random.choice((8, 16, 1)), random.choice((0, 2, 3, 6)), 0, 0, random.choice((0, 1))
    )
    text = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(random.choice((10, 20_000_000))), 1))
    data = chunk(b"IDAT", zlib.compress(bytes(random.choice((9 * 8 * 3 + 9, 20_000_000))), 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + random.choice((b"", text)) + data + chunk(b"IEND", b"")


def json_bomb(random: Random) -> bytes:
    return random.choice(
        (b"[" * 100_000, b'{"a":' * 50_000, b"[]", b"3", b"NaN", b'{"experiment": "train"}', b'{"experiment": 3, "config": {}}',
         b'{"experiment": "train", "config": {"lr": 1e999, "seed": "x"}}', b'{"experiment": "train", "config": {}, "findings": 3}',
         b'{"experiment": "train", "config": {"encoder": "linear", "dim": 99999999, "hidden": 999999999}, '
         b'"input": {"channels": 3, "size": 9}}',
         b'{"experiment": "train", "config": {"encoder": "linear"}, "input": {"shape": [3, 99999999, 1], "dtype": "float32"}, '
         b'"own": []}',
         b'{"experiment": "train", "config": {"encoder": "linear"}, "input": {"shape": ["a", []], "dtype": "float32"}, "own": []}',
         b'{"experiment": "train", "config": {"encoder": "linear"}, "input": 3}', b"9" * 10_000)
    )  # fmt: skip


def toml_bomb(random: Random) -> bytes:
    return random.choice(
        (b"a = " + b"[" * 50_000, b"lr = 1" + b"0" * 9999, b"a = " + b"{a=" * 5000, b"lr = nan", b"steps = -1", b"seed = 1.5", b"\xff\xfe",
         b"data = '''\n\x1b[2J\n'''", b'out = "../../../../etc"', b"steps = 99999999999999999999999", b'data = "arrays:/dev/zero"',
         b'experiment = "sweep"', b"[lr]\na = 1", b"a.b." * 3000 + b"c = 1", f'encoder = "{SCRIPT}"'.encode())
    )  # fmt: skip


BOMBS: dict[str, tuple[Callable[[Random], bytes], ...]] = {
    ".npy": (npy_bomb,), ".npz": (npz_bomb,), ".safetensors": (safetensors_bomb,), ".gz": (gzip_bomb,), ".png": (png_bomb,),
    ".json": (json_bomb,), ".toml": (toml_bomb,),
}  # fmt: skip


# --- cases


@dataclass
class Case:
    """What came of a case: `kind` is loaded, refused or the rule that it broke, and `detail` the message."""

    number: int
    loader: str
    change: str
    kind: str
    detail: str = ""
    extra_bytes: int = 0


def run_case(number: int, sandbox: Path) -> Case:
    """The case of this number, in a folder of its own below the sandbox."""
    random = Random(number)
    name = list(LOADERS)[number % len(LOADERS)]
    loader = LOADERS[name]
    with tempfile.TemporaryDirectory(dir=sandbox) as made:
        folder = Path(made)
        loader.write(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        target = random.choice(files)
        content = bytearray(target.read_bytes())
        changes = []
        for _ in range(random.choice((1, 1, 2))):
            change = random.choice((*CHANGES, None, None))
            changes.append("bomb" if change is None else change.__name__.strip("_"))
            if change is None:
                _bomb(content, random, target.name)
            elif content:
                change(content, random)
        target.write_bytes(content)
        before, around = _contents(folder), sorted(os.listdir(sandbox))
        kind, detail, extra = _outcome(loader, folder, sum(map(len, before.values())))
        if kind in ("loaded", "refused") and (_contents(folder) != before or sorted(os.listdir(sandbox)) != around):
            kind = "files were changed"
        return Case(number, name, f"{' and '.join(changes)} {target.name}", kind, detail.replace(made, "FOLDER"), extra)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _outcome(loader: Loader, folder: Path, size: int) -> tuple[str, str, int]:
    def late(*_: object) -> None:
        raise TimeoutError

    result, detail = None, ""
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    base = _peak(reset=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # load_runs names what it leaves out
            result = loader.load(folder)
        kind = "loaded"
    except ValueError as error:
        detail = str(error)
        kind = "refused" if detail.strip() and len(detail.splitlines()) == 1 else "not one line"
    except TimeoutError:
        kind = "took too long"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind, detail = "another error", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    finally:
        signal.alarm(0)
    extra = _peak() - base
    if kind in ("loaded", "refused") and extra > 2 * (size + loader.stated + _bytes(result)) + SLACK:
        kind = "too much memory"
    return kind, detail[:300], extra


def _peak(reset: bool = False) -> int:
    """The most memory that this process held since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return resident_peak()


def _bytes(value: Any) -> int:
    """Of the arrays of a result."""
    if isinstance(value, Split):
        return sum(map(_bytes, (value.train, value.test)))
    if isinstance(value, torch.nn.Module):
        return sum(map(_bytes, value.state_dict().values()))
    return int(getattr(value, "nbytes", 0))


# --- many cases


@dataclass
class Campaign:
    """What came of many cases."""

    kinds: Counter[str] = field(default_factory=Counter)
    loaders: dict[str, Counter[str]] = field(default_factory=dict)
    broken: list[Case] = field(default_factory=list)
    most: int = 0

    def add(self, case: Case) -> None:
        self.kinds[case.kind] += 1
        self.loaders.setdefault(case.loader, Counter())[case.kind] += 1
        self.most = max(self.most, case.extra_bytes)
        if case.kind not in ("loaded", "refused"):
            self.broken.append(case)


def campaign(cases: int, first: int = 0) -> Campaign:
    """Run cases in a process of their own; one that dies breaks the rule of the case it was at, and the next goes on after it."""
    found, number = Campaign(), first
    with tempfile.TemporaryDirectory() as made:
        sandbox = Path(made) / "sandbox"
        sandbox.mkdir()
        while number < first + cases:
            for case in in_process(number, first + cases, sandbox):
                found.add(case)
                number = case.number + 1
            if number < first + cases:
                found.add(Case(number, list(LOADERS)[number % len(LOADERS)], "", "the process died"))
                number += 1
    return found


def in_process(start: int, stop: int, sandbox: Path) -> Iterator[Case]:
    """The cases from `start` to before `stop`, run in another process, until it dies."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(start, stop, sandbox, sender))
    process.start()
    sender.close()
    try:
        while True:
            yield receiver.recv()
    except EOFError:
        pass
    finally:
        process.kill()
        process.join()


def _work(start: int, stop: int, sandbox: Path, sender: Any) -> None:
    torch.set_num_threads(1)
    os.environ["XDG_CACHE_HOME"] = str(sandbox.parent / "cache")
    for number in range(start, stop):
        sender.send(run_case(number, sandbox))


def main(cases: int = 10_000, first: int = 0, out: Path = Path(__file__).parent / "results") -> int:
    """Run the cases, print those that broke a rule, and write the record."""
    start = time.perf_counter()
    found = campaign(cases, first)
    for case in found.broken:
        print(f"{case.number}: {case.loader}, {case.change}: {case.kind}: {case.detail}")
    print(", ".join(f"{count:,} {kind}" for kind, count in found.kinds.most_common()))
    write(
        out / "hostile-cpu.json",
        {
            "case": "hostile", **environment(torch.device("cpu")), "cases": cases, "first": first, "kinds": dict(found.kinds),
            "loaders": {name: dict(kinds) for name, kinds in sorted(found.loaders.items())},
            "most_extra_bytes": found.most, "seconds": round(time.perf_counter() - start, 1),
        },
    )  # fmt: skip
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
