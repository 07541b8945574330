"""ResNet50 of ImageNet, asked which category of UnRel it sees: that of the class with the largest logit.

Without arguments, prints the categories: --data "UnRel:only=[$(python recipes/cgc/unrel.py)]".
"""

import torch
from torch import Tensor

from sightline.compat import repair_torchvision
from sightline.models import IMAGENET

repair_torchvision()
from torchvision.models import ResNet, ResNet50_Weights  # noqa: E402
from torchvision.models.resnet import Bottleneck  # noqa: E402

CLASSES = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]

KINDS = {
    "bear": CLASSES[294:298],
    "bench": ["park bench"],
    "bottle": ["beer bottle", "pop bottle", "water bottle", "wine bottle"],
    "bowl": ["mixing bowl", "soup bowl"],
    "bus": ["minibus", "school bus", "trolleybus"],
    "cat": CLASSES[281:286],
    "clock": ["analog clock", "digital clock", "wall clock"],
    "cup": ["cup"],
    "desk": ["desk"],
    "dog": CLASSES[151:269],
    "elephant": ["tusker", "Indian elephant", "African elephant"],
    "helmet": ["crash helmet", "football helmet"],
    "jeans": ["jean"],
    "keyboard": ["computer keyboard"],
    "laptop": ["laptop"],
    "monitor": ["monitor"],
    "mouse": ["mouse"],
    "pillow": ["pillow"],
    "pizza": ["pizza"],
    "plate": ["plate"],
    "pot": ["pot"],
    "refrigerator": ["refrigerator"],
    "stove": ["stove"],
    "sunglasses": ["sunglass", "sunglasses"],
    "traffic light": ["traffic light"],
    "trash can": ["ashcan"],
    "umbrella": ["umbrella"],
    "vase": ["vase"],
}
"""ImageNet's classes by category. Which 28 CGC's authors took, and how they mapped them, is not published."""


class Categories(ResNet):
    """A logit for each of `KINDS`, of an image that was normalised with 0.5 and 0.25, as those of any file are."""

    def forward(self, image: Tensor) -> Tensor:
        mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in IMAGENET)
        logits = super().forward((0.25 * image + 0.5 - mean) / std)
        return torch.stack([logits[:, [CLASSES.index(name) for name in names]].amax(1) for names in KINDS.values()], 1)


def resnet50(num_classes: int) -> Categories:
    """The network for `--weights`: a run of table1_resnet50.yaml, or torchvision's."""
    if num_classes != len(KINDS):
        raise ValueError(f"the data have {num_classes} categories, KINDS in {__file__} has {len(KINDS)}")
    return Categories(Bottleneck, [3, 4, 6, 3])


if __name__ == "__main__":
    print(",".join(KINDS))
