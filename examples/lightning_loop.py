"""The same objectives in a LightningModule of your own."""

from sightline.compat import repair_torchvision

repair_torchvision()  # beside a CPU build of PyTorch, PyPI's torchvision does not import, nor does what needs it

import lightning as L
import torch
from torch.utils.data import DataLoader

from sightline import Guided, load_model
from sightline.data import Habitats
from sightline.objectives import CE, CFCN, ContextSwap, Scheduled


class Classifier(L.LightningModule):
    def __init__(self, size):
        super().__init__()
        model = load_model("sightline:cnn", num_classes=10, arguments={"filters": [8, 16]})
        rising = Scheduled([0, 2], [0, 1], ramp=True)
        self.guided = Guided(model, [CE(), CFCN("F", weight=rising), ContextSwap()], size)

    def training_step(self, batch, batch_idx):
        self.guided.epoch = self.current_epoch
        loss, terms = self.guided(batch)
        self.log_dict(terms)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


data = Habitats("train", correlation=0.8, size=24, per_digit=1)
trainer = L.Trainer(
    max_epochs=2,
    accumulate_grad_batches=2,
    gradient_clip_val=1.0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Classifier(data.size), DataLoader(data, batch_size=32, shuffle=True))
print({name: round(float(value), 3) for name, value in trainer.logged_metrics.items()})
