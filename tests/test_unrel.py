"""The answers of an ImageNet network about UnRel's categories: recipes/cgc/unrel.py."""

import pytest
import torch

from conftest import REPOSITORY
from sightline import load_model
from sightline.errors import SightlineError

SPEC = f"file:{REPOSITORY}/recipes/cgc/unrel.py:resnet50"


def test_a_category_is_as_likely_as_the_likeliest_of_its_classes():
    net = load_model("torchvision:resnet50").eval()
    torch.save(net.net.state_dict(), "w.pth")
    grouped, image = load_model(SPEC, num_classes=28, weights="w.pth").eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        every, few = net(image), grouped(image)
    torch.testing.assert_close(few[:, 9], every[:, 151:269].amax(1))  # dogs
    torch.testing.assert_close(few[:, 10], every[:, [101, 385, 386]].amax(1))  # elephants
    torch.testing.assert_close(few[:, 27], every[:, 883])  # vases


def test_other_categories():
    with pytest.raises(SightlineError, match=r"the data have 3 categories, KINDS in .*unrel\.py has 28"):
        load_model(SPEC, num_classes=3)
