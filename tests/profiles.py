"""Hypothesis profiles, chosen by HYPOTHESIS_PROFILE: repeatable for CI, random for `make fuzz`, quick for `make check`."""

import os

from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None, derandomize=False, print_blob=True, database=None)
settings.register_profile("quick", settings.get_profile("repeatable"), max_examples=5)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def examples(count):
    """For a property whose examples cost much: `count` of them, or as few as the profile tries."""
    return settings(max_examples=min(count, settings.default.max_examples))
