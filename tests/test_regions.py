"""Regions: what each marks, against slower and plainer ways to say the same; what each refuses."""

import base64
import io
import itertools
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.spatial.distance import cdist
from skimage.draw import polygon2mask

from sightline.errors import SightlineError
from sightline.regions import (
    AsBox,
    Boxes,
    Brush,
    Dilated,
    MaskFile,
    Points,
    Polygons,
    Region,
    Relative,
    Runs,
    Scribbles,
    Sized,
    Union,
    ellipse,
)
from sightline.regions.runs import compress, decompress, run_lengths

SIZE = (20, 30)
MASKS = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.booleans()).filter(np.any)
PLACES = st.floats(-5, 35).map(lambda value: round(value, 3))
RINGS = st.lists(PLACES, min_size=6, max_size=16).filter(lambda ring: len(ring) % 2 == 0)


def centres(size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H * W, 2) x and y."""
    rows, columns = np.indices(size)
    return np.stack([columns, rows], -1).reshape(-1, 2) + 0.5


def windings(ring: list[float], x: float, y: float) -> bool:
    """Whether a ray to the left meets an odd number of edges."""
    points = list(zip(ring[::2], ring[1::2], strict=True))
    odd = False
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if (y0 <= y) != (y1 <= y):
            odd ^= x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
    return odd


def plain_runs(flat: list[bool]) -> list[int]:
    counts, value = [0], False
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def plain_compress(counts: list[int]) -> str:
    """The loop COCO's C code runs."""
    text = ""
    for place, count in enumerate(counts):
        value, more = count - (counts[place - 2] if place > 2 else 0), True
        while more:
            group = value & 31
            value >>= 5
            more = value != -1 if group & 16 else value != 0
            text += chr(group + (32 if more else 0) + 48)
    return text


def pack(values: bytes, literal: bool = False) -> bytes:
    """Bytes as Label Studio's brush packs them: runs of one value, or all as they are."""
    bits = f"{len(values):032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}"
    if literal:
        return spell(bits + f"0{3:02b}{len(values) - 1:016b}" + "".join(f"{value:08b}" for value in values))
    at = 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at]:
            end += 1
        bits += f"1{3:02b}{end - at - 1:016b}{values[at]:08b}"
        at = end
    return spell(bits)


def spell(bits: str) -> bytes:
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def rgba(mask: np.ndarray) -> bytes:
    return np.repeat(mask.ravel(), 4).astype(np.uint8).tobytes().replace(b"\1", b"\xff")


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    Image.fromarray(pixels).convert(mode).save(path) if mode else Image.fromarray(pixels).save(path)
    return path


def test_boxes_are_rounded_cut_off_and_never_vanish() -> None:
    marked = Boxes(((-3.0, 1.6, 2.4, 4.5), (10.1, 10.1, 10.2, 10.2), (28.0, 19.0, 90.0, 90.0))).draw(SIZE)
    expected = np.zeros(SIZE, np.bool_)
    expected[2:4, :2] = expected[10, 10] = expected[19, 28:] = True
    np.testing.assert_array_equal(marked, expected)


@settings(max_examples=30)
@given(ring=RINGS)
def test_polygons_follow_the_even_odd_rule(ring: list[float]) -> None:
    left, right = (np.array([windings(ring, x + shift, y) for x, y in centres()]) for shift in (-1e-6, 1e-6))
    clear = left == right  # whether a centre on an edge is inside is a matter of rounding
    if left.any() and right.any():
        np.testing.assert_array_equal(Polygons((tuple(ring),)).draw(SIZE).ravel()[clear], left[clear])


def test_a_polygon_agrees_with_skimage() -> None:
    ring = (2.2, 1.3, 25.7, 3.1, 18.9, 17.6, 8.8, 9.9)
    theirs = polygon2mask(SIZE, np.array(ring).reshape(-1, 2)[:, ::-1] - 0.5)
    np.testing.assert_array_equal(Polygons((ring,)).draw(SIZE), theirs)


def test_rings_are_joined_and_cut_off_at_the_edge() -> None:
    left, right = (-9.0, -9.0, 10.0, -9.0, 10.0, 50.0, -9.0, 50.0), (5.0, 0.0, 20.0, 0.0, 20.0, 20.0, 5.0, 20.0)
    marked = Polygons((left, right)).draw(SIZE)
    assert marked[:, :20].all()
    assert not marked[:, 20:].any()


def test_a_polygon_between_centres_marks_its_pixel() -> None:
    marked = Polygons(((3.6, 4.6, 3.9, 4.6, 3.9, 4.9),)).draw(SIZE)
    assert np.argwhere(marked).tolist() == [[4, 3]]
    assert np.argwhere(Polygons(((5.0, 6.0, 5.0, 6.0, 5.0, 6.0),)).draw(SIZE)).tolist() == [[6, 5]]


@given(x=PLACES, y=PLACES, radius=st.floats(0, 9))
def test_points_are_discs(x: float, y: float, radius: float) -> None:
    expected = (cdist(centres(), [[x, y]])[:, 0] <= max(radius, 0.5**0.5)).reshape(SIZE)
    if expected.any():
        np.testing.assert_array_equal(Points((x, y), radius).draw(SIZE), expected)


def test_scribbles_are_as_wide_as_they_say() -> None:
    line = (2.0, 3.0, 20.0, 8.0, 5.0, 18.0)
    ends = np.array(line).reshape(-1, 2)
    dense = np.concatenate([np.linspace(a, b, 4000) for a, b in itertools.pairwise(ends)])
    away = cdist(centres(), dense).min(1).reshape(SIZE)
    marked = Scribbles((line,), 4.0).draw(SIZE)
    assert marked[away <= 1.99].all()
    assert not marked[away > 2.01].any()
    assert Scribbles(((4.0, 4.0),)).draw(SIZE).sum() == 4


def test_an_ellipse_covers_its_area() -> None:
    marked = Polygons((ellipse(15, 10, 9, 4, 30),)).draw(SIZE)
    assert abs(marked.sum() - np.pi * 36) < 4
    assert marked[13, 21]
    assert not marked[6, 21]


@pytest.mark.parametrize(
    "region",
    [
        Boxes(((40.0, 0.0, 50.0, 10.0),), source="a.json, box 3"),
        Boxes(((5.0, 5.0, 5.0, 9.0),), source="a.json, box 3"),
        Polygons(((40.0, 0.0, 50.0, 0.0, 50.0, 9.0),), source="a.json, box 3"),
        Polygons((), source="a.json, box 3"),
        Points((-9.0, 3.0), 2.0, source="a.json, box 3"),
        Scribbles(((-9.0, 3.0, -9.0, 5.0),), source="a.json, box 3"),
    ],
)
def test_what_lies_outside_is_refused_by_name(region: Region) -> None:
    with pytest.raises(SightlineError, match=r"a\.json, box 3: .* lies outside its image of 30 x 20"):
        region.draw(SIZE)


@given(mask=MASKS)
def test_run_lengths_of_either_order_are_decoded(mask: np.ndarray) -> None:
    columns, rows = plain_runs(mask.T.ravel().tolist()), plain_runs(mask.ravel().tolist())
    assert run_lengths(mask) == tuple(columns)
    assert run_lengths(mask, "rows") == tuple(rows)
    assert compress(columns) == plain_compress(columns)
    for region in (
        Runs(tuple(columns), mask.shape),
        Runs(plain_compress(columns), mask.shape),
        Runs(tuple(rows), mask.shape, "rows"),
    ):
        np.testing.assert_array_equal(region.draw(mask.shape), mask)
    large = Runs(tuple(rows), mask.shape, "rows", (3, 2)).draw((20, 30))
    np.testing.assert_array_equal(large[2 : 2 + mask.shape[0], 3 : 3 + mask.shape[1]], mask)
    assert large.sum() == mask.sum()


@given(counts=st.lists(st.integers(0, 10**8), min_size=1, max_size=40))
def test_large_counts_survive_compression(counts: list[int]) -> None:
    assert compress(counts) == plain_compress(counts)
    assert decompress(plain_compress(counts)).tolist() == counts


@given(mask=MASKS, literal=st.booleans())
def test_brushes_are_unpacked(mask: np.ndarray, literal: bool) -> None:
    np.testing.assert_array_equal(Brush(pack(rgba(mask), literal), mask.shape).draw(mask.shape), mask)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Runs((300, 301), SIZE), "add up to 601, not to 30 x 20"),
        (Runs((-5, 605), SIZE), "add up to 600, not to"),
        (Runs((600,), SIZE), "mark no pixel"),
        (Runs((), SIZE), "add up to 0"),
        (Runs((300, 300), (30, 20)), "20 x 30 pixels do not fit an image of 30 x 20"),
        (Runs((0, 100_000_000), (10_000, 10_000)), "do not fit"),
        (Runs((0, 4), (2, 2), "rows", (29, 0)), "do not fit"),
        (Runs("é", SIZE), "compressed run lengths are damaged"),
        (Runs("a" * 40, SIZE), "compressed run lengths are damaged"),
        (Runs("o" * 40 + "0", SIZE), "larger than any image"),
        (Runs("", SIZE), "compressed run lengths are damaged"),
        (Brush(pack(bytes(2400)), SIZE), "marks no pixel"),
        (Brush(pack(bytes(2396)), SIZE), "does not hold"),
        (Brush(b"", SIZE), "does not hold"),
        (Brush(pack(bytes([255]) * 2400, literal=True)[:500], SIZE), "ends before its last pixel"),
        (Brush(pack(bytes([255]) * 2400)[:7], SIZE), "ends before its last pixel"),
        (Brush(pack(bytes(2400)), (30, 20)), "does not fit"),
        (Sized(Boxes(((0.0, 0.0, 9.0, 9.0),)), (30, 20)), "annotated as 20 x 30 pixels, its image has 30 x 20"),
    ],
)
def test_damaged_run_lengths_are_refused(region: Region, message: str) -> None:
    with pytest.raises(SightlineError, match=message):
        region.draw(SIZE)


def test_regions_are_made_from_regions() -> None:
    one, other = Boxes(((2.0, 3.0, 4.0, 6.0),)), Boxes(((20.0, 10.0, 25.0, 12.0),))
    both = Union((one, other))
    np.testing.assert_array_equal(both.draw(SIZE), one.draw(SIZE) | other.draw(SIZE))
    np.testing.assert_array_equal(AsBox(both).draw(SIZE), Boxes(((2.0, 3.0, 25.0, 12.0),)).draw(SIZE))
    inside = np.argwhere(one.draw(SIZE))
    near = cdist(np.argwhere(np.ones(SIZE)), inside).min(1).reshape(SIZE) <= 2.5
    np.testing.assert_array_equal(Dilated(one, 2.5).draw(SIZE), near)
    share = Relative(Boxes(((0.5, 0.25, 1.0, 0.5),))).draw(SIZE)
    np.testing.assert_array_equal(share, Boxes(((15.0, 5.0, 30.0, 10.0),)).draw(SIZE))
    percent = Relative(Polygons(((50.0, 25.0, 100.0, 25.0, 100.0, 50.0, 50.0, 50.0),)), 100)
    np.testing.assert_array_equal(percent.draw(SIZE), share)
    assert Sized(one, SIZE).draw(SIZE).sum() == 6


def test_what_a_region_is_called_is_no_part_of_what_it_is() -> None:
    box = ((0.0, 0.0, 9.0, 9.0),)
    assert Boxes(box, source="here") == Boxes(box, source="there")
    contents = [
        region.content()
        for region in (
            Boxes(box),
            Union((Boxes(box),)),
            Dilated(Boxes(box), 1),
            Dilated(Boxes(box), 2),
            AsBox(Boxes(box)),
            Relative(Boxes(box)),
            Sized(Boxes(box), SIZE),
            Points((0.0, 0.0)),
            Scribbles(((0.0, 0.0),)),
            Runs((0, 600), SIZE),
            Brush(b"", SIZE),
        )
    ]
    assert len(set(contents)) == len(contents)
    assert b"here" not in Boxes(box, source="here").content()


@pytest.fixture
def trimap(tmp_path: Path) -> Path:
    """Background 0, object 3 in the left half, unsure 255 in the last column."""
    pixels = np.zeros(SIZE, np.uint8)
    pixels[:, :15], pixels[:, -1] = 3, 255
    return save(tmp_path / "trimap.png", pixels)


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [
        ({}, 16),
        ({"values": (3,)}, 15),
        ({"values": (3, 255)}, 16),
        ({"ignore": (255,)}, 15),
        ({"values": (3,), "ignore": (255,)}, 15),
        ({"values": (3,), "ignore": (255,), "ignored": "evidence"}, 16),
    ],
)
def test_values_and_ignored_values_of_a_mask_file(trimap: Path, arguments: dict[str, object], columns: int) -> None:
    assert MaskFile(trimap, **arguments).draw(SIZE).any(0).sum() == columns


def test_a_value_that_does_not_occur_is_an_empty_mask(trimap: Path) -> None:
    with pytest.raises(SightlineError, match=r"trimap\.png is empty: no pixel has one of the values \(7,\)"):
        MaskFile(trimap, (7,)).draw(SIZE)


def test_palettes_count_by_index_and_depth_is_no_matter(tmp_path: Path) -> None:
    pixels = np.zeros(SIZE, np.uint8)
    pixels[:4], pixels[4:8] = 1, 2
    palette = Image.fromarray(pixels)
    palette.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 0])  # 0 is shown white, 1 and 2 black
    palette.save(tmp_path / "palette.png")
    assert MaskFile(tmp_path / "palette.png").draw(SIZE).any(1).sum() == 8
    assert MaskFile(tmp_path / "palette.png", (2,)).draw(SIZE).any(1).sum() == 4
    deep = save(tmp_path / "deep.png", pixels.astype(np.uint16) * 1000)
    assert MaskFile(deep).draw(SIZE).any(1).sum() == 8
    assert MaskFile(deep, (2000,)).draw(SIZE).any(1).sum() == 4


def test_transparency_decides_where_there_is_some(tmp_path: Path) -> None:
    pixels = np.zeros((*SIZE, 4), np.uint8)
    pixels[:5, :, 3], pixels[:2, :, :3] = 255, 200
    assert MaskFile(save(tmp_path / "cut.png", pixels)).draw(SIZE).any(1).sum() == 5
    pixels[..., 3] = 255
    assert MaskFile(save(tmp_path / "opaque.png", pixels)).draw(SIZE).any(1).sum() == 2
    assert MaskFile(save(tmp_path / "grey.png", pixels, "LA")).draw(SIZE).any(1).sum() == 2


def test_colours_are_those_shown(tmp_path: Path) -> None:
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:5] = 255
    ink = save(tmp_path / "ink.tif", pixels, "CMYK")
    assert MaskFile(ink).draw(SIZE).any(1).sum() == 5
    with pytest.raises(SightlineError, match=r"ink\.tif is in colour: values"):
        MaskFile(ink, (1,)).draw(SIZE)


def test_huge_masks_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = (b"IHDR" + (20_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0]), b"IDAT")
    (tmp_path / "huge.png").write_bytes(base64.b16decode("89504E470D0A1A0A") + b"".join(map(framed, chunks)))
    with pytest.raises(SightlineError, match=r"huge\.png is 20000 x 20000 pixels, more than 100 megapixels"):
        MaskFile(tmp_path / "huge.png").draw((20_000, 20_000))
    mask = save(tmp_path / "small.png", np.full(SIZE, 255, np.uint8))
    monkeypatch.setattr("sightline.pictures.LARGEST", 600)
    assert MaskFile(mask).draw(SIZE).all()
    monkeypatch.setattr("sightline.pictures.LARGEST", 599)
    with pytest.raises(SightlineError, match=r"small\.png is 30 x 20 pixels"):
        MaskFile(mask).draw(SIZE)


def test_a_png_that_unpacks_to_more_than_it_claims_is_cut_or_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(whole, "PNG")
    text = b"zTXtbomb\0\0" + zlib.compress(bytes(200_000_000), 9)
    png = whole.getvalue()
    (tmp_path / "bomb.png").write_bytes(png[:33] + framed(text) + png[33:])
    with pytest.raises(SightlineError, match=r"bomb\.png cannot be read"):
        MaskFile(tmp_path / "bomb.png").draw(SIZE)


def framed(chunk: bytes) -> bytes:
    """A PNG's chunk with its length in front and its checksum behind."""
    return (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")


def test_real_trimaps_hold_their_masks(data_root: Path) -> None:
    trimaps = sorted((data_root / "flowers17/trimaps").rglob("*.png"))[:20]
    if not trimaps:
        pytest.skip("flowers17 is not there")
    for path in trimaps:
        mask = MaskFile(data_root / "flowers17/masks" / path.relative_to(data_root / "flowers17/trimaps"))
        sure = MaskFile(path, (255,), (128,)).draw((128, 128))
        unsure = MaskFile(path, (255,), (128,), "evidence").draw((128, 128))
        assert (sure <= unsure).all()
        assert (mask.draw((128, 128)) & ~unsure).sum() <= 0.05 * sure.sum()


def test_numbers_of_any_size_are_drawn_or_refused() -> None:
    with pytest.raises(SightlineError, match="lies outside its image of 30 x 20"):
        Points((1e300, 3.0)).draw((20, 30))
    assert Points((3.0, 3.0), 1e300).draw((20, 30)).all()
    line = Scribbles(((-1e300, 5.5, 1e300, 5.5),)).draw((20, 30))
    assert (line.sum(), line[5].all()) == (30, True)
    assert Boxes(((-1e300, 0.0, 1e300, 1.0),)).draw((20, 30)).sum() == 30
