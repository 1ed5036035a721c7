"""The global random states of Python, numpy and torch, which the user's own data and modules draw from."""
# ruff: noqa: NPY002  numpy's global state is what is kept here

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from grassmann_ssl.data.augment import keyed_generator

OWN_KEY = 4  # of the draws of the user's code, beside those of views


class GlobalRandomness:
    """The global random states of Python, numpy and torch on the CPU and on `device`: kept, restored, and set from a seed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def seed(self, seed: int, number: int) -> None:
        """Set all of them from a seed and a number."""
        key = keyed_generator(seed=seed, step=number, rank=0, view=OWN_KEY, device="cpu").initial_seed()
        random.seed(key)
        np.random.seed(key % 2**32)
        torch.default_generator.manual_seed(key)  # torch.manual_seed would seed other accelerators, too
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(key)

    def state(self) -> dict[str, Tensor]:
        """All of them as tensors on the CPU."""
        _, words, gauss = random.getstate()
        _, keys, *places = cast(tuple[Any, ...], np.random.get_state(legacy=True))
        found = {
            "python": torch.tensor(words, dtype=torch.int64),
            "python_gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
            "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "numpy_place": torch.tensor(places[:2]),
            "numpy_gauss": torch.tensor(places[2], dtype=torch.float64),
            "torch": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            found["cuda"] = torch.cuda.get_rng_state(self.device)
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`. Raises ValueError where that is not one."""
        try:
            has_gauss, gauss = state["python_gauss"].tolist()
            random.setstate((3, tuple(state["python"].tolist()), gauss if has_gauss else None))
            place, has_gauss = state["numpy_place"].tolist()
            words, gauss = state["numpy"].numpy().astype(np.uint32), float(state["numpy_gauss"])
            np.random.set_state(("MT19937", words, place, has_gauss, gauss))
            torch.set_rng_state(state["torch"])
            if self.device.type == "cuda" and "cuda" in state:
                torch.cuda.set_rng_state(state["cuda"], self.device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"the random states are not whole: {(str(error).splitlines() or [''])[0]}") from None

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Context: whatever draws from them inside leaves them as they were."""
        before = self.state()
        try:
            yield
        finally:
            self.restore(before)
