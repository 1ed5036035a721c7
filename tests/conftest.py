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
import tests.typecheck  # noqa: F401  the hook below looks it up by name
from tests import readme

# Shape annotations are checked in tests and free in production: the hook stays for all that tests import. Before any of them imports
# geoopt, the package does: it filters the warnings of that import.
if os.environ.get("JAXTYPING_DISABLE") != "1":  # as where coverage is traced, whose lines these checks are not
    install_import_hook("grassmann_ssl", "tests.typecheck.check")
import grassmann_ssl.manifolds  # noqa: F401

torch.set_num_threads(1)


def seed():
    """One start of the global generators for each test and file, whichever ran before; any start under `make fuzz`."""
    if os.environ.get("HYPOTHESIS_PROFILE") != "random":
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002  what code under test may draw from
        torch.manual_seed(0)


def pytest_pycollect_makemodule():
    seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call():
    seed()


def pytest_collection_finish(session):
    # What is loaded by now stays: the garbage collector need not walk through all of torch and of the tests every few seconds.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if "grassmann_ssl.report" in sys.modules:
        from tests import figures  # matplotlib, which most files of tests do without

        figures.choose(in_full=item.get_closest_marker("drawn") is not None)
    seed()
    # Trainings call checked functions a million times, which would double their time; what they call is checked by the quick tests.
    jaxtyping.config.update("jaxtyping_disable", item.get_closest_marker("slow") is not None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class SharedRuns(LoadScopeScheduling):
        """Tests that share a long run are on one worker: those of the demo, and those of some files, experiments and theory among them."""

        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            if file.endswith("/test_compare.py") or test.startswith("test_the_demo"):
                return "demo"
            return (
                file
                if "/experiments/" in file
                or "/theory/" in file
                or file.endswith(("/test_architecture.py", "/test_browser.py", "/test_streams.py"))
                else nodeid
            )

    return SharedRuns(config, log)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """What `make demo` prints, and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("demo")
    return readme.run("make demo", folder), folder
