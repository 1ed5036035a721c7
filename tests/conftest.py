"""Settings shared by all tests."""

import gc
import importlib.util
import os
import random
import sys
from functools import cache, partial
from importlib.metadata import version

import jaxtyping
import numpy as np
import pytest
import torch

import tests.profiles
import tests.typecheck
from tests import readme

# Shape annotations are checked in tests and free in production: the hook stays for all that tests import. Before any of them imports
# geoopt, the package does: it filters the warnings of that import.
if os.environ.get("JAXTYPING_DISABLE") != "1":  # as where coverage is traced, whose lines these checks are not
    tests.typecheck.install()
import grassmann_ssl.manifolds  # noqa: F401
from grassmann_ssl.metrics.probes import logistic_probe

torch.set_num_threads(1)
CHECKED = pytest.StashKey[bool]()
# For devices that are not there torch keeps what is to be done, with a stack trace, which takes 1 ms.
start = torch.manual_seed if torch.cuda.is_available() else torch.default_generator.manual_seed

# torchvision of PyPI is built for CUDA. Beside a torch without it, its import, and so that of timm, lightly, lightning and transformers,
# asks for the names of two operators, which nothing here uses.
if torch.version.cuda is None and importlib.util.find_spec("torchvision") and "+cpu" not in version("torchvision"):
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor x) -> Tensor")


def seed(value):
    """One start of the global generators for each test and file, whichever ran before; any start under `make fuzz`."""
    if os.environ.get("HYPOTHESIS_PROFILE") != "random":
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002  what code under test may draw from
        start(value)


def pytest_pycollect_makemodule():
    seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call():
    seed(2)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Shapes are checked in one case for every value of every parameter of a test, by `make check` in one case of a test.

    In all cases that would double the time of the suite. Not in trainings, and in the many examples of a property, which call checked
    functions a million times: what they call is checked by the other tests, and by the few examples of the quick profile.
    """
    seen = set()
    for item in items:
        values = None if tests.profiles.QUICK else getattr(item, "callspec", None)
        own = {(item.nodeid.partition("[")[0], *value) for value in (values.indices.items() if values else [("", 0)])}
        often = item.get_closest_marker("slow") or (item.get_closest_marker("hypothesis") and not tests.profiles.QUICK)
        item.stash[CHECKED] = not often and not own <= seen
        seen |= own


def pytest_collection_finish(session):
    # What is loaded by now stays: the garbage collector need not walk through all of torch and of the tests every few seconds.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if "grassmann_ssl.report" in sys.modules:
        from tests import figures  # matplotlib, which most files of tests do without

        figures.choose(in_full=item.get_closest_marker("drawn") is not None)
    evaluation = sys.modules.get("grassmann_ssl.experiments.encoders.evaluation")
    if evaluation:  # to its end the probe takes as long as all else of a small training; tests/metrics/ goes there
        evaluation.logistic_probe = partial(logistic_probe, max_iterations=10)
    torch.set_default_dtype(torch.float32)
    seed(1)
    jaxtyping.config.update("jaxtyping_disable", not item.stash[CHECKED])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class SharedRuns(LoadScopeScheduling):
        """Tests that share what takes long are on one worker, which makes it once: those of the demo, and of files that keep something."""

        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            if file.endswith("/test_compare.py") or test.startswith("test_the_demo"):
                return "demo"
            return file if shares(file) else nodeid

    return SharedRuns(config, log)


@cache
def shares(file):
    """Whether the tests of a file share a fixture or a cache."""
    text = (readme.ROOT / file).read_text()
    return 'scope="module"' in text or "\n@cache\n" in text


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """What the command of `make demo` prints with fewer seeds, and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("demo")
    (line,) = readme.run("make -n demo", folder).splitlines()
    return readme.run(f"{line} --seeds {readme.SEEDS}", folder), folder
