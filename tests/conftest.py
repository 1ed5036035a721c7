"""Settings shared by all tests."""

import torch
from hypothesis import settings
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  the hook below looks it up by name

# Shape annotations are checked in tests and free in production. Before any test imports geoopt, the package does: it filters
# the warnings of that import.
with install_import_hook("grassmann_ssl", "tests.typecheck.check"):
    import grassmann_ssl.cli
    import grassmann_ssl.report  # noqa: F401

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
