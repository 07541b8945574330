import pytest
import torch

from sightline.maps import resize, resize_transposed
from sightline.views import Crop


@pytest.mark.parametrize("size", [(20, 26), (9, 8, 10)])
def test_crop_equals_slicing_resizing_and_mirroring_each_image(size):
    images = torch.rand(6, 2, *size, dtype=torch.float64)
    crop, out = Crop.sample(6, size), tuple(s - 1 for s in size)
    for i, cut in enumerate(crop.apply(images, out)):
        box = tuple(slice(a, a + n) for a, n in zip(crop.start[i].tolist(), crop.extent[i].tolist(), strict=True))
        expected = resize(images[i : i + 1, :, *box], out)[0]
        expected = expected.flip(-1) if crop.flip[i] else expected
        torch.testing.assert_close(cut, expected, rtol=0, atol=1e-13)


def test_a_coarse_map_is_cut_as_the_image_is():
    maps, crop = torch.rand(4, 5, 6, dtype=torch.float64), Crop.sample(4, (20, 26))
    torch.testing.assert_close(crop.apply(maps), crop.apply(resize(maps, (20, 26))), rtol=0, atol=1e-13)


def test_crops_lie_inside_keep_the_asked_share_and_mirror_half():
    crop = Crop.sample(4000, (40, 60), scale=(0.2, 0.5))
    assert (crop.start >= 0).all()
    assert (crop.start + crop.extent <= torch.tensor([40, 60])).all()
    share = crop.extent.prod(1) / 2400
    assert share.min() > 0.15
    assert share.max() < 0.55
    assert abs(crop.flip.double().mean() - 0.5) < 0.05


def test_the_same_generator_draws_the_same_crop():
    a, b = (Crop.sample(5, (9, 9), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a.start, b.start)
    assert torch.equal(a.extent, b.extent)


def test_resize_transposed_is_the_transpose_of_resize():
    maps, fine = torch.rand(3, 5, 7, dtype=torch.float64), torch.rand(3, 16, 11, dtype=torch.float64)
    left = (resize(maps, (16, 11)) * fine).sum((1, 2))
    torch.testing.assert_close(left, (maps * resize_transposed(fine, (5, 7))).sum((1, 2)), rtol=0, atol=1e-12)
