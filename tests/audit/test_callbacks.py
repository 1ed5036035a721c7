"""The callbacks in the real trainers: attached while they train, numbers in their logs, an end on collapse, and nothing left behind."""

import re
import subprocess
import sys
import warnings

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import PrinterCallback, Trainer, TrainingArguments

from grassmann_ssl.audit import CollapseError, CollapseWarning, audit_embeddings
from grassmann_ssl.audit.lightning import LightningCollapse
from grassmann_ssl.audit.transformers import TrainerCollapse

BATCH, STEPS = 16, 40


class Network(nn.Module):
    """Two views of noise; the loss of every view is its size, so that embeddings shrink, or nothing at all is learned."""

    def __init__(self, dead: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.projector = nn.Linear(8, 8), nn.Linear(8, 4)
        if dead:
            nn.init.zeros_(self.projector.weight)
        self.seen = []

    def forward(self, x):
        z = self.projector(self.encoder(x))
        if self.training:
            self.seen.append(z.detach().clone())
        return z


def images():
    return torch.randn(BATCH * 8, 8, generator=torch.Generator().manual_seed(0))


def assert_same_numbers(monitor, network, batches=1):
    """Every judgement is that of the outputs that came until then, `batches` in a step; and nothing is left on the network."""
    steps = [one.step for one in monitor.judgements]
    assert steps[:5] == [1, 2, 3, 4, 5]
    for one in monitor.judgements:
        audit = audit_embeddings(torch.cat(network.seen[: one.step * batches])[-1024:])
        assert one.kind == audit.kind and one.total_variance == audit["total_variance"].value
    assert not network.projector._forward_hooks


# Lightning


def lightning_parts(package, dead):
    class Module(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = Network(dead)

        def training_step(self, batch, index):
            # A rate of 0: a dead network stays dead.
            return self.network(batch[0]).square().mean()

        def validation_step(self, batch, index):
            self.network(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.0)

    return Module(), DataLoader(TensorDataset(images()), BATCH)


def fit(package, callback, folder, dead=False, **options):
    model, data = lightning_parts(package, dead)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = package.Trainer(
        max_steps=STEPS, accelerator="cpu", callbacks=[callback], logger=CSVLogger(folder), **quiet, **options
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=Warning, module="lightning|pytorch_lightning")
            trainer.fit(model, data, data)
    finally:
        trainer.network = model.network
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("package", [lightning.pytorch, pytorch_lightning], ids=lambda package: package.__name__)
@pytest.mark.parametrize("batches", [1, 2])
def test_lightning_logs_what_the_monitor_finds(package, batches, tmp_path):
    callback = LightningCollapse("network.projector")
    trainer = fit(package, callback, tmp_path, accumulate_grad_batches=batches)
    first = callback.monitor.judgements[0]
    if batches == 2 and first.step == 0:  # the first half of the first step
        callback.monitor.judgements.pop(0)
    assert_same_numbers(callback.monitor, trainer.network, batches)
    last = callback.monitor.judgements[-1]
    assert float(trainer.callback_metrics["collapse/total_variance"]) == pytest.approx(last.total_variance)
    trainer.logger.save()
    logged = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    columns, rows = logged[0].split(","), [line.split(",") for line in logged[1:]]
    used = {int(row[columns.index("step")]): float(row[columns.index("collapse/dimensions_used")]) for row in rows}
    assert all(used[one.step] == pytest.approx(one.dimensions_used) for one in callback.monitor.judgements)


@pytest.mark.slow
def test_lightning_ends_on_collapse(tmp_path):
    stopping = LightningCollapse("network.projector", on_collapse="stop")
    with pytest.warns(CollapseWarning, match=r"^step 3: complete: .*; training stops$"):
        trainer = fit(lightning.pytorch, stopping, tmp_path, dead=True)
    assert trainer.global_step == 3 and not trainer.network.projector._forward_hooks

    raising = LightningCollapse("network.projector", on_collapse="raise")
    with pytest.raises(CollapseError, match=r"^step 3: complete"):
        fit(lightning.pytorch, raising, tmp_path, dead=True)
    raising.monitor.attach(nn.Linear(2, 2), "")  # refused where it is still attached


@pytest.mark.slow
def test_another_fit_begins_anew(tmp_path):
    callback = LightningCollapse("network.projector")
    for _ in range(2):
        trainer = fit(lightning.pytorch, callback, tmp_path)
        assert_same_numbers(callback.monitor, trainer.network)
    with pytest.raises(ValueError, match=r"^the model has no submodule 'projector'; did you mean network.projector\?$"):
        fit(lightning.pytorch, LightningCollapse("projector"), tmp_path)


# transformers


class WithLoss(nn.Module):
    def __init__(self, dead: bool) -> None:
        super().__init__()
        self.network = Network(dead)

    def forward(self, x, labels=None):
        z = self.network(x)
        return {"loss": z.square().mean(), "z": z}


def trainer_for(folder, dead=False, **options):
    settings = {
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 0.0,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 5,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **options,
    }
    data = [{"x": x} for x in images()]
    trainer = Trainer(WithLoss(dead), TrainingArguments(str(folder), **settings), train_dataset=data)
    trainer.remove_callback(PrinterCallback)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("batches", [1, 2])
def test_transformers_logs_what_the_monitor_finds(batches, tmp_path):
    trainer = trainer_for(tmp_path, gradient_accumulation_steps=batches)
    callback = TrainerCollapse(trainer, "network.projector")
    trainer.add_callback(callback)
    trainer.train()
    assert_same_numbers(callback.monitor, trainer.model.network, batches)
    log = trainer.state.log_history
    used = {entry["step"]: entry["collapse/dimensions_used"] for entry in log if "collapse/dimensions_used" in entry}
    assert used == {one.step: one.dimensions_used for one in callback.monitor.judgements}
    # The Trainer's own numbers come as they would without the callback.
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(5, STEPS + 1, 5))
    trainer.train()
    assert callback.monitor.judgements[0].step == 1 and not trainer.model.network.projector._forward_hooks


@pytest.mark.slow
def test_transformers_ends_on_collapse(tmp_path):
    trainer = trainer_for(tmp_path, dead=True)
    trainer.add_callback(TrainerCollapse(trainer, "network.projector", on_collapse="stop"))
    with pytest.warns(CollapseWarning, match=r"^step 3: complete: .*; training stops$"):
        trainer.train()
    assert trainer.state.global_step == 3

    trainer = trainer_for(tmp_path, dead=True)
    trainer.add_callback(TrainerCollapse(trainer, "network.projector", on_collapse="raise"))
    with pytest.raises(CollapseError, match=r"^step 3: complete"):
        trainer.train()
    assert not trainer.model.network.projector._forward_hooks
    assert trainer.state.log_history[-1]["step"] == 3  # the judgement that ended it is logged


# both


@pytest.mark.parametrize("make", [LightningCollapse, lambda *a, **k: TrainerCollapse(None, *a, **k)])
def test_bad_options_are_refused_at_once(make):
    with pytest.raises(ValueError, match=r"^patience must be at least 1, got 0$"):
        make("projector", patience=0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "missing"), [("lightning", "pytorch_lightning"), ("transformers", "accelerate")])
def test_a_missing_library_is_named_with_what_brings_it(name, missing):
    code = f"import sys; sys.modules.update({{{name!r}: None, {missing!r}: None}}); import grassmann_ssl.audit.{name}"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    needed = f"grassmann_ssl.audit.{name} needs {name}; to get it: pip install 'grassmann_ssl[{name}]'"
    assert done.returncode == 1 and re.search(rf"^ImportError: {re.escape(needed)}$", done.stderr, re.MULTILINE)


@pytest.mark.slow
def test_the_audit_imports_neither():
    code = "import sys, grassmann_ssl.audit; print({'lightning', 'pytorch_lightning', 'transformers', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
