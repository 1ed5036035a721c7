"""Hypothesis profiles, chosen by HYPOTHESIS_PROFILE: repeatable for CI, random for `make fuzz`, quick for `make check`."""

import os

from hypothesis import settings

# The same examples in every run: the more are tried by `make fuzz`, which draws others.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=20)
settings.register_profile("random", deadline=None, derandomize=False, print_blob=True, database=None)
settings.register_profile("quick", settings.get_profile("repeatable"), max_examples=5)
CHOSEN = os.environ.get("HYPOTHESIS_PROFILE", "repeatable")
settings.load_profile(CHOSEN)
QUICK = CHOSEN == "quick"


def examples(count):
    """For a property whose examples cost much: `count` of them, or as few as the profile tries."""
    return settings(max_examples=min(count, settings.default.max_examples))
