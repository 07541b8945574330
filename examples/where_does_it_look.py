"""One map per image, from any classifier."""

import torch

import sightline
from sightline.explainers import GradCAM, bind
from sightline.maps import resize

model = sightline.load_model("torchvision:resnet18", num_classes=10)
images = torch.rand(4, 3, 96, 96)

maps = sightline.explain(model, images)  # (4, 3, 3), for each image's top prediction
maps = resize(maps, (96, 96))

explainer = bind(GradCAM(elementwise=True), model, 96)  # find the layer once, then explain as often as you like
print(explainer)
print(sightline.explain(model, images, target=7, explainer=explainer).shape)
