"""What a short training tells of the images that defy a habit: its errors, its losses, or clusters of its maps.

Run:  .venv/bin/python benchmarks/exceptions.py --seeds 0 1 2 --json recipes/habitats/exceptions.json

A model is trained with CE for two epochs on Habitats, and four guesses are made of which training images lie outside
of the habitat of their class, none with a look at habitats:
  errors    it gets them wrong
  losses    their cross-entropy exceeds the threshold of Otsu (1979) between all losses
  maps      in one of 20 clusters in which less than half of the images are of their class; k-means, of the last
            features, averaged with the element-wise Grad-CAM of the label as weights
  features  the same, averaged with equal weights
Of each: precision, recall and how many images it names.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from results import merge, minutes
from skimage.filters import threshold_otsu
from sklearn.cluster import KMeans
from torch.utils.data import DataLoader
from tqdm import tqdm

from sightline import recipe
from sightline.audit import of_run
from sightline.data import Habitats
from sightline.data.habitats import PHOTOGRAPHS
from sightline.explainers import GradCAM, bind
from sightline.passes import evaluating, record
from sightline.pictures import Flags
from sightline.train import train

RECIPE = Path(__file__).parent.parent / "recipes" / "habitats" / "plain.yaml"
CLUSTERS, BATCH = 20, 256

Values = npt.NDArray[np.float32]


def guesses(run: Path) -> tuple[dict[str, Flags], Flags]:
    """The (N,) images that each rule names, and the exceptions that there are."""
    subject, data = of_run(run, "train")
    assert isinstance(data, Habitats)
    explainer = bind(GradCAM(elementwise=True), subject.model, data.size)
    (layer,) = explainer.taps
    losses, wrong, means, weighted = [], [], [], []
    with evaluating(subject.model):
        for batch in DataLoader(data, BATCH):
            seen = record(subject.model, batch.image, taps=(layer,), differentiable=False)
            map = explainer(seen, batch.label).detach().unsqueeze(1)
            features, logits = seen.tap(layer).detach(), seen.logits.detach()
            losses.append(torch.nn.functional.cross_entropy(logits, batch.label, reduction="none"))
            wrong.append(logits.argmax(1) != batch.label)
            means.append(features.mean((2, 3)))
            weighted.append((features * map).sum((2, 3)))
    loss = torch.cat(losses).numpy()
    named = {
        "errors": torch.cat(wrong).numpy(),
        "losses": loss > threshold_otsu(loss),
        "maps": minority(torch.cat(weighted).numpy(), data.labels),
        "features": minority(torch.cat(means).numpy(), data.labels),
    }
    own = [f"{data.classes[label]}/{tuple(PHOTOGRAPHS)[label]}" for label in data.labels]
    return named, data.groups != np.array(own)


def minority(features: Values, labels: npt.NDArray[np.int64]) -> Flags:
    """(N,), whether less than half of an image's cluster is of its class; (N, C) features of length 1."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-8)
    cluster = KMeans(CLUSTERS, n_init=3, random_state=0).fit_predict(unit)
    size = np.zeros((CLUSTERS, labels.max() + 1))
    np.add.at(size, (cluster, labels), 1)
    share = size / np.maximum(size.sum(1, keepdims=True), 1)
    return np.asarray(share[cluster, labels] < 0.5)


def agreement(named: Flags, true: Flags) -> dict[str, float]:
    """Precision and recall of what is named, and how many that is."""
    both = float((named & true).sum())
    return {"precision": both / max(named.sum(), 1), "recall": both / true.sum(), "images": float(named.sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--correlations", nargs="+", type=float, default=[0.7, 0.9, 0.95, 0.98])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/exceptions"))
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    for correlation, seed in tqdm([(c, s) for c in args.correlations for s in args.seeds]):
        run = args.out / f"{correlation}-{seed}"
        if not (run / "run.json").exists():
            train(recipe.read(RECIPE, [f"data.correlation={correlation}", f"seed={seed}", "training.epochs=2"]), run)
        named, true = guesses(run)
        found = {f"{correlation}_{rule}": agreement(flags, true) for rule, flags in named.items()}
        merge(args.json, {row: {str(seed): {"minutes": minutes(run), "train": of}} for row, of in found.items()})


if __name__ == "__main__":
    main()
