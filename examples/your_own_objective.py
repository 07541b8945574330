"""An objective is a few lines: ask the step for maps, return named terms."""

import torch

from sightline import Guided, load_model
from sightline.explainers import GradCAM
from sightline.maps import normalize
from sightline.objectives import CE, Objective
from sightline.types import Batch


class Concentrate(Objective):
    """The entropy of each image's map: low when the model looks at one place."""

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weights = {"concentrate": weight}
        self.explainers = (GradCAM(elementwise=True),)

    def forward(self, step, batch):
        maps = normalize(step.explain(self.explainers[0], batch.image, batch.label)).flatten(1)
        return {"concentrate": -(maps * maps.log()).sum(1).mean()}


image = torch.rand(4, 3, 32, 32)
batch = Batch(image, torch.arange(4), torch.ones(4, 32, 32), torch.zeros(4, dtype=torch.bool), torch.arange(4))
guided = Guided(load_model("sightline:cnn", num_classes=4), [CE(), Concentrate()], size=32)
loss, terms = guided(batch)  # one forward serves both
loss.backward()
print({name: round(float(value), 3) for name, value in terms.items()})
