# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Stepwise learning of a deep encoder on colour images
#
# Linear models learn one dimension of the embedding after the other. Do deep networks? They do when their last layer starts small (Simon et al.
# 2023, arXiv 2303.15438, on ResNets and STL-10). Here a convolutional encoder learns patches of two colour photographs in under a minute: when
# do eigenvalues of its embedding rise, how many, and does a kernel tell what is learned?
#
# You need `pip install '.[notebooks]'`; the photographs come with scikit-learn. For 3,786 pictures of people, animals, food and flags give the
# folder of the npm package emoji-datasource-google, unpacked (`npm pack emoji-datasource-google@16.0.0`, then `tar xzf`), as
# `GRASSMANN_SSL_EMOJI=package`. Set `GRASSMANN_SSL_FAST=1` to run it on few steps.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from grassmann_ssl import audit_embeddings
from grassmann_ssl.data import DataOptions, bundled
from grassmann_ssl.experiments.encoders.stepwise_deep import StepwiseDeepConfig
from grassmann_ssl.run import run

fast = os.environ.get("GRASSMANN_SSL_FAST") == "1"
emoji = os.environ.get("GRASSMANN_SSL_EMOJI")
runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The pictures
#
# Random patches of two photographs, kept as an array file; any such file, folder of pictures or benchmark in its standard format would do
# (`grassmann-ssl list data`).

# %%
patches = bundled("photos", n=600 if fast else 1500, size=8 if fast else 12, generator=torch.Generator().manual_seed(0))
np.save(runs / "patches.npy", patches.images.numpy())
data = {"data": f"arrays:{runs / 'patches.npy'}"}
if emoji and not fast:
    data = {"data": f"emoji:{emoji}", "data_options": DataOptions(size=16)}
data

# %% [markdown]
# ## Training from a small last layer
#
# Three convolutions, a hidden layer and a last layer that starts at a hundredth of its usual size: what comes before is batch-normalised and
# has no scale of its own. Barlow Twins without normalisation, plain gradient descent at a constant rate, fixed pictures on which eigenvalues of
# the embedding's covariance are recorded. This protocol is ours; that of the paper is known in part. `objectives` takes nt_xent and vicreg, too.

# %%
settings = {"steps": 60, "records": 30, "batch": 128} if fast else {"steps": 150, "records": 75, "batch": 256}
config = StepwiseDeepConfig(
    objectives=("barlow_twins",), init_scales=(0.01,), dim=6, pairs=24, out=runs / "deep", **data, **settings
)
outcome = run(config, page=False)
outcome

# %% [markdown]
# The loss falls in steps of 1, as in the linear model, and eigenvalues leave the floor one after the other; dotted are the steps that were
# detected. No theory gives these times: the encoder's kernel changes while it learns.

# %%
outcome.plot.steps()

# %% [markdown]
# ## The spectrum of the embedding
#
# Stopped here, the embedding uses as many dimensions as were learned. From one array that looks like dimensional collapse; it is a training that
# is not finished.

# %%
audit = audit_embeddings(outcome.arrays["barlow_twins from 0.01_outputs"])
print(audit)
audit.plot()

# %% [markdown]
# ## What is learned
#
# The span of the embedding against the top modes of a tangent kernel, in the closed form of `theory.kernel`: from the kernel before training,
# which would be a prediction, and after it, which is an observation. By chance two such spans would overlap by $d$ over the number of pictures.

# %%
outcome.plot.kernel()

# %%
found = outcome.record["runs"]["barlow_twins from 0.01"]
first, last = outcome.arrays["barlow_twins from 0.01_z"][[0, -1]]
print("largest eigenvalue of cov z at the start", first[0], "and all of them at the end", last.round(3))
print("steps at t =", np.round(found["steps_of_z"], 3))
print("overlaps", found["overlap"], "by chance", outcome.record["chance"])
assert fast or len(found["steps_of_z"]) >= 2  # 60 steps are too few to tell them
assert last[0] > 100 * first[0]
assert found["overlap"]["after"] > 2 * outcome.record["chance"]
