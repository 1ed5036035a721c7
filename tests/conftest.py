"""Settings shared by all tests."""

import os

import torch
from hypothesis import settings

torch.set_num_threads(1)
os.environ["GRASSMANN_SSL_FAST"] = "1"  # notebooks: few seeds and steps
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
