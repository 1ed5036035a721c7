"""Objectives with a state: made, filled, and trained in one process and in several."""

import copy
from collections import OrderedDict

import torch

from grassmann_ssl.nn import JointEmbedding
from grassmann_ssl.nn.teacher import Teacher
from grassmann_ssl.objectives import EMBEDDING_LOSSES, objective
from tests.objectives.declared import draw

STATEFUL = [name for name in EMBEDDING_LOSSES if objective(name).stateful]


def made(name, d, seed=0, **options):
    """The loss in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return objective(name, **options).new(d).double()


def views(n, d, seed=0):
    """Prediction, target and both of the other direction, (n, d) each."""
    z, noise = draw(2 * n, d, seed=seed), draw(2 * n, d, seed=seed + 100)
    return {
        "prediction": z[:n],
        "target": (z + 0.3 * noise)[:n],
        "prediction_positive": z[n:],
        "target_positive": (z + 0.3 * noise)[n:],
    }


def stepped(loss, batch):
    """The loss of both directions, which then remembers them."""
    first = loss(prediction=batch["prediction"], target=batch["target"])
    second = loss(prediction=batch["prediction_positive"], target=batch["target_positive"])
    predictions = [batch["prediction"], batch["prediction_positive"]]
    loss.remember(predictions, [batch["target_positive"], batch["target"]])  # of the first view, and of the second
    return (first + second) / 2


def numbers(embeddings):
    return [embeddings[name].numpy() for name in ("prediction", "target", "prediction_positive", "target_positive")]


def begun(name, m=7, d=4):
    """A linear joint embedding with the objective, and a teacher where it needs one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chosen = objective(name)
        encoder, loss = torch.nn.Linear(m, d, dtype=torch.float64), chosen.new(d).double()
        parts = OrderedDict(encoder=encoder, projector=torch.nn.Identity())
        teacher = Teacher(torch.nn.Sequential(parts)) if chosen.needs_teacher else None
        return JointEmbedding(*parts.values(), loss, teacher=teacher, stop_gradient=chosen.predictive)


def train(method, steps, wrap=lambda method: method, rows=slice(None), batch=12, m=7):
    """Steps of SGD on views that are functions of the step; what the method keeps afterwards."""
    wrapped = wrap(method)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for step in steps:
        x, noise = draw(batch, m, seed=step), draw(batch, m, seed=step + 100)
        wrapped(x[rows], (x + 0.5 * noise)[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
        if method.teacher is not None:
            method.teacher.update(method.online, 0.9)
    return copy.deepcopy(method.state_dict())
