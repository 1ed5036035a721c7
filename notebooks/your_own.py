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
# # Your own encoder, data and loss, under a constraint
#
# Three trainings that no command knows: a table whose answer can be computed, sequences through a recurrent network, and a loss that was made up.
# You need torch and `grassmann_ssl`; each takes seconds.

# %%
# %matplotlib inline
import torch
from sklearn.datasets import load_digits
from torch import nn

from grassmann_ssl import pretrain
from grassmann_ssl.manifolds import distance
from grassmann_ssl.objectives import check_objective

_ = torch.manual_seed(0)

# %% [markdown]
# ## A table, and a loss that only pulls views together
#
# Rows x of 20 numbers, seen twice with noise that grows from column to column. The loss is the distance of the two embeddings: nothing in it
# keeps them apart. Free weights go to 0, and everything is one point. With W Wᵀ = I they cannot; the loss is then the noise within the subspace,
# so the four columns with the least noise are the answer.

# %%
noise = torch.linspace(0.1, 1, 20)


def batches():
    """Ten batches an epoch, drawn anew in each: the seed of the run decides them."""
    for _ in range(10):
        x = torch.randn(256, 20)
        yield x + noise * torch.randn(256, 20), x + noise * torch.randn(256, 20)


def pull(z, z_positive):
    return (z - z_positive).square().sum(1).mean()


print(check_objective(pull))


# %%
def trained(**settings):
    last = nn.Linear(20, 4, bias=False)
    return pretrain(nn.Identity(), batches, pull, projector=last, steps=400, lr=0.05, progress=False, **settings)


free = trained()
print(free.audit)
assert free.audit.kind == "complete"

# %%
constrained = trained(constraint="grassmann")
print(constrained.audit)
found, answer = constrained.model.projector.weight.detach().T, torch.eye(20)[:, :4]
print("distance of the subspace from the answer:", float(distance(found, answer)))
assert constrained.audit.kind == "none" and distance(found, answer) < 0.3

# %%
constrained.plot.training()

# %% [markdown]
# ## Sequences through a recurrent network
#
# Scikit-learn's digits, read as eight rows of eight pixels, one after the other. Two views: pixels with noise. NT-Xent, its last layer on the
# Grassmannian; what labels the representation tells is seen at the end by `probe`.

# %%
digits = load_digits()
rows, labels = torch.tensor(digits.images / 16, dtype=torch.float32), torch.tensor(digits.target)
train, test = slice(0, 1200), slice(1200, None)


class Reader(nn.Module):
    """A GRU over the rows of a picture; its last state is the representation."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(8, 64, batch_first=True)

    def forward(self, sequences):  # (n, 8, 8)
        return self.gru(sequences)[1][0]


def views(batch):
    (x,) = batch
    return [x + 0.2 * torch.randn_like(x) for _ in range(2)]


loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows[train]), batch_size=200, shuffle=True)
read = pretrain(
    Reader(), loader, "nt_xent", views=views, constraint="grassmann", epochs=40, lr=0.2, progress=False,
    probe=(rows[train], labels[train], rows[test], labels[test]),
)  # fmt: skip
print(read.audit, read.record["probes"]["knn"]["accuracy"])
assert read.audit.kind == "none" and read.record["probes"]["knn"]["accuracy"] > 0.8

# %% [markdown]
# ## What an outcome holds
#
# The verdict with its numbers, the trained module, what was recorded, and the findings; `read.save(folder)` writes them with a page.

# %%
read.history.filter(regex="step|loss|^z_").tail(3).round(3)

# %%
read
