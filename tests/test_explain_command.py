"""`sightline explain`: what it writes, what it prints, and what it refuses."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import sightline
from sightline import colours, explainers, illustrate, models, plates, recipe, sheet
from sightline.cli import main
from sightline.data import Folder
from sightline.data.loose import distinct, gather, read_volume
from sightline.errors import SightlineError
from sightline.explainers import GradCAM, InputXGradient, bind
from sightline.explainers.names import named
from sightline.layers import Candidate

CLASSES = ("cat", "cow", "dog")
NAMES = sorted(set(explainers.__all__) - {"Explainer", "bind", "explain"})
EARLY = "GradCAM:layer=net.block1"


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Images, a run on them (untrained: nothing here asks for accuracy), and its model alone."""
    home = tmp_path_factory.mktemp("made")
    for i, label in enumerate(CLASSES):
        (home / "data" / "train" / label).mkdir(parents=True)
        for j in range(2):
            Image.fromarray(noise(10 * i + j, 40, 50, 3)).save(home / f"data/train/{label}/{j}.png")
    settings = {
        "data": {"class_path": "Folder", "init_args": {"root": "data", "size": [24, 32]}},
        "model": {"spec": "sightline:cnn", "arguments": {"filters": [4, 8]}},
        "objectives": ["CE"],
    }
    (home / "recipe.yaml").write_text(yaml.safe_dump(settings))
    (home / "run").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        config = recipe.read("recipe.yaml")
        torch.manual_seed(0)
        models.save(recipe.build(config).classifier(), "run/model.safetensors")
    (home / "run/recipe.yaml").write_text(recipe.dump(config))
    shutil.copy(home / "run/model.safetensors", home / "alone.safetensors")
    return home


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def explain(*arguments):
    assert main(["explain", *map(str, arguments), "--out", "out"]) == 0
    with np.load("out/maps.npz", allow_pickle=False) as saved:
        return dict(saved)


def refused(capsys, *arguments):
    """What a mistake prints; it leaves no file."""
    assert main(["explain", *map(str, arguments), "--out", "out"]) == 1
    assert not list(Path("out").glob("*"))
    return capsys.readouterr().err


def network(body="nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)", weight="1"):
    """A model of one's own, whose head is multiplied by `weight`."""
    Path("net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net(num_classes):\n"
        "    torch.manual_seed(0)\n"
        "    head = nn.Linear(4, num_classes)\n"
        f"    head.weight.data *= {weight}\n"
        f"    return nn.Sequential({body}, nn.Flatten(), head)\n"
    )
    return "file:net.py:net"


# What is written ------------------------------------------------------------------------------------------------------


def test_a_folder_of_a_dataset_means_the_images_of_its_classes(home):
    shutil.move("data/train", "photos/images")
    assert gather(["photos"]) == gather([f"photos/images/{label}" for label in CLASSES])


def test_files_and_arrays(home, capsys):
    saved = explain("run", "data/train/cat", "--explainer", "GradCAM", "InputXGradient", EARLY)
    names = ["GradCAM", "InputXGradient", "GradCAM-2"]
    maps = {f"map/{i}/{name}" for i in (0, 1) for name in names}
    overlays = {f"overlay-{i}-{name}.png" for i in (0, 1) for name in names}
    assert {path.name for path in (home / "out").iterdir()} == overlays | {"maps.npz", "contact_sheet.png"}
    assert set(saved) == {"id", "path", "target", "logits", "probability", "classes", "explainer", "repr"} | maps
    assert saved["id"].tolist() == ["0", "1"]
    assert saved["path"].tolist() == ["data/train/cat/0.png", "data/train/cat/1.png"]
    assert tuple(saved["classes"]) == CLASSES
    assert saved["explainer"].tolist() == names
    assert saved["repr"].tolist()[::2] == [repr(GradCAM(f"net.block{i}")) for i in (2, 1)]
    assert saved["target"].tolist() == saved["logits"].argmax(1, keepdims=True).tolist()
    np.testing.assert_allclose(saved["probability"], torch.tensor(saved["logits"]).softmax(1), rtol=1e-5)
    assert all(saved[name].dtype == np.float32 for name in maps)
    printed = capsys.readouterr().out
    assert f"{CLASSES[saved['target'][0, 0]]} ({100 * saved['probability'][0].max():.1f} %)" in printed
    assert all(name in printed for name in overlays)


def test_maps_are_those_of_the_training_images(home):
    """The same pixels, and the same map as from the explainer alone."""
    files = [f"data/train/{label}/{j}.png" for label in CLASSES for j in range(2)]
    saved = explain("file:run", *files, "--explainer", "InputXGradient", "GradCAM", "--batch-size", "4")
    model, data = sightline.load_model("file:run"), Folder("data", size=(24, 32))
    images = torch.stack([data[i].image for i in range(6)])
    for explainer in (GradCAM(), InputXGradient()):
        expected = sightline.explain(model, images, explainer=explainer).numpy()
        found = np.stack([saved[f"map/{id}/{type(explainer).__name__}"][0] for id in saved["id"]])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


def test_the_batch_size_changes_nothing(home):
    whole = explain("run", "data/train/cat", "data/train/dog/1.png")
    single = explain("run", "data/train/cat", "data/train/dog/1.png", "--batch-size", "1")
    for name in ("logits", "target", "map/0/GradCAM", "map/cat-1/GradCAM", "map/dog-1/GradCAM"):
        np.testing.assert_allclose(whole[name], single[name], rtol=1e-4, atol=1e-7)


def test_all_explainers_share_one_pass_and_leave_the_model_alone(home):
    model = sightline.load_model("file:run").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    runs = []
    handle = model.register_forward_hook(lambda *_: runs.append(1))
    chosen = [bind(e, model, (24, 32)) for e in (GradCAM(), GradCAM(elementwise=True), InputXGradient())]
    runs.clear()
    paths = [f"data/train/{label}/{j}.png" for label in CLASSES for j in range(2)]
    illustrate.illustrate(model, paths, "out", explainers=chosen, size=(24, 32), batch_size=4)
    handle.remove()
    assert len(runs) == 2
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_files_of_one_stem_do_not_overwrite_each_other(home):
    saved = explain("run", *[f"data/train/{label}/0.png" for label in CLASSES], "data/train/cow/1.png")
    assert saved["id"].tolist() == ["cat-0", "cow-0", "dog-0", "1"]
    assert len(list((home / "out").glob("overlay-*.png"))) == 4
    assert not np.array_equal(saved["map/cat-0/GradCAM"], saved["map/cow-0/GradCAM"])


def test_no_paths_at_all():
    with pytest.raises(SightlineError, match="paths is empty"):
        illustrate.illustrate(models.load("sightline:cnn"), [], "out")


def test_distinct_names():
    paths = ["a/x.png", "b/a/x.png", "b/X.jpg", "c/x-2.png", "c/y.png"]
    names = distinct([Path(path) for path in paths])
    assert names == ["a-x", "a-x-2", "b-X", "x-2", "y"]
    assert distinct([Path("a/x.png")] * 3) == ["a-x", "a-x-2", "a-x-3"]


def test_the_most_probable_classes_side_by_side(home):
    saved = explain("run", "data/train/cat/0.png", "--top", "2")
    order = saved["logits"][0].argsort()[::-1]
    assert saved["target"][0].tolist() == order[:2].tolist()
    assert saved["map/0/GradCAM"].shape == (2, 12, 16)
    assert {path.name for path in (home / "out").glob("overlay-*")} == {
        f"overlay-0-GradCAM-class{c}.png" for c in order[:2]
    }
    for place, target in enumerate(order[:2]):
        alone = explain("run", "data/train/cat/0.png", "--target", target)
        np.testing.assert_array_equal(alone["map/0/GradCAM"][0], saved["map/0/GradCAM"][place])


def test_a_class_by_name_or_index(home):
    for told in ("dog", "2"):
        assert explain("run", "data/train/cat/0.png", "--target", told)["target"].tolist() == [[2]]


def test_a_digit_that_is_a_name_is_a_name():
    assert illustrate.which("3", ["1", "3"]) == 1
    assert illustrate.which("3", ["one", "three"]) == 3


def test_a_model_that_is_no_run_is_told_its_classes_and_size(home, capsys):
    Path("names.txt").write_text("a cat\na cow\na dog\n\n")
    saved = explain("file:alone.safetensors", "data/train/cat/0.png", "--size", "20", "--classes", "names.txt")
    assert saved["classes"].tolist() == ["a cat", "a cow", "a dog"]
    assert saved["map/0/GradCAM"].shape == (1, 10, 10)
    saved = explain(network(), "data/train/cat/0.png", "--classes", "5")
    assert saved["logits"].shape == (1, 5)
    assert saved["map/0/GradCAM"].shape == (1, 224, 224)
    saved = explain("sightline:cnn", "data/train/cat/0.png", "--size", "16")
    assert saved["classes"].size == 0
    assert "class " in capsys.readouterr().out


def test_random_weights_are_called_so(home, capsys):
    explain("sightline:cnn", "data/train/cat/0.png", "--size", "16")
    assert "random weights" in capsys.readouterr().err


@pytest.mark.parametrize("around", [[], ["Propagated", "Swapped"]])
def test_a_run_whose_data_are_gone(home, caplog, around):
    config = yaml.safe_load(Path("run/recipe.yaml").read_text())
    for kind in around:
        config["data"] = {"class_path": kind, "init_args": {"data": config["data"]}}
    Path("run/recipe.yaml").write_text(yaml.safe_dump(config))
    shutil.move("data/train/cat/0.png", "x.png")
    shutil.rmtree("data")
    saved = explain("run", "x.png")
    assert saved["classes"].size == 0
    assert saved["map/x/GradCAM"].shape == (1, 12, 16)
    assert "no names" in caplog.text
    Path("run/run.json").write_text(json.dumps({"data": {"size": [24, 32], "classes": CLASSES}}))
    assert explain("run", "x.png")["classes"].tolist() == list(CLASSES)
    assert "as noted" in caplog.text


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_images_of_any_mode_are_read_as_in_training(home, mode):
    image = Image.fromarray(noise(7, 40, 50, 3)).convert(mode)
    suffix = "tif" if mode == "CMYK" else "png"
    for path in (f"x.{suffix}", f"data/train/cat/0.{suffix}"):
        image.save(path)
    if suffix == "tif":
        Path("data/train/cat/0.png").unlink()
    shown = illustrate.illustrate(sightline.load_model("file:run"), [f"x.{suffix}"], "out", size=(24, 32))
    expected = (255 * Folder("data", size=(24, 32))[0].image).round()
    np.testing.assert_array_equal(shown[0].image, expected.numpy())


def test_a_picture_is_turned_as_its_exif_orientation_says(home):
    image = Image.fromarray(noise(7, 40, 50, 3))
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn clockwise
    image.save("turned.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save("upright.png")
    saved = explain("run", "turned.png", "upright.png")
    np.testing.assert_array_equal(saved["map/turned/GradCAM"], saved["map/upright/GradCAM"])


def test_a_grey_model_gets_grey_images(home):
    body = "nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)"
    explain(network(body), "data/train/cat/0.png", "--size", "32")


def test_an_empty_map_is_called_so(home, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(sheet.Picture, "of", keep(shown, sheet.Picture.of))
    saved = explain(network(weight="-head.weight.data.sign()"), "data/train/cat", "--size", "32", "--classes", "3")
    assert not saved["map/0/GradCAM"].any()
    assert capsys.readouterr().out.count("empty map") == 2
    assert [detail for _, _, detail in shown].count("empty map") == 2


def keep(calls, function):
    def kept(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return kept


# All or nothing -------------------------------------------------------------------------------------------------------


def test_an_error_at_the_end_leaves_what_was_there(home, monkeypatch, capsys):
    explain("run", "data/train/cat")
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sheet, "_page", fail)
    assert main(["explain", "run", "data/train/cat", "data/train/dog", "--out", "out"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


def test_a_folder_that_cannot_be_written_is_found_before_the_work(home, capsys, monkeypatch):
    monkeypatch.setattr(illustrate, "record", None)
    Path("file").touch()
    assert main(["explain", "run", "data/train/cat", "--out", "file/out"]) == 1
    assert "cannot write file/out" in capsys.readouterr().err


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "data/train/cat", "nothing.png"], "nothing.png does not exist"),
        (["run", "data"], "data holds no file ending in"),
        (["run", "data/train/cat", "--explainer", "GradCam"], "Did you mean 'GradCAM'"),
        (["run", "data/train/cat", "--explainer", "GradCAM:elementwize=true"], "Did you mean 'elementwise'"),
        (["run", "data/train/cat", "--explainer", "GradCAM:elementwise=perhaps"], "perhaps"),
        (["run", "data/train/cat", "--explainer", "GradCAM:elementwise"], "key=value"),
        (["run", "data/train/cat", "--explainer", "GradCAM:layer=net.blok2"], "Did you mean 'net.block2'"),
        (["run", "data/train/cat", "--target", "bog"], "Did you mean 'dog'"),
        (["run", "data/train/cat", "--target", "3"], "classes 0 to 2"),
        (["run", "data/train/cat", "--target", "-1"], "no class '-1'"),
        (["run", "data/train/cat", "--top", "4"], "3 classes"),
        (["run", "data/train/cat", "--classes", "4"], "3 outputs"),
        (["run", "data/train/cat", "--classes", "none.txt"], "none.txt"),
        (["run", "data/train/cat", "--weights", "x.pt"], "brings its weights"),
        (["file:alone.safetensors", "data/train/cat", "--target", "dog"], "give an index"),
        (["data", "data/train/cat"], "holds no recipe.yaml"),
        (["rnu", "data/train/cat"], "no run directory rnu"),
        (["sightline:cnm", "data/train/cat"], "Did you mean 'cnn'"),
        (["run", "run/model.safetensors"], "cannot be read as an image"),
    ],
)
def test_mistakes_are_named(home, capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_target_and_top_exclude_each_other(home):
    with pytest.raises(SystemExit, match="2"):
        main(["explain", "run", "data/train/cat", "--target", "1", "--top", "2"])


def test_one_bad_image_among_good_ones(home, capsys):
    path = Path("data/train/dog/1.png")
    path.write_bytes(path.read_bytes()[:200])
    assert str(path) in refused(capsys, "run", "data/train/cat", "data/train/dog")


def test_more_than_eight_bits(home, capsys):
    Image.fromarray(noise(0, 40, 50).astype(np.uint16) * 100).save("deep.png")
    assert "deep.png has more than 8 bits" in refused(capsys, "run", "deep.png")


def test_a_size_the_model_does_not_take(home, capsys):
    spec = network("nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(32)")
    said = refused(capsys, spec, "data/train/cat", "--size", "64", "--explainer", "InputXGradient")
    assert "the size it was built for" in said
    assert "the size it was built for" in refused(capsys, spec, "data/train/cat", "--size", "64")


def test_a_map_that_is_not_finite_names_image_and_explainer(home, capsys, monkeypatch):
    second = GradCAM.__call__

    def broken(self, run, target=None, *, differentiable=False):
        maps = second(self, run, target)
        maps[1] = math.nan
        return maps

    monkeypatch.setattr(GradCAM, "__call__", broken)
    said = refused(capsys, "run", "data/train/cat")
    assert "data/train/cat/1.png" in said
    assert "GradCAM(layer='net.block2'" in said


def test_weights_that_are_not_finite(home, capsys):
    assert "logits" in refused(
        capsys, network(weight="float('nan')"), "data/train/cat", "--size", "32", "--explainer", "GradCAM:layer=net.1"
    )


# Volumes --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def volume_net(home):
    return network("nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1)")


def test_volumes(volume_net):
    values = np.random.default_rng(0).random((6, 8, 10), np.float32)
    Path("scans").mkdir()
    np.save("scans/a.npy", values)
    np.savez("scans/b.npz", scan=(255 * values[None]).astype(np.uint8))
    saved = explain(volume_net, "scans", "--classes", "3", "--explainer", "GradCAM", "InputXGradient")
    assert saved["id"].tolist() == ["a", "b"]
    assert saved["map/a/GradCAM"].shape == saved["map/a/InputXGradient"].shape == (1, 6, 8, 10)
    model = models.load(volume_net, num_classes=3)
    expected = sightline.explain(model, torch.from_numpy(values)[None, None]).numpy()
    np.testing.assert_allclose(saved["map/a/GradCAM"], expected, rtol=1e-5)
    with Image.open("out/overlay-a-GradCAM.png") as overlay:
        assert overlay.size == (17 * 16, 15 * 16)  # 10 + 1 + 6 across, 8 + 1 + 6 down
        assert overlay.getpixel((17 * 16 - 1, 15 * 16 - 1)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        (np.zeros((4, 5), np.float32), r"shape \(4, 5\)"),
        (np.zeros((2, 4, 5, 6), np.float32), "1 channel"),
        (np.zeros((4, 5, 6), np.int64), "int64"),
        (np.full((4, 5, 6), 2.0), "within"),
        (np.full((4, 5, 6), math.nan), "NaN"),
        (np.zeros((0, 5, 6)), "shape"),
        (np.array([None]), "as one array"),
    ],
)
def test_bad_volumes(tmp_path, volume, message):
    np.save(tmp_path / "x.npy", volume, allow_pickle=True)
    with pytest.raises(SightlineError, match=rf"x\.npy.*{message}"):
        read_volume(tmp_path / "x.npy", 1)


def test_bad_archives(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:100])
    (tmp_path / "text.npy").write_text("text")
    for name in ("two.npz", "cut.npz", "text.npy"):
        with pytest.raises(SightlineError, match=name):
            read_volume(tmp_path / name, 1)


def test_volumes_of_two_shapes(volume_net, capsys):
    np.save("a.npy", np.zeros((4, 5, 6)))
    np.save("b.npy", np.zeros((4, 5, 7)))
    assert "b.npy has shape" in refused(capsys, volume_net, "a.npy", "b.npy")


def test_volumes_and_images_are_not_mixed_up(volume_net, capsys):
    np.save("a.npy", np.zeros((4, 5, 6)))
    assert "the model takes images" in refused(capsys, "run", "a.npy")
    assert "data/train/cat/0.png is no volume" in refused(capsys, volume_net, "data/train/cat/0.png")


def test_slices_meet_at_the_peak():
    volume = np.zeros((6, 8, 10), np.float32)
    volume[1, 2, 3] = 1
    at = plates.peak(volume, volume.shape)
    assert at == (1, 2, 3)
    shown = plates.plain(volume[None], at)
    cell = shown.shape[0] // 15
    bright = np.argwhere(shown[::cell, ::cell, 0] == 255)
    white = {(row, column) for row in range(15) for column in range(17) if row == 8 or column == 10}
    corner = {(row, column) for row in range(9, 15) for column in range(11, 17)}
    assert set(map(tuple, bright)) - white - corner == {(2, 3), (2, 11 + 1), (8 + 1 + 1, 3)}
    assert plates.peak(np.zeros((2, 2, 2)), (6, 8, 10)) == (3, 4, 5)


# How it looks ---------------------------------------------------------------------------------------------------------


def test_signed_maps_are_orange_and_blue_and_let_the_image_through():
    image = np.broadcast_to(np.array([[0, 255, 0, 255]], np.uint8), (3, 1, 4))
    pixels = plates.overlay(image, np.array([[1.0, -1.0, 0.0, 0.0]]), (0, 0), (-1.0, 1.0))
    positive, negative, black, white = (pixels[0, pixels.shape[1] * i // 4] for i in range(4))
    np.testing.assert_allclose(positive, colours.SIGNED[0])
    np.testing.assert_allclose(negative, colours.SIGNED[1])
    assert np.ptp(black) == np.ptp(white) == 0
    assert white[0] - black[0] > 100


def test_maps_without_a_sign_get_lighter_as_they_grow():
    pixels = plates.overlay(np.full((3, 8, 8), 128, np.uint8), np.arange(64.0).reshape(8, 8), (0, 0), (0.0, 63.0))
    side = pixels.shape[0] // 8
    assert (np.diff(pixels[::side, ::side].mean(2).ravel()) >= 0).all()


def test_ends():
    ramp = np.arange(1000.0)
    assert colours.ends(ramp, signed=False) == (0, pytest.approx(np.quantile(ramp, 0.995)))
    assert colours.ends(-ramp, signed=True) == (pytest.approx(-994.005), pytest.approx(994.005))
    assert colours.ends(ramp + 2000, signed=False)[0] == 2000
    assert colours.ends(np.full(9, 3.0), signed=False) == (0, 3)
    assert colours.ends(np.zeros(9), signed=True) == (-1, 1)
    spike = np.zeros(1000)
    spike[0] = 5
    assert colours.ends(spike, signed=False) == (0, 5)


def test_rounding_gives_a_map_no_sign():
    assert not colours.signed(np.array([-1e-6, 1.0]))
    assert colours.signed(np.array([-0.1, 1.0]))
    assert not colours.signed(np.zeros(3))


def test_the_sheet_holds_every_row_in_cells_that_do_not_overlap(monkeypatch):
    monkeypatch.setattr(sheet, "HIGH", 1000)
    columns = [sheet.Column("image", ""), sheet.Column("map", "", colours.bar(), ("low", "", "high"))]
    tones = [(20 + 5 * i, 90, 40) for i in range(20)]
    rows = [[sheet.Picture.of(np.full((9, 12, 3), tone, np.float32), "x" * 99, "")] * 2 for tone in tones]
    pages = list(sheet.draw("title", "note " * 200, columns, iter(rows), len(rows)))
    assert len(pages) == 2
    assert all(page.width <= sheet.WIDE + 2 * sheet.MARGIN for page in pages)
    area = {colour: count for page in pages for count, colour in page.getcolors(2**24)}
    assert all(area[tone] == 2 * 240 * 180 for tone in tones)


def test_text_keeps_both_ends_and_its_width():
    font = sheet._font(13)
    shown = sheet._elided("predicted: a class of a very long name indeed (99.9 %)", font, 160)
    assert shown.startswith("predicted:")
    assert shown.endswith("(99.9 %)")
    assert font.getlength(shown) <= 160
    assert sheet._elided("short", font, 160) == "short"


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_explainer_has_a_name(name):
    assert named(name) == getattr(explainers, name)()


def test_arguments_are_read_as_their_types():
    assert named("GradCAM:layer=3,elementwise=true") == GradCAM("3", elementwise=True)
    assert named("GradCAM: layer = net.layer3 ") == GradCAM("net.layer3")
    assert named("InputXGradient:reduce=null") == replace(InputXGradient(), reduce=None)


def test_maps_with_channels_are_drawn_as_their_sum(home):
    saved = explain("run", "data/train/cat/0.png", "--explainer", "InputXGradient:reduce=null", "InputXGradient")
    assert saved["map/0/InputXGradient"].shape == (1, 3, 24, 32)
    np.testing.assert_allclose(saved["map/0/InputXGradient"].sum(1), saved["map/0/InputXGradient-2"], atol=1e-6)
    overlays = [np.asarray(Image.open(f"out/overlay-0-InputXGradient{n}.png")) for n in ("", "-2")]
    assert np.abs(overlays[0].astype(int) - overlays[1]).max() <= 1


# Layers ---------------------------------------------------------------------------------------------------------------


def test_the_layers_of_a_run(home, capsys):
    assert main(["layers", "run", "--size", "32"]) == 0
    chosen = [line for line in capsys.readouterr().out.splitlines() if line.startswith("->")]
    assert chosen[0].split()[1:] == ["net.block2", "8", "x", "16", "x", "16"]


def test_a_layer_whose_positions_cannot_be_told_is_marked_and_nothing_chosen(home, capsys, monkeypatch):
    found = [Candidate("late", (4, 9), True, False), Candidate("early", (4, 3, 3), True, True)]
    monkeypatch.setattr("sightline.layers.candidates", lambda *_: iter(found))
    assert main(["layers", "run"]) == 0
    printed = capsys.readouterr().out
    assert " ? late" in printed
    assert "No layer qualifies by itself" in printed
    assert "-> " not in printed
