"""RRR, Energy, L1, Outside and the kin of ContextSwap: by hand, and against plain second implementations."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import default_collate

from nets import Deep, Residual, Views, Volume, double
from sightline import Guided, recipe
from sightline.errors import SightlineError
from sightline.explainers import WBP, GradCAM, Gradient, bind
from sightline.maps import resize
from sightline.objectives import (
    CE,
    CFCN,
    L1,
    RRR,
    Balanced,
    ContextConsistency,
    ContextSwap,
    Energy,
    Outside,
    Step,
    divergence,
    energy_share,
    localisation_l1,
    right_reasons_loss,
)
from sightline.objectives.localisation import peak_scaled
from sightline.passes import record
from sightline.types import Batch
from sightline.views import blurred, hidden, mean_colour

SHAPES = {
    "images": (Deep, (3, 12, 12), 12),
    "volumes": (Volume, (1, 6, 8, 8), (6, 8, 8)),
    "views": (Views, (3, 1, 8, 8), 8),
}
KINDS = [Energy, L1, RRR]


def batch(shape=(3, 12, 12), count=6, masks=None, seed=4):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    spatial = shape[1:] if len(shape) == 3 or shape[0] == 1 else (shape[0], *shape[2:])
    mask = (torch.rand(count, *(masks or spatial), generator=generator) > 0.6).double()
    return Batch(image, torch.arange(count) % 4, mask, torch.arange(count) % 3 != 2, torch.arange(count))


def term(net, objective, on, size=12, seed=11):
    torch.manual_seed(seed)
    return next(iter(Guided(net, [objective], size)(on)[1].values()))


def linear(weight):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, len(weight), bias=False)).double()
    net[1].weight.data = torch.tensor(weight).double()
    return net


def test_rrr_by_hand():
    """Two classes of weights a and b: the gradient of both log-probabilities is (a - b)(p_b - p_a)."""
    net = linear([[1.0, 2.0, 0.0, -1.0], [0.0, 1.0, 3.0, 1.0]])
    image = torch.tensor([[[[0.5, 0.0], [0.25, 1.0]]]]).double()
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.5]]]).double()
    a, b = 0.5 - 1, 0.75 + 1
    p = 1 / (1 + math.exp(b - a))
    expected = (1 - 2 * p) ** 2 * (1**2 + 3**2 + (0.5 * 2) ** 2)
    one = Batch(image, torch.tensor([1]), mask, torch.tensor([True]), torch.tensor([0]))
    assert term(net, RRR(), one, 2).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", SHAPES)
def test_rrr_against_single_images(kind):
    """Autograd through log_softmax, one image at a time."""
    net, shape, size = SHAPES[kind]
    model, on = double(net()), batch(shape)
    values = []
    for image, mask, has_mask in zip(on.image, on.mask, on.has_mask, strict=True):
        x = image.unsqueeze(0).requires_grad_()
        (gradient,) = torch.autograd.grad(F.log_softmax(model(x), 1).sum(), x, create_graph=True)
        outside = (1 - mask).unsqueeze(1 if kind == "views" else 0)
        values.append(((outside * gradient[0]) ** 2).sum() if has_mask else torch.zeros(()).double())
    loss, found = Guided(model, [RRR()], size)(on)
    expected = sum(values) / len(values)
    torch.testing.assert_close(found["rrr"], expected.detach())
    got, wanted = (torch.autograd.grad(v, list(model.parameters()), allow_unused=True) for v in (loss, expected))
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w)


def test_rrr_does_not_know_the_label():
    model, on = double(Deep()), batch()
    assert term(model, RRR(), on) == term(model, RRR(), on._replace(label=on.label.flip(0)))
    assert term(model, RRR(explainer=GradCAM()), on) != term(
        model, RRR(explainer=GradCAM()), on._replace(label=on.label.flip(0))
    )


def test_right_reasons_by_hand():
    values, mask = torch.tensor([[[1.0, -2.0], [3.0, 4.0]]]), torch.tensor([[[0.0, 0.0], [1.0, 0.5]]])
    assert right_reasons_loss(values, mask).tolist() == [1 + 4 + 0 + 4]


def test_scaling_and_l1_by_hand():
    maps = torch.tensor([[[1.0, -4.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert peak_scaled(maps).tolist() == [[[0.25, -1], [0.5, 0]], [[0, 0], [0, 0]]]
    mask = torch.tensor([[[1.0, 1.0], [1.0, 0.0]]]).expand(2, 2, 2)
    assert localisation_l1(maps, mask).tolist() == [(0.5 + 1 + 0 + 0) / 4, 3 / 4]
    torch.testing.assert_close(localisation_l1(1e5 * maps, mask), localisation_l1(maps, mask))


def test_maps_are_scaled_before_they_are_resized():
    maps, mask = torch.rand(2, 3, 4).double(), (torch.rand(2, 9, 11) > 0.5).double()
    coarse = maps / maps.amax((1, 2), keepdim=True)
    expected = (resize(coarse, (9, 11)) - mask).abs().mean((1, 2))
    torch.testing.assert_close(localisation_l1(maps, mask), expected)


@pytest.mark.parametrize("explainer", [GradCAM(), Gradient(), WBP("autograd")], ids=repr)
def test_losses_against_single_images(explainer):
    model, on = double(Deep(), 3), batch()
    bound = bind(explainer, model, 12)
    energy, l1, rrr = [], [], []
    for i in (0, 1, 3, 4):
        own = bound(record(model, on.image[i : i + 1], taps=bound.taps), on.label[i : i + 1])
        signed = F.interpolate(own[None] / own.abs().max(), (12, 12), mode="bilinear")[0, 0]
        positive = F.interpolate(own[None].relu() / own.max(), (12, 12), mode="bilinear")[0, 0]
        mask = on.mask[i]
        energy.append(1 - (positive * mask).sum() / positive.sum())
        l1.append((positive - mask).abs().mean())
        rrr.append(((1 - mask) * signed).square().mean())
    for objective, values in [(Energy, energy), (L1, l1), (RRR, rrr)]:
        found = term(model, objective(explainer=explainer), on)
        torch.testing.assert_close(found, sum(values) / 6, rtol=1e-5, atol=0)  # CFCN's eps


def test_energy_of_the_elementwise_map_is_cfcn():
    model, on = double(Deep()), batch()
    torch.testing.assert_close(term(model, Energy(explainer=GradCAM(elementwise=True)), on), term(model, CFCN("C"), on))


@pytest.mark.parametrize("objective", KINDS)
@pytest.mark.parametrize("kind", ["volumes", "views"])
@pytest.mark.parametrize("explainer", [GradCAM("body"), Gradient()], ids=["Grad-CAM", "gradient"])
def test_volumes_and_several_views(objective, kind, explainer):
    net, shape, size = SHAPES[kind]
    model = double(net())
    loss, terms = Guided(model, [CE(), objective(explainer=explainer)], size)(batch(shape))
    loss.backward()
    assert 0 < terms[objective.__name__.lower()] < 1
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("objective", [Energy(), L1(), RRR(), RRR(explainer=GradCAM())], ids=repr)
def test_a_mask_for_each_class(objective):
    model, on = double(Deep()), batch(masks=(4, 12, 12))
    own = on._replace(mask=on.mask[torch.arange(6), on.label])
    assert term(model, objective, on) == term(model, objective, own)


@pytest.mark.parametrize("objective", [Energy(), L1(), RRR(), RRR(explainer=GradCAM())], ids=repr)
def test_unlabelled_images_count_nothing(objective):
    model, on = double(Deep()), batch()
    some = on._replace(label=torch.tensor([-1, 1, 2, -1, 0, 1]))
    none = on._replace(has_mask=on.has_mask & (some.label >= 0))
    assert 0 < term(model, objective, some) == term(model, objective, none) < term(model, objective, on)


@pytest.mark.parametrize("objective", [Energy(), L1(), RRR(explainer=GradCAM())], ids=repr)
def test_dead_maps_are_harmless(objective):
    """The loss of an all-zero map is finite, and so are its gradients."""
    model = double(Deep())
    with torch.no_grad():
        model.features[3].weight.zero_()
        model.features[3].bias.fill_(-1)
    loss, _ = Guided(model, [CE(), objective], 12)(batch())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("objective", KINDS)
def test_explainers_without_a_loss_are_refused(objective):
    model, on = double(Deep()), batch()
    with pytest.raises(SightlineError, match='reduce="sum"'):
        term(model, objective(explainer=Gradient(reduce=None)), on)
    with pytest.raises(SightlineError, match="one class per image"):
        term(model, objective(), on._replace(label=torch.rand(6, 4)))
    with pytest.raises(SightlineError, match="not negative"):
        objective(weight=-1)


def test_rrr_under_bfloat16():
    model, on = Deep(), batch()
    on = on._replace(image=on.image.float(), mask=on.mask.float())
    full = term(model, RRR(), on)
    with torch.autocast("cpu", torch.bfloat16):
        half, energy, l1 = (term(model, o, on) for o in (RRR(), Energy(), L1()))
    torch.testing.assert_close(half, full, rtol=0.1, atol=0, check_dtype=False)
    assert torch.isfinite(torch.stack([energy, l1])).all()


def test_rrr_balanced_to_the_cross_entropy():
    loss, terms = Guided(double(Deep()), [CE(), RRR(Balanced(1))], 12)(batch())
    assert loss.item() == pytest.approx(2 * terms["ce"].item())


def test_they_can_be_written_into_recipes(tmp_path):
    (tmp_path / "r.yaml").write_text(
        """
data: {class_path: Habitats, init_args: {per_digit: 1}}
model: {spec: "sightline:cnn", arguments: {filters: [4, 8]}}
objectives:
- CE
- {class_path: GAIN, init_args: {external: 10, order: 2, fill: [0, 0.5, 1]}}
- {class_path: RRR, init_args: {weight: {class_path: sightline.objectives.Balanced}}}
- Energy
- L1
- {class_path: ContextSwap, init_args: {outside: blur}}
"""
    )
    made = recipe.build(recipe.read(tmp_path / "r.yaml"))
    _, gain, rrr, _, _, swap = made.objectives
    assert (gain.order, gain.fill, rrr.weights, swap.outside) == (2, [0, 0.5, 1], {"rrr": Balanced()}, "blur")
    loss, _ = Guided(made.classifier(), made.objectives, made.data.size)(default_collate([made.data[0], made.data[1]]))
    assert torch.isfinite(loss)


def shown(on, objective, net=None, size=12, seed=11):
    """The image that an objective classified."""
    model, seen = net or double(Deep()), []
    guided = Guided(model, [objective], size)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(seed)
    guided(on)
    (image,) = seen
    return image


def test_divergence_is_the_mean_of_both_directions():
    first, second = torch.randn(2, 5, 4).double()
    p, q = first.log_softmax(1), second.log_softmax(1)
    both = [F.kl_div(a, b, reduction="none", log_target=True).sum(1) for a, b in ((p, q), (q, p))]
    torch.testing.assert_close(divergence(first, second), (both[0] + both[1]) / 2)
    apart = [torch.distributions.Bernoulli(logits=z) for z in (first, second)]
    both = [torch.distributions.kl_divergence(a, b).mean(1) for a, b in (apart, apart[::-1])]
    torch.testing.assert_close(divergence(first, second, multilabel=True), (both[0] + both[1]) / 2)
    assert divergence(first, first + 3).abs().max() < 1e-12


def test_consistency_asks_for_one_answer_on_both_backgrounds():
    on, net, logits = batch(), double(Deep()), []
    net.register_forward_hook(lambda _, __, output: logits.append(output))
    guided = Guided(net, [ContextConsistency()], 12)
    logits.clear()
    torch.manual_seed(11)
    loss, terms = guided(on)
    here, there = logits
    torch.testing.assert_close(terms["consistency"], (divergence(here, there) * on.has_mask).mean().detach())
    assert loss.item() == pytest.approx(10 * terms["consistency"].item())
    swapped = shown(on, ContextSwap(hide="mask"), net)
    torch.testing.assert_close(there, net(swapped))


def test_consistency_needs_no_labels_and_counts_no_image_without_a_mask():
    on = batch()
    known, unknown = (
        term(double(Deep()), ContextConsistency(), on._replace(label=y)) for y in (on.label, -on.label.sign())
    )
    assert known == unknown > 0
    assert term(double(Deep()), ContextConsistency(), on._replace(has_mask=torch.zeros(6, dtype=torch.bool))) == 0


def test_energy_share_by_hand():
    features = torch.tensor([[[[1.0, 2.0, 3.0, 0.0]]]]).double().requires_grad_()
    mask = torch.tensor([[[1.0, 0.0, 0.0, 1.0]]]).double()
    share = energy_share(features, mask)
    assert share.item() == pytest.approx(6.5 / (6.5 + 0.5))
    share.backward()
    assert (features.grad * features).sum().item() == pytest.approx(0)  # to be silent everywhere does not help
    assert energy_share(features, torch.ones_like(mask)) == energy_share(features, torch.zeros_like(mask)) == 0
    assert energy_share(features * 7, mask).item() == pytest.approx(share.item())
    assert torch.isfinite(energy_share(features * 0, mask)).all()


@pytest.mark.parametrize("kind", SHAPES)
def test_outside_is_the_mean_over_depths(kind):
    net, shape, size = SHAPES[kind]
    on, net, seen = batch(shape), double(net()), {}
    objective = Outside()
    guided = Guided(net, [objective], (3, 8, 8) if kind == "views" else size)
    assert len(objective.layers) == 2
    modules = dict(net.named_modules())
    for name in objective.layers:
        modules[name].register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output))
    _, terms = guided(on)
    expected = []
    for maps in seen.values():
        if kind == "views":
            maps = maps.unflatten(0, (6, -1)).transpose(1, 2)
        energy = maps.square().mean(1)
        inside = torch.zeros_like(energy)
        for cell in torch.cartesian_prod(*map(torch.arange, inside.shape)):
            b, *at = cell.tolist()
            parts = [
                slice(k * fine // coarse, -(-(k + 1) * fine // coarse))
                for k, fine, coarse in zip(at, on.mask.shape[1:], inside.shape[1:], strict=True)
            ]
            inside[tuple(cell)] = on.mask[(b, *parts)].max()
        for one, part, counted in zip(energy, inside, on.has_mask, strict=True):
            silent = not counted or (part == 1).all()
            outside, within = one[part == 0].mean(), one[part == 1].mean()
            expected.append(0.0 if silent else (outside / (outside + within)).item())
    assert terms["outside"].item() == pytest.approx(sum(expected) / len(expected))


def test_outside_reads_the_layers_it_is_told():
    objective = Outside(layers=["features.1"])
    Guided(double(Deep()), [objective], 12)
    assert objective.taps == ("features.1",)
    with pytest.raises(SightlineError, match=r"features.9.*Did you mean"):
        Guided(double(Deep()), [Outside(layers=["features.9"])], 12)


def test_outside_reads_every_activation_that_tells_where():
    """Not the one behind the pooling, nor attention, which lies in the same module of torch."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.SiLU()
            )
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
            self.head = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3))

        def forward(self, image):
            tokens = self.features(image).flatten(2).mT
            return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))

    objective = Outside(layers="activations")
    Guided(double(Net()), [objective], 12)
    assert set(objective.taps) == {"features.2", "features.4"}
    with pytest.raises(SightlineError, match=r"Outside\(layers='activation'\).*Did you mean 'activations'"):
        Outside(layers="activation")
    with pytest.raises(SightlineError, match=r"no layer.*Pass layers="):
        Guided(
            double(nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())),
            [Outside(1, "activations")],
            12,
        )


def test_the_swap_draws_what_it_always_drew():
    on = batch()
    torch.manual_seed(11)
    shift = int(torch.randint(1, 6, (), generator=Step(nn.Identity()).random("swap")))
    other = on.image[(torch.arange(6) + shift) % 6]
    keep = torch.where(on.has_mask.view(6, 1, 1), on.mask, 1).unsqueeze(1)
    assert torch.equal(shown(on, ContextSwap()), torch.lerp(other, on.image, keep))


@pytest.mark.parametrize("hide", ["box", "mask"])
@pytest.mark.parametrize("kind", SHAPES)
def test_hidden_evidence_never_comes_along_with_a_background(hide, kind):
    net, shape, size = SHAPES[kind]
    on = batch(shape)
    channel = 2 if kind == "views" else 1
    mask = torch.zeros_like(on.mask)
    for place, one in enumerate(mask):
        one[..., 1 + place % 3 : 5, 2 : 5 + place % 2] = 1
    shining = torch.where(mask.unsqueeze(channel) == 1, 1.0, 0.25).double().expand_as(on.image)
    on = on._replace(image=shining, mask=mask, has_mask=torch.ones(6, dtype=torch.bool))
    image = shown(on, ContextSwap(hide=hide), double(net()), size).movedim(channel, 0)
    torch.testing.assert_close(image, torch.where(mask == 1, 1.0, 0.25).double().expand_as(image))


def test_a_box_is_hidden_whole_and_what_nobody_annotated_stays():
    on = batch()
    marked = on.mask * on.has_mask.view(6, 1, 1)
    hole = torch.zeros_like(marked)
    for place, one in zip(hole, marked, strict=True):
        rows, columns = (one.any(axis).nonzero().flatten() for axis in (1, 0))
        if len(rows):
            place[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 1
    torch.manual_seed(11)
    shift = int(torch.randint(1, 6, (), generator=Step(nn.Identity()).random("swap")))
    other = hidden(on.image, hole.unsqueeze(1)).roll(-shift, 0)
    keep = torch.where(on.has_mask.view(6, 1, 1), on.mask, 1).unsqueeze(1)
    torch.testing.assert_close(shown(on, ContextSwap(hide="box")), torch.lerp(other, on.image, keep))


@pytest.mark.parametrize("outside", ["blur", "mean", "noise"])
def test_only_another_image_has_evidence_to_hide(outside):
    on = batch()
    assert torch.equal(shown(on, ContextSwap(outside=outside, hide="box")), shown(on, ContextSwap(outside=outside)))


def test_a_hole_is_filled_by_its_surroundings():
    image = torch.tensor([[[[0.2, 0.9, 0.6]]]]).double()
    hole = torch.tensor([[[[0.0, 1.0, 0.0]]]]).double()
    filled = hidden(image, hole)
    assert filled[0, 0, 0].tolist() == pytest.approx([0.2, 0.4, 0.6])
    whole = torch.rand(1, 3, 9, 9).double()
    torch.testing.assert_close(hidden(whole, torch.ones(1, 1, 9, 9).double()), mean_colour(whole))


@pytest.mark.parametrize("outside", ["swap", "blur", "mean", "noise"])
@pytest.mark.parametrize("kind", SHAPES)
def test_evidence_and_images_without_a_mask_stay(outside, kind):
    net, shape, size = SHAPES[kind]
    on = batch(shape)
    image = shown(on, ContextSwap(outside=outside), double(net()), size)
    channel = 2 if kind == "views" else 1
    same = (image - on.image).abs().amax(channel) < 1e-12
    assert same[~on.has_mask].all()
    assert same[on.mask == 1].all()
    assert same[on.has_mask][on.mask[on.has_mask] == 0].double().mean() < 0.05
    assert image.min() >= 0
    assert image.max() <= 1


def test_outside_by_hand():
    image = torch.tensor([[[[0.0, 1.0], [0.5, 0.1]]]]).double()
    torch.testing.assert_close(mean_colour(image), torch.full_like(image, 0.4))
    # Two cells a pixel apart under a Gaussian of one pixel: weights 1 and e^-1/2, over their sum.
    near, far = 1 / (1 + math.exp(-0.5)), math.exp(-0.5) / (1 + math.exp(-0.5))
    expected = near * (near * 0 + far * 1) + far * (near * 0.5 + far * 0.1)
    assert blurred(image, 1)[0, 0, 0, 0].item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 1, 4, 5, 6)])
def test_the_blur_is_a_weighted_mean_over_all_pixels(shape):
    image, axes = torch.rand(shape).double(), len(shape) - 2
    cells = torch.cartesian_prod(*[torch.arange(n) for n in shape[2:]]).double()
    weights = (-torch.cdist(cells, cells).square() / (2 * 1.3**2)).exp()
    expected = (image.flatten(2) @ (weights / weights.sum(1, keepdim=True)).T).view(shape)
    torch.testing.assert_close(blurred(image, 1.3, axes), expected)
    torch.testing.assert_close(blurred(torch.ones_like(image), 1.3, axes), torch.ones_like(image))


def test_a_tiny_blur_changes_nothing_and_a_wide_one_leaves_the_mean():
    image = torch.rand(2, 3, 6, 8).double()
    torch.testing.assert_close(blurred(image, 1e-3), image)
    torch.testing.assert_close(blurred(image, 1e4), mean_colour(image), rtol=1e-6, atol=0)


def test_sigma_is_a_share_of_the_short_side():
    on = batch((3, 8, 20))._replace(mask=torch.zeros(6, 8, 20).double(), has_mask=torch.ones(6, dtype=torch.bool))
    image = shown(on, ContextSwap(outside="blur", sigma=0.25), double(Residual()), (8, 20))
    torch.testing.assert_close(image, blurred(on.image, 2.0))


def test_noise_follows_the_seed():
    on = batch()._replace(mask=torch.zeros(6, 12, 12).double(), has_mask=torch.ones(6, dtype=torch.bool))
    first, again, other = (shown(on, ContextSwap(outside="noise"), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()
    assert first.mean() == pytest.approx(0.5, abs=0.05)
    assert first.var() == pytest.approx(1 / 12, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outside": "blurr"}, r"outside='blurr'\). Did you mean 'blur'"),
        ({"sigma": 0}, "sigma=0"),
        ({"sigma": math.nan}, "finite"),
        ({"weight": -1}, "not negative"),
    ],
)
def test_bad_arguments(arguments, message):
    """As outside of the tests, which check types ahead of the constructor."""
    with pytest.raises(SightlineError, match=message):
        inspect.unwrap(ContextSwap.__init__)(ContextSwap.__new__(ContextSwap), **arguments)
