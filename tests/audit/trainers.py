"""Small trainings in Lightning and in the Trainer of transformers, that an audit's callbacks are attached to."""

import importlib
import warnings

import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import PrinterCallback, Trainer, TrainingArguments

from grassmann_ssl.audit.lightning import LightningCollapse  # noqa: F401
from grassmann_ssl.audit.transformers import TrainerCollapse  # noqa: F401

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


def fit(name, callback, folder, dead=False, **options):
    """Train with lightning.pytorch or pytorch_lightning, as named; the trainer, with its `network`."""
    package = importlib.import_module(name)
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
