"""The datasets: each is constructed for one split and yields `Batch`. This is the list."""

from sightline.data.adopted import Adopted
from sightline.data.aircraft import Aircraft
from sightline.data.base import Source
from sightline.data.bike_helmets import BikeHelmets
from sightline.data.brainmri import BrainMRI
from sightline.data.cars import Cars
from sightline.data.cifar10 import CIFAR10
from sightline.data.coco import COCO
from sightline.data.color import ColorMNIST, TwoColorMNIST
from sightline.data.cub import CUB
from sightline.data.decoy import DecoyFashionMNIST, DecoyMNIST
from sightline.data.domains import Domains
from sightline.data.episode import Episode
from sightline.data.flowers102 import Flowers102
from sightline.data.fold import Fold
from sightline.data.folder import Folder
from sightline.data.fraction import Fraction
from sightline.data.habitats import Habitats
from sightline.data.idrid import IDRiD
from sightline.data.imagenet import ImageNet
from sightline.data.lidc import LIDC
from sightline.data.marked import Marked
from sightline.data.oct import OCT
from sightline.data.pets import Pets
from sightline.data.propagated import Propagated
from sightline.data.swapped import Swapped
from sightline.data.unrel import UnRel
from sightline.data.voc import VOC
from sightline.data.volumes import Volumes
from sightline.data.waterbirds import Waterbirds

__all__ = [
    "CIFAR10",
    "COCO",
    "CUB",
    "LIDC",
    "OCT",
    "VOC",
    "Adopted",
    "Aircraft",
    "BikeHelmets",
    "BrainMRI",
    "Cars",
    "ColorMNIST",
    "DecoyFashionMNIST",
    "DecoyMNIST",
    "Domains",
    "Episode",
    "Flowers102",
    "Fold",
    "Folder",
    "Fraction",
    "Habitats",
    "IDRiD",
    "ImageNet",
    "Marked",
    "Pets",
    "Propagated",
    "Source",
    "Swapped",
    "TwoColorMNIST",
    "UnRel",
    "Volumes",
    "Waterbirds",
]
