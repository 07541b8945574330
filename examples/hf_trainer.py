"""The same objectives in Hugging Face's Trainer: it trains `Guided`, and takes its loss as it is."""

from tempfile import TemporaryDirectory

from sightline.compat import repair_torchvision

repair_torchvision()  # beside a CPU build of PyTorch, PyPI's torchvision does not import, nor does what needs it

from torch.utils.data import default_collate
from transformers import Trainer, TrainingArguments

from sightline import Guided, load_model
from sightline.data import Habitats
from sightline.objectives import CE, CFCN, ContextSwap, Scheduled
from sightline.types import Batch


class GuidedTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        self.accelerator.unwrap_model(model).epoch = self.state.epoch  # in parts of an epoch
        loss, self.terms = model(Batch(**inputs))
        return (loss, self.terms) if return_outputs else loss


def collate(samples):
    return default_collate(samples)._asdict()  # the Trainer moves dicts between devices


data = Habitats("train", correlation=0.8, size=24, per_digit=1)
model = load_model("sightline:cnn", num_classes=10, arguments={"filters": [8, 16]})
rising = Scheduled([0, 2], [0, 1], ramp=True)
guided = Guided(model, [CE(), CFCN("F", weight=rising), ContextSwap()], size=data.size)

with TemporaryDirectory() as folder:
    settings = TrainingArguments(
        folder,
        num_train_epochs=2,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=2,
        learning_rate=3e-3,
        remove_unused_columns=False,  # a Batch has no columns
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = GuidedTrainer(guided, settings, collate, data)
    trainer.train()
print({name: round(float(value), 3) for name, value in trainer.terms.items()})
