"""What pages say of costs is what the benchmarks measured; rounded, as written there."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def measured(name):
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def rows(text, head):
    """Cells of the lines of the table that begins with `head`."""
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def agree(text, value):
    """Whether a text is a number, rounded to the digits that it has."""
    return text == f"{value:,.{len(text.partition('.')[2])}f}"


def test_objectives():
    steps, said = measured("objectives")["steps"], rows(page("objectives"), "| with CE | x a plain step |")
    called = {said[0][0]: "CE", said[-1][0]: "composed"}
    assert [called.get(name, name) for name, *_ in said] == list(steps)
    for name, ratio, _, peak in said:
        step = steps[called.get(name, name)]
        assert agree(ratio.partition(";")[0], step["ratio"])
        assert agree(peak, step["mebibytes"])


def test_explainers():
    tables = measured("explainers")["tables"]
    models = ("torchvision:resnet18", "torchvision:vgg11", "timm:vit_tiny_patch16_224")
    columns = [tables[f"{model}, batch {batch}, 1 thread"] for model in models for batch in (1, 32)]
    compared = 0
    for name, *cells in rows(page("explainers"), "| | ResNet18, 1 image | 32 |"):
        peer, colon, names = re.sub(", of 4 samples|, over .*", "", name).rpartition(": ")
        for column, cell in zip(columns, cells, strict=True):
            for one, text in zip(names.split("; "), cell.split(";"), strict=False):
                row = column.get(spelt(peer, one), {})
                if text.strip() not in ("", "cannot"):
                    value = row["peers"][peer.replace("pytorch-grad-cam", "grad_cam")] if colon else row["ratio"]
                    assert agree(text.strip(), value), (name, text, value)
                    compared += 1
    assert compared > 60


def spelt(peer, name):
    """The benchmark's name of an explainer: of zennit's a page names LRP once."""
    name = name.replace("Grad-CAM", "GradCAM")
    return f"LRP {name}" if peer == "zennit" and not name.startswith("LRP") else name


def test_metrics():
    found, text = measured("metrics"), page("metrics")
    maps, audit = found["scores of 50,000 maps at 224 px"], found["a whole audit"]
    delong, memory = found["DeLong, 1,000,000 scores"], found["memory of an audit, MiB"]
    small, large = (
        [f"{row['over_ours']:.1f} times" for row in of.values()] for of in found["insertion and deletion"].values()
    )
    for said in (
        f"{small[1]} as long; Quantus 0.6 pixel flipping: {small[4]} |",
        f"| image by image {large[1]}; Quantus {large[4]} |",
        f"| {maps['Grad-CAM']['seconds']:,.0f} | CH {maps['CH']['seconds']:.0f}, PG",
        f"| {delong['DeLong, one']['seconds']:.2f} | {delong['DeLong, one']['over_ours']} of a sort",
        f"{audit['seconds'] / audit['images']:.0f} an image | {audit['forwards_per_image']:.0f} forwards",
        f"{audit['backwards_per_image']:.0f} backwards an image; {audit['ratio']} times",
        f"it took {memory['500']:.0f} MiB at its peak, of 5,000 {memory['5000']:.0f} MiB",
    ):
        assert said in text


@pytest.mark.parametrize(("where", "row"), [("files", "workers {}"), ("kept in memory", "kept, workers {}")])
def test_loading(where, row):
    waits = measured("loading")["rows"]
    said = re.findall(rf"\| {where}, `workers: (\d)` \| (.*) % \|", page("training"))
    assert said
    for workers, share in said:
        assert agree(share, 100 * waits[row.format(workers)]["share"])
