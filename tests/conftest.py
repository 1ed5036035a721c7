"""Settings shared by all tests."""

import gc
import os
import random
import sys

import jaxtyping
import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

import tests.profiles
import tests.typecheck
from tests import readme

# Shape annotations are checked in tests and free in production: the hook stays for all that tests import. Before any of them imports
# geoopt, the package does: it filters the warnings of that import.
if os.environ.get("JAXTYPING_DISABLE") != "1":  # as where coverage is traced, whose lines these checks are not
    install_import_hook("grassmann_ssl", "tests.typecheck.check")
import grassmann_ssl.manifolds  # noqa: F401

torch.set_num_threads(1)

WIDE = ("module", "session")


def seed(value):
    """One start of the global generators for each test and file, whichever ran before; any start under `make fuzz`."""
    if os.environ.get("HYPOTHESIS_PROFILE") != "random":
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002  what code under test may draw from
        torch.manual_seed(value)


def pytest_pycollect_makemodule():
    seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call():
    seed(2)


def pytest_collection_finish(session):
    # What is loaded by now stays: the garbage collector need not walk through all of torch and of the tests every few seconds.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if "grassmann_ssl.report" in sys.modules:
        from tests import figures  # matplotlib, which most files of tests do without

        figures.choose(in_full=item.get_closest_marker("drawn") is not None)
    seed(1)
    # Trainings, and the many examples of a property, call checked functions a million times, which would double their time; what they
    # call is checked by the other tests, and by the few examples of the quick profile.
    often = item.get_closest_marker("slow") or (item.get_closest_marker("hypothesis") and not tests.profiles.QUICK)
    jaxtyping.config.update("jaxtyping_disable", bool(often))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that share a fixture of their file or of the session are on one of pytest's workers, which makes it once."""
    for item in items:
        known = getattr(item, "_fixtureinfo", None)
        shared = (
            [known.name2fixturedefs[name][-1] for name in item.fixturenames if name in known.name2fixturedefs]
            if known
            else []
        )
        groups = {
            f.argname if f.scope == "session" else f.baseid
            for f in shared
            if f.scope in WIDE and f.baseid.startswith("tests")
        }
        if groups:
            item.add_marker(pytest.mark.xdist_group(min(groups, key=len)))


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """What the command of `make demo` prints with fewer seeds, and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("demo")
    (line,) = readme.run("make -n demo", folder).splitlines()
    return readme.run(f"{line} --seeds {readme.SEEDS}", folder), folder
