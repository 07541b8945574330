"""Several explainers of one forward pass."""

import torch

from sightline import load_model, record
from sightline.explainers import CMWP, LRP, WBP, FullGrad, GradCAM, LayerCAM, bind

model = load_model("torchvision:resnet18", num_classes=10).eval()
images = torch.rand(4, 3, 96, 96)

kinds = (GradCAM(elementwise=True), LayerCAM("net.layer3"), CMWP("net.layer3"), WBP(), LRP("epsilon_plus"), FullGrad())
explainers = [bind(kind, model, 96) for kind in kinds]  # finds the layers that are not named
taps = [tap for explainer in explainers for tap in explainer.taps]
ruled = any(explainer.ruled for explainer in explainers)
run = record(model, images, taps=taps, ruled=ruled, differentiable=False)  # the one forward

target = run.target(None)  # each image's top prediction
for explainer in explainers:
    print(f"{tuple(explainer(run, target).shape)!s:12} {explainer}")
