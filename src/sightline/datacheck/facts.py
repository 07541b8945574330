"""What one decoding of an image tells: whether it can be read, what kind of file it is, and what later checks need."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from sightline.datacheck.samples import Draw, Sample
from sightline.errors import SightlineError
from sightline.pictures import DEEP, Flags, Pixels, strictly

VIEW = 64
"""Side of the picture that the probes read: a marker of a sixteenth of the side still has four pixels."""

THUMB = 32
"""Side of the grey picture that copies are found by."""

TINY, LARGE = 32, 25_000_000
"""Shorter side, and pixels, of an image worth a second look."""
NARROW = 3.0
"""Longer side by shorter side, from which squaring an image distorts it badly."""
BLANK = 2.0
"""Standard deviation of the grey values (0..255) below which an image shows nothing."""
DEEPER = "more than 8 bits"
"""What is said of an image that training refuses for it."""
SMALL, FULL = 0.001, 0.98
"""Shares of the image that a mask rarely covers: less than this, more than that."""


@dataclass
class Facts:
    """Of one image. What could not be read leaves the rest at its defaults."""

    broken: str = ""
    """Why it cannot be decoded."""
    bad_masks: list[str] = field(default_factory=list)
    """Why each of its masks does not fit."""
    size: tuple[int, int] = (0, 0)
    """(W, H) of the picture, upright."""
    mode: str = ""
    """As it is stored."""
    odd: list[str] = field(default_factory=list)
    weight: int = 0
    """Of the file, in bytes."""
    quality: float = 0.0
    """Mean of the JPEG quantisation table, the coarser the higher; 0 of other files."""
    number: float = 0.0
    """The last number in the file's name; 0 without one."""
    digest: bytes = b""
    thumb: Pixels | None = None
    """(32, 32) grey."""
    view: Pixels | None = None
    """(64, 64, 3)."""
    covered: float | None = None
    """Share of the image its mask covers; None without a mask."""
    mask: Flags | None = None
    """(64, 64)."""


def look(sample: Sample, keep: bool) -> Facts:
    """Decode a sample once; `keep` the view that the probes read."""
    facts = Facts()
    if sample.file is not None:
        _of_file(facts, sample.file)
    try:
        picture, draws = sample.load()
    except SightlineError as error:
        facts.broken = str(error)
        return facts
    _of_picture(facts, picture, keep)
    _of_masks(facts, picture.size[::-1], draws, keep)
    return facts


def number_in(name: str) -> float:
    """The last number in a name, 0 without one.

    >>> number_in("IMG_0042")
    42.0
    """
    found = re.findall(r"\d+", name)
    return float(found[-1][-15:]) if found else 0.0


def _of_file(facts: Facts, file: Path) -> None:
    """What the file says before it is decoded; damage is left to the decoder, who says it better."""
    facts.number = number_in(file.stem)
    try:
        facts.weight = file.stat().st_size
        with strictly(), Image.open(file) as image:
            facts.mode = image.mode
            facts.quality = _coarseness(image)
            if image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1):
                facts.odd.append("turned by EXIF")
            if getattr(image, "n_frames", 1) > 1:
                facts.odd.append("several frames")
    except Exception:  # every decoder has its own way to say that a file is damaged
        return


def _coarseness(image: Image.Image) -> float:
    tables = getattr(image, "quantization", None) or {}
    return float(np.mean(tables[0])) if 0 in tables else 0.0


def _of_picture(facts: Facts, picture: Image.Image, keep: bool) -> None:
    facts.size, facts.mode = picture.size, facts.mode or picture.mode
    facts.odd += _odd_mode(facts.mode, picture) + _odd_size(picture.size)
    colour = shown(picture)
    facts.digest = hashlib.blake2b(repr(picture.size).encode() + colour.tobytes(), digest_size=16).digest()
    small = colour.resize((VIEW, VIEW), Image.Resampling.BILINEAR, reducing_gap=3.0)
    pixels = np.asarray(small)
    facts.thumb = np.asarray(small.convert("L").resize((THUMB, THUMB), Image.Resampling.BOX))
    if np.ptp(pixels, axis=-1).max() <= 2:
        facts.odd.append("grey")
    if facts.thumb.std() < BLANK:
        facts.odd.append("blank")
    facts.view = pixels if keep else None


def shown(picture: Image.Image) -> Image.Image:
    """The picture in 8-bit colour; deeper ones scaled by their own range, transparency left out."""
    if picture.mode not in DEEP:
        return picture.convert("RGB")
    values = np.nan_to_num(np.asarray(picture, np.float64))
    low, high = values.min(), values.max()
    return Image.fromarray(np.uint8((values - low) * (255 / max(high - low, 1e-12)))).convert("RGB")


def _odd_mode(mode: str, picture: Image.Image) -> list[str]:
    names = {"P": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr", "LAB": "LAB", "HSV": "HSV", "1": "black and white"}
    alpha = mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info
    deep = [DEEPER] if mode in DEEP else []
    return deep + ([names[mode]] if mode in names else []) + (["alpha"] if alpha else [])


def _odd_size(size: tuple[int, int]) -> list[str]:
    short, long = min(size), max(size)
    found = {"tiny": short < TINY, "large": short * long > LARGE, "narrow": long > NARROW * short}
    return [name for name, true in found.items() if true]


def _of_masks(facts: Facts, size: tuple[int, int], draws: Sequence[Draw], keep: bool) -> None:
    whole = np.zeros(size, np.bool_)
    fitting = 0
    for draw in draws:
        try:
            whole |= draw(size)
            fitting += 1
        except SightlineError as error:
            facts.bad_masks.append(str(error))
    if fitting:
        facts.covered = float(whole.mean())
        if keep:
            share = Image.fromarray(np.uint8(255 * whole)).resize((VIEW, VIEW), Image.Resampling.BOX)
            facts.mask = np.asarray(share) > 0
