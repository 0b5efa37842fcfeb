"""AR-AdaLS in the training of a LightningModule: one line of the module, ids, and a callback."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from aradals import AdaptiveSmoothing
from aradals.integrations.lightning import AdaptiveSmoothingCallback
from aradals.integrations.loops import WithIds


class Classifier(LightningModule):
    """A classifier of rows with 10 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 10))
        self.loss = AdaptiveSmoothing(num_classes=10, num_subsets=3)  # instead of nn.CrossEntropyLoss()

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits."""
        logits: Tensor = self.network(inputs)
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a batch."""
        inputs, labels = batch
        loss: Tensor = self.loss(self(inputs), labels)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the loss of the validation split."""
        inputs, labels = batch
        self.log("validation_loss", self.loss(self(inputs), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


def examples(num: int) -> TensorDataset:
    """Make noisy one-hot vectors and their labels."""
    labels = torch.randint(10, (num,))
    inputs = 0.5 + 0.3 * nn.functional.one_hot(labels, 10) + 0.3 * torch.randn(num, 10)
    return TensorDataset(inputs.clamp(0, 1), labels)


if __name__ == "__main__":
    torch.manual_seed(0)
    train, validation, module = examples(300), examples(500), Classifier()
    trainer = Trainer(
        max_epochs=30,
        callbacks=[AdaptiveSmoothingCallback(train, validation, every=4)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    loaders = DataLoader(WithIds(train), 64, shuffle=True), DataLoader(WithIds(validation), 256)
    trainer.fit(module, loaders[0], loaders[1])
    print("target of each subset:", [round(p, 3) for p in module.loss.target_prob.tolist()])
