"""One suite over every exported objective, then values: by hand, by plain references, by public implementations."""

import math

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import images, rebuild_net
from nets import Deep, Residual, double
from numeric import directional
from sightline import Guided, objectives, record
from sightline.errors import SightlineError
from sightline.explainers import WBP, GradCAM, Gradient
from sightline.maps import resize
from sightline.objectives import (
    CE,
    CFCN,
    CGC,
    GAIN,
    GC,
    JTT,
    L1,
    PPI,
    RRR,
    ContextConsistency,
    ContextSwap,
    Energy,
    GroupDRO,
    Objective,
    Outside,
    Step,
    causal_focus_loss,
    cgc_loss,
    context_swap,
)
from sightline.objectives.guided import _alike
from sightline.types import Batch
from sightline.views import Crop
from test_groups import audited, met

VARIANTS = {
    "CE": lambda: [CE()],
    "CGC paper": lambda: [CE(), CGC("paper", scale=(0.4, 1))],
    "CGC official": lambda: [CE(), CGC("official", weight=0.5, scale=(0.4, 1))],
    "CGC no negatives": lambda: [CE(), CGC(weight=100, negatives=False, scale=(0.4, 1))],
    "CGC unlabelled": lambda: [CE(), CGC("official", on="unlabelled", scale=(0.4, 1))],
    "CFCN F": lambda: [CE(), CFCN("F")],
    "CFCN F masks": lambda: [CE(), CFCN("F", resize="masks", dead="ignore")],
    "CFCN C": lambda: [CE(), CFCN("C", weight=3)],
    "ContextSwap": lambda: [CE(), ContextSwap()],
    "ContextSwap blur": lambda: [CE(), ContextSwap(outside="blur")],
    "ContextSwap mean": lambda: [CE(), ContextSwap(outside="mean")],
    "ContextSwap noise": lambda: [CE(), ContextSwap(outside="noise")],
    "ContextConsistency": lambda: [CE(), ContextConsistency()],
    "ContextConsistency blur": lambda: [CE(), ContextConsistency(outside="blur", hide="box")],
    "Outside": lambda: [CE(), Outside()],
    "GC": lambda: [CE(), GC()],
    "GC own": lambda: [CE(), GC(composites="own")],
    "GAIN": lambda: [CE(), GAIN(order=2)],
    "GAIN-ext": lambda: [CE(), GAIN(external=10, order=2)],
    # Rescaled saliency and its thresholds are held constant, so these variants have neither: their gradient is exact.
    "PPI": lambda: [CE(), PPI(WBP(reduce=None), sigma=0.01, omega=10, scale="none", ad_detach=False)],
    "PPI first order": lambda: [CE(), PPI(mask="hard_point", w2=0, k=1)],
    "PPI Grad-CAM box": lambda: [CE(), PPI(GradCAM(), mask="hard_box", k=1, reg="raw_sum", ad_target="same")],
    "RRR": lambda: [CE(), RRR()],
    "RRR Grad-CAM": lambda: [CE(), RRR(explainer=GradCAM())],
    "Energy": lambda: [CE(), Energy()],
    "L1": lambda: [CE(), L1(explainer=Gradient())],
    "GroupDRO": lambda: [met(GroupDRO(step_size=0.5))],
    "JTT": lambda: [met(JTT(audited("errors")))],
    "all": lambda: [CE(), CGC("paper", scale=(0.4, 1)), CFCN("C"), ContextSwap()],
}
FORWARDS = {
    "CE": 1,
    "CGC paper": 2,
    "CGC official": 3,
    "CGC no negatives": 2,
    "CGC unlabelled": 3,
    "CFCN F": 1,
    "CFCN F masks": 1,
    "CFCN C": 1,
    "ContextSwap": 2,
    "ContextSwap blur": 2,
    "ContextSwap mean": 2,
    "ContextSwap noise": 2,
    "ContextConsistency": 2,
    "ContextConsistency blur": 2,
    "Outside": 1,
    "GC": 2,
    "GC own": 2,
    "GAIN": 2,
    "GAIN-ext": 2,
    "PPI": 3,
    "PPI first order": 3,
    "PPI Grad-CAM box": 3,
    "RRR": 1,
    "RRR Grad-CAM": 1,
    "Energy": 1,
    "L1": 1,
    "GroupDRO": 1,
    "JTT": 1,
    "all": 3,
}
each = pytest.mark.parametrize("name", VARIANTS)


def batch(count=6, size=12, seed=4):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(count, size, size, dtype=torch.float64)
    mask[:, 2:8, 3:9] = 1
    has_mask = torch.arange(count) % 3 != 2
    mask[~has_mask] = 1
    image = torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64)
    return Batch(image, torch.arange(count) % 4, mask, has_mask, torch.arange(count))


def loss_of(guided, seed=11, on=None):
    torch.manual_seed(seed)
    return guided(on or batch())[0]


def test_every_exported_objective_is_in_this_suite():
    exported = {o for o in vars(objectives).values() if isinstance(o, type) and issubclass(o, Objective)} - {Objective}
    assert exported == {type(o) for variant in VARIANTS.values() for o in variant()}


@each
@pytest.mark.parametrize("net", [Residual, Deep])
def test_finite_and_every_parameter_gets_a_gradient(name, net):
    model = double(net())
    loss = loss_of(Guided(model, VARIANTS[name](), 12))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@each
@pytest.mark.parametrize("net", [Residual, Deep])
def test_gradients_agree_with_finite_differences(name, net):
    model = double(net())
    guided = Guided(model, VARIANTS[name](), 12)
    guided.objectives.eval()  # what they learn from a step would make the next another function
    analytic, numeric = directional(lambda: loss_of(guided), model)
    assert analytic == pytest.approx(numeric, rel=1e-5)


@each
def test_no_image_is_forwarded_twice_and_no_more_than_declared(name):
    model, seen = double(Residual()), []
    guided = Guided(model, VARIANTS[name](), 12)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss_of(guided)
    assert len(seen) == FORWARDS[name]
    assert len({image.data_ptr() for image in seen}) == len(seen)


@each
def test_alone_equals_composed(name):
    """Terms do not depend on what else is in the step: neither on its forwards nor on its random draws."""
    model = double(Residual()).eval()
    torch.manual_seed(11)
    _, alone = Guided(model, VARIANTS[name](), 12)(batch())
    torch.manual_seed(11)
    own = VARIANTS[name]()
    others = [o for o in VARIANTS["all"]() if not set(o.weights) & {w for v in own for w in v.weights}]
    _, composed = Guided(model, [*others, *own], 12)(batch())
    for term, value in alone.items():
        torch.testing.assert_close(composed[term], value)


@each
def test_the_loss_is_the_weighted_sum_of_its_terms(name):
    guided = Guided(double(Residual()).eval(), VARIANTS[name](), 12)
    torch.manual_seed(11)
    loss, terms = guided(batch())
    weights = {k: w for o in VARIANTS[name]() for k, w in o.weights.items()}
    assert set(terms) >= set(weights)  # the others are only logged
    assert float(loss) == pytest.approx(sum(w * float(terms[k]) for k, w in weights.items()), rel=1e-12)
    assert not any(v.requires_grad for v in terms.values())


@each
@pytest.mark.parametrize("case", ["one image", "no mask", "unlabelled"])
def test_odd_batches_stay_finite(name, case):
    odd = batch(1 if case == "one image" else 6)
    if case == "no mask":
        odd = odd._replace(mask=torch.ones_like(odd.mask), has_mask=torch.zeros_like(odd.has_mask))
    if case == "unlabelled":
        odd = odd._replace(label=torch.full_like(odd.label, -1))
    model = double(Residual()).eval()
    loss = loss_of(Guided(model, VARIANTS[name](), 12), on=odd)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@each
def test_masks_count_where_they_are_needed(name):
    guided = Guided(double(Residual()).eval(), VARIANTS[name](), 12)
    guided.objectives.eval()
    elsewhere = batch()._replace(mask=batch().mask.roll(3, -1))
    counts = float(loss_of(guided)) != float(loss_of(guided, on=elsewhere))
    assert counts == any("masks" in objective.needs for objective in guided.objectives)


def test_a_step_remembers_passes_and_maps():
    model, image = double(Residual()).eval(), batch().image
    step = Step(model, ["act"])
    explainer = GradCAM("act")
    assert step.run(image) is step.run(image)
    assert step.explain(explainer, image) is step.explain(explainer, image)
    assert step.run(image.clone()) is not step.run(image)
    assert step.explain(explainer, image).requires_grad


def test_causal_focus_by_hand():
    maps = torch.tensor([[[[1.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    mask = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert causal_focus_loss(maps, mask).item() == pytest.approx(1 - (0.25 + 1 + 0) / 3)
    assert causal_focus_loss(maps, mask, dead="ignore").item() == pytest.approx(1 - (0.25 + 1 + 1) / 3)
    assert causal_focus_loss(maps, torch.ones_like(mask), dead="ignore").item() == pytest.approx(0, abs=1e-6)


def test_coarse_maps_are_scored_as_if_resized():
    maps, mask = torch.rand(2, 5, 4, 6).double(), (torch.rand(2, 16, 18) > 0.5).double()
    torch.testing.assert_close(causal_focus_loss(maps, mask), causal_focus_loss(resize(maps, (16, 18)), mask))


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("suffix", ["", "__up", "__down"])
def test_cfcn_against_reference(name, suffix, oracle):
    reference = oracle(f"loss_cfcn_{name}")
    if f"f_per_image{suffix}" not in reference:
        pytest.skip("this reference has other sizes")
    maps_f, maps_c, masks = (torch.tensor(reference[k]) for k in ("maps_f", "maps_c", "masks"))
    labels = torch.tensor(reference["labels"])
    if suffix == "__down":
        masks = resize(masks, maps_f.shape[2:])
    own = maps_c.relu()[torch.arange(len(labels)), labels].unsqueeze(1)
    for got, expected in [
        (causal_focus_loss(maps_f.relu(), masks), "f_per_image"),
        (causal_focus_loss(maps_f.relu(), masks, dead="ignore"), "f_per_image_dead_ignored"),
        (causal_focus_loss(own, masks), "c_per_image"),
    ]:
        np.testing.assert_allclose(got, reference[expected + suffix], atol=1e-12)


def test_cfcn_c_on_the_papers_network_is_the_class_map_itself():
    """Logits that average rectified class maps: the Grad-CAM of the label is that map, so eq. 2 is literal."""
    from sightline.models import ConvNet

    net = ConvNet("cfcn_c", 4, filters=(5,), stride_every=0).double()
    images_ = batch()
    term = Guided(net, [CFCN("C", layer="maps")], 12)(images_)[1]["cfcn"]
    maps = record(net, images_.image, taps=["maps"]).tap("maps")[torch.arange(6), images_.label].unsqueeze(1)
    expected = (causal_focus_loss(maps, images_.mask) * images_.has_mask).mean()
    torch.testing.assert_close(term, expected.detach(), rtol=1e-5, atol=0)  # eps sees another scale


def test_cgc_by_hand():
    """Maps that all agree leave chance, log B; of two orthogonal maps, the own one is 1/(1 + e^-1/tau)."""
    crop = Crop((2, 2), torch.zeros(2, 2).long(), torch.full((2, 2), 2), torch.zeros(2).bool())
    same = torch.ones(2, 2, 2).double()
    torch.testing.assert_close(cgc_loss(same, same, crop), torch.full((2,), math.log(2)).double())
    apart = torch.tensor([[[1.0, 0], [0, 0]], [[0, 0], [0, 1.0]]]).double()
    expected = torch.full((2,), math.log(1 + math.exp(-1 / 0.5))).double()
    for anchor in ("orig", "aug"):
        torch.testing.assert_close(cgc_loss(apart, apart, crop, 0.5, anchor), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["resnet18_64", "resnet18_96", "resnet18_224"])
@pytest.mark.parametrize("preset", ["paper", "official"])
def test_cgc_against_public_implementation(name, preset, oracle):
    reference = oracle(f"cgc_{name}")
    meta = reference["meta"]
    net, x = rebuild_net(meta), images(meta)
    rows, labels = torch.tensor(reference["crop"]).long(), torch.tensor(reference["labels"])
    crop = Crop(tuple(x.shape[2:]), rows[:, :2], rows[:, 2:4], rows[:, 4].bool())
    views = {"x": x, "aug": crop.apply(x)}
    if preset == "official":
        views = {"xe": images(meta | {"img": meta["img"] | {"seed": meta["xe_seed"]}})} | views
    explainer = GradCAM("layer4", elementwise=True)
    runs = {name: record(net, view, taps=explainer.taps) for name, view in views.items()}
    target = runs["x"].target()
    maps = (explainer(runs[name], target, differentiable=True) for name in ("x", "aug"))
    con = cgc_loss(*maps, crop, meta["tau"], "orig" if preset == "paper" else "aug").mean()
    ce = sum(F.cross_entropy(runs[name].logits, labels) for name in (runs if preset == "official" else ["x"]))
    total = ce + meta["lam"] * con
    norms = [g.norm().item() for g in torch.autograd.grad(total, list(net.parameters()))]
    paper = preset == "paper"
    assert con.item() == pytest.approx(float(reference["paper_con_mean" if paper else "con_loss"]), rel=1e-9)
    assert total.item() == pytest.approx(float(reference["paper_total" if paper else "total"]), rel=1e-9)
    np.testing.assert_allclose(norms, reference[f"{preset}_total_gradnorm"], rtol=1e-9, atol=1e-10)


def test_flip_bug_mirrors_a_quarter_of_the_images():
    cgc, generator = CGC(flip_bug=True), torch.Generator().manual_seed(0)
    crop = cgc._crop(torch.zeros(8000, 1, 4, 4), (4, 4), generator)
    assert crop.flip.double().mean() == pytest.approx(0.5, abs=0.03)
    assert cgc._mirror(crop, generator).flip.double().mean() == pytest.approx(0.25, abs=0.03)


def test_context_swap_by_hand():
    image = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.5]]).expand(3, 2, 2)
    out = context_swap(image, mask, torch.tensor([True, True, False]), 1)
    assert out[0].tolist() == [[[1, 2], [2, 1.5]]]
    assert out[1].tolist() == [[[2, 3], [3, 2.5]]]
    assert torch.equal(out[2], image[2])


class Odd(Objective):
    """Declares one term, returns others."""

    def __init__(self, declared, found):
        super().__init__()
        self.weights, self.found = declared, found

    def forward(self, step, batch):
        return {name: step.run(batch.image).logits.sum() * value for name, value in self.found.items()}


def test_a_term_without_a_weight_is_only_logged():
    guided = Guided(double(Deep()), [CE(), Odd({}, {"extra": math.inf})], 12)
    loss, terms = guided(batch())
    assert torch.isfinite(loss)
    assert not torch.isfinite(terms["extra"])


@pytest.mark.parametrize("found", [{}, {"ce": 1.0, "odd": 1.0}])
def test_terms_that_are_missing_or_anothers_are_named(found):
    with pytest.raises(SightlineError, match="is missing, or another's"):
        Guided(double(Deep()), [CE(), Odd({"odd": 1.0}, found)], 12)(batch())


MASKED = (lambda: CFCN(), lambda: ContextSwap(), lambda: Energy(), lambda: L1(), lambda: RRR())


@pytest.mark.parametrize("make", MASKED)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16])
def test_masks_and_flags_of_any_type(make, dtype):
    guided, plain = Guided(double(Deep()), [CE(), make()], 12), batch()
    mask = (plain.mask > 0.5).double()
    torch.manual_seed(0)
    expected = guided(plain._replace(mask=mask))[0]
    torch.manual_seed(0)
    other = plain._replace(mask=mask.to(dtype), has_mask=plain.has_mask.float())
    torch.testing.assert_close(guided(other)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask * 255, r"masks lie between 0 and 255: expected \[0, 1\]"),
        (lambda mask: mask[:1], r"masks of shape \(1, 12, 12\) do not fit images of shape \(6, 3, 12, 12\)"),
        (lambda mask: mask.unsqueeze(1), r"Pass mask\.squeeze\(1\)"),
        (lambda mask: mask[:, :3], r"masks of shape \(6, 3, 12\) do not fit"),
        (lambda mask: mask.flatten(1), r"masks of shape \(6, 144\) do not fit"),
        (lambda mask: mask[:, 0, 0], r"masks of shape \(6,\) do not fit"),
    ],
)
def test_masks_that_do_not_fit_are_refused_where_they_are_read(change, message):
    spoilt = batch()
    spoilt = spoilt._replace(mask=change((spoilt.mask > 0.5).double().clone().index_fill_(1, torch.tensor([0]), 1)))
    for make in MASKED:
        with pytest.raises(SightlineError, match=message):
            Guided(double(Deep()), [CE(), make()], 12)(spoilt)
    Guided(double(Deep()), [CE(), CGC()], 12)(spoilt)


@pytest.mark.parametrize("fill", [-1.0, 255.0, math.nan])
def test_masks_of_images_that_have_none_may_hold_anything(fill):
    plain = batch()
    plain = plain._replace(has_mask=torch.arange(6) < 4)
    spoilt = plain._replace(mask=plain.mask.clone())
    spoilt.mask[4:] = fill
    for make in MASKED:
        guided = Guided(double(Deep()), [CE(), make()], 12)
        torch.manual_seed(0)
        expected = guided(plain._replace(mask=plain.mask.index_fill(0, torch.tensor([4, 5]), 1)))[0]
        torch.manual_seed(0)
        torch.testing.assert_close(guided(spoilt)[0], expected)


def test_masks_may_be_coarse_and_off_by_rounding():
    guided = Guided(double(Deep()), [CE(), CFCN()], 12)
    images = batch()
    guided(images._replace(mask=F.interpolate(images.mask.unsqueeze(1), 3, mode="area")[:, 0]))
    guided(images._replace(mask=images.mask * (1 + 1e-6)))
    assert _alike((7, 3), (3, 100, 37), 2)
    assert _alike((4, 6), (3, 50, 90), 2)
    assert _alike((8, 16, 16), (1, 8, 32, 32), 3)
    assert not _alike((16, 64), (3, 32, 32), 2)


def test_what_is_no_batch_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(SightlineError, match=r"takes a sightline\.types\.Batch, not a tuple without image, label"):
        Guided(double(Deep()), [CE()], 12)((1, 2))


@pytest.mark.parametrize(("scale", "told"), [(1, False), (255, True), (-4, True)])
def test_images_that_are_normalised_already_are_warned_of_once(caplog, scale, told):
    guided, images = Guided(double(Deep()), [CE()], 12), batch()
    for _ in range(2):
        guided(images._replace(image=images.image * scale))
    assert caplog.text.count("where [0, 1] is expected. Leave normalisation to the model") == told


def test_multi_label_cross_entropy():
    logits, label = torch.randn(3, 4), torch.rand(3, 4).round()
    torch.testing.assert_close(
        objectives.base.classification_loss(logits, label), F.binary_cross_entropy_with_logits(logits, label)
    )


def test_multi_label_images_whose_labels_are_hidden_do_not_count():
    logits, label = torch.randn(4, 3, requires_grad=True), torch.rand(4, 3).round()
    known, label[2] = [0, 1, 3], -1
    expected = F.binary_cross_entropy_with_logits(logits[known], label[known])
    loss = objectives.base.classification_loss(logits, label)
    each = objectives.base.image_losses(logits, label)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(each.sum() / 3, expected)
    assert each[2] == 0
    assert torch.autograd.grad(loss, logits)[0][2].eq(0).all()
    nobody = objectives.base.classification_loss(logits, torch.full_like(label, -1))
    assert nobody == 0
    assert nobody.requires_grad


def test_single_classes_may_be_unknown():
    logits, label = torch.randn(2, 3), torch.tensor([[1.0, -1.0, 0.0], [-1.0, -1.0, 1.0]])
    each = F.binary_cross_entropy_with_logits(logits, label.clamp(min=0), reduction="none")
    expected = torch.stack([each[0, 0], each[0, 2], each[1, 2]])
    torch.testing.assert_close(objectives.base.classification_loss(logits, label), expected.mean())
    torch.testing.assert_close(
        objectives.base.image_losses(logits, label), torch.stack([expected[:2].mean(), expected[2]])
    )


def test_smoothed_labels_by_hand():
    logits = torch.tensor([[1.5, -0.5]])
    several = torch.tensor([[1.0, 0.0]])
    expected = F.binary_cross_entropy_with_logits(logits, torch.tensor([[0.95, 0.05]]))
    for loss in (objectives.base.classification_loss, objectives.base.image_losses):
        torch.testing.assert_close(loss(logits, several, 0.1).mean(), expected)
        torch.testing.assert_close(
            loss(logits, torch.tensor([0]), 0.1).mean(), F.cross_entropy(logits, torch.tensor([[0.95, 0.05]]))
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CE(weight=-1), "not negative"),
        (lambda: CE(smoothing=1), r"CE\(smoothing=1\): expected a number in \[0, 1\)"),
        (lambda: ContextSwap(smoothing=-0.1), r"ContextSwap\(smoothing=-0.1\): expected"),
        (lambda: CFCN(weight=math.nan), "finite"),
        (lambda: CGC(tau=0), "above 0"),
        (lambda: Guided(Deep(), []), "objectives is empty"),
        (lambda: Guided(Deep(), [torch.nn.CrossEntropyLoss()]), "is not an Objective"),
        (lambda: Guided(Deep(), [CE]), "is not an Objective"),
        (lambda: Guided(Deep(), [CE(), Energy(explainer=Gradient)]), "an instance, not its class or name"),
        (lambda: Guided(Deep(), [CE(), Energy(explainer="GradCAM")]), "an instance, not its class or name"),
        (lambda: Guided(Deep(), [CE(), CE()], 12), "same term twice"),
        (lambda: Guided(Deep(), [CFCN(layer="featurs")], 12), "Did you mean 'features'"),
        (
            lambda: Guided(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2)), [CE(), CGC()], 4),
            "needs no layer=",
        ),
        (
            lambda: Guided(Deep(), [CGC(on="unlabelled")], 12)(
                batch()._replace(image=batch().image.float(), label=torch.rand(6, 4))
            ),
            "one class per image",
        ),
    ],
)
def test_bad_arguments(make, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as for users
    with pytest.raises(SightlineError, match=message):
        make()
