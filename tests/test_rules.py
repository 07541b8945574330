"""WBP, LRP, excitation backprop and FullGrad, each against a second version that goes back by hand, layer by layer."""

import copy
import itertools
import math
from functools import partial, singledispatch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from conftest import images, rebuild_net
from nets import Concat, Gated, Sum, double
from sightline import record
from sightline.compat import repair_torchvision
from sightline.errors import SightlineError
from sightline.explainers import CMWP, LRP, MWP, WBP, FullGrad, InputXGradient, rules
from sightline.explainers.fullgrad import biased, products
from sightline.explainers.wbp import linear_as_it_stands
from sightline.functions import by_phases
from sightline.models import Normalise

erf = np.vectorize(math.erf)


def signed(*shape, seed=3):
    """Images from -2 to 2."""
    return 4 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 2


IMAGE = signed(2, 3, 7, 6)


def ready(net, training=False, seed=0):
    """The net in float64, with weights and running statistics from `seed`."""
    net, generator = double(net, seed), torch.Generator().manual_seed(seed)
    for module in net.modules():
        if getattr(module, "running_var", None) is not None:
            module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=generator) - 0.5)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return net.train(training)


def ending(*layers, image=IMAGE, classes=3, bias=True):
    """`layers` and a linear head that fits them."""
    body = nn.Sequential(*layers).double()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(body(image[:2]).flatten(1).shape[1], classes, bias))


def mapped(explainer, net, image=IMAGE, target=1, **options):
    return explainer(record(net, image, taps=explainer.taps, ruled=explainer.ruled), target, **options)


def relative(ours, theirs):
    """Relative distance of two arrays."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


# WBP by hand: what a module computes, and the way back from W~ behind it to W~ ahead of it.


@singledispatch
def walk(module, x):
    """The result of `module`, and a function from W~ behind it to W~ ahead of it; here of an activation."""
    secant = SECANTS[type(module)](module, x.numpy())
    return module(x), lambda arrived: arrived * secant


@walk.register
def _(module: nn.Sequential, x):
    backs = []
    for child in module:
        x, back = walk(child, x)
        backs.append(back)
    return x, lambda arrived: chain(backs, arrived)


def chain(backs, arrived):
    for back in reversed(backs):
        arrived = back(arrived)
    return arrived


@walk.register
def _(module: Sum, x):
    results, backs = zip(*(walk(branch, x) for branch in module), strict=True)
    return sum(results), lambda arrived: sum(back(arrived) for back in backs)


@walk.register
def _(module: Concat, x):
    results, backs = zip(*(walk(branch, x) for branch in module), strict=True)
    ends = np.cumsum([result.shape[1] for result in results])[:-1]
    return torch.cat(results, 1), lambda arrived: sum(
        back(part) for back, part in zip(backs, np.split(arrived, ends, 1), strict=True)
    )


@walk.register
def _(module: Gated, x):
    gate = module.gate(x)
    return x * gate, lambda arrived: arrived * gate.numpy()


@walk.register(nn.Identity)
@walk.register(nn.Flatten)
def _(module, x):
    return module(x), lambda arrived: arrived.reshape(x.shape)


@walk.register
def _(module: nn.Linear, x):
    return module(x), lambda arrived: arrived @ module.weight.numpy()


@walk.register(nn.Dropout)
@walk.register(nn.Dropout2d)
def _(module, x):
    scale = module(torch.ones_like(x))  # draws what module(x) would
    return x * scale, lambda arrived: arrived * scale.numpy()


@walk.register(nn.Upsample)
@walk.register(nn.PixelShuffle)
@walk.register(nn.ConstantPad2d)
@walk.register(nn.ConvTranspose2d)
def _(module, x):
    """Column by column: what comes out for a 1 in each place."""
    units = torch.eye(x[0].numel(), dtype=x.dtype).view(-1, *x.shape[1:])
    columns = (module(units) - module(torch.zeros_like(units))).flatten(1).numpy()
    return module(x), lambda arrived: (arrived.reshape(len(arrived), -1) @ columns.T).reshape(x.shape)


@walk.register
def _(module: _ConvNd, x):
    return module(x), lambda arrived: convolution_back(module, x.shape[2:], arrived)


def convolution_back(module, size, arrived):
    """The paper's rule, group by group: zeros between the entries, then correlation with the rotated kernel."""
    pads = paddings(module)
    full = [n + before + after for n, (before, after) in zip(size, pads, strict=True)]
    parts = [
        rotated_correlation(one, weight, module.stride, module.dilation, full)
        for one, weight in zip(
            np.split(arrived, module.groups, 1), np.split(module.weight.numpy(), module.groups), strict=True
        )
    ]
    return padding_back(np.concatenate(parts, 1), pads, size, module.padding_mode)


def paddings(module):
    """(before, after) along each axis."""
    if module.padding == "same":
        spread = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in spread]
    return [(p, p) for p in ((0,) * len(module.kernel_size) if module.padding == "valid" else module.padding)]


def rotated_correlation(arrived, weight, stride, dilation, full):
    kernel = zeros_between(weight, dilation)
    kernel = np.flip(kernel, range(2, kernel.ndim))
    spread = zeros_between(arrived, stride)
    edges = [(k - 1, f - n) for k, f, n in zip(kernel.shape[2:], full, spread.shape[2:], strict=True)]
    spread = np.pad(spread, [(0, 0), (0, 0), *edges])
    out = np.zeros((len(arrived), weight.shape[1], *full))
    for place in np.ndindex(kernel.shape[2:]):
        window = spread[(..., *(slice(p, p + f) for p, f in zip(place, full, strict=True)))]
        out += np.einsum("oi,bo...->bi...", kernel[(..., *place)], window)
    return out


def zeros_between(values, steps):
    """`values` with steps - 1 zeros between neighbours along each spatial axis."""
    size = [(n - 1) * step + 1 for n, step in zip(values.shape[2:], steps, strict=True)]
    out = np.zeros((*values.shape[:2], *size))
    out[(..., *(slice(None, None, step) for step in steps))] = values
    return out


def padding_back(values, pads, size, mode):
    """Every padded cell's value to the cell that it is a copy of."""
    modes = {"reflect": {"mode": "reflect"}, "replicate": {"mode": "edge"}, "circular": {"mode": "wrap"}}
    sources = np.arange(math.prod(size)).reshape(size)
    sources = np.pad(sources, pads, **modes.get(mode, {"constant_values": -1}))
    out = np.zeros((*values.shape[:2], math.prod(size)))
    for place in np.ndindex(sources.shape):
        if sources[place] >= 0:
            out[..., sources[place]] += values[(..., *place)]
    return out.reshape(*values.shape[:2], *size)


@walk.register(_AvgPoolNd)
@walk.register(_AdaptiveAvgPoolNd)
def _(module, x):
    z = module(x)

    def back(arrived):
        out = np.zeros(x.shape)
        for place, cells, divisor in windows(module, x.shape[2:], z.shape[2:]):
            out[(..., *cells)] += (arrived[(..., *place)] / divisor).reshape(*x.shape[:2], *[1] * len(place))
        return out

    return z, back


@walk.register(_MaxPoolNd)
@walk.register(_AdaptiveMaxPoolNd)
def _(module, x):
    z = module(x)

    def back(arrived):
        out = np.zeros(x.shape)
        for place, cells, _ in windows(module, x.shape[2:], z.shape[2:]):
            for plane in np.ndindex(x.shape[:2]):
                out[plane][largest(x.numpy()[plane], cells)] += arrived[(*plane, *place)]
        return out

    return z, back


def largest(plane, cells):
    """The first of the largest entries."""
    window = plane[cells]
    offset = np.unravel_index(window.argmax(), window.shape)
    return tuple(axis.flatten()[o] for axis, o in zip(cells, offset, strict=True))


def windows(module, size, count):
    """Each result's place, the cells in its window, and the divisor of an average over it."""
    axes = [spans(module, *lengths) for lengths in zip(range(len(size)), size, count, strict=True)]
    for place in np.ndindex(*count):
        cells, padded = zip(*(axis[p] for axis, p in zip(axes, place, strict=True)), strict=True)
        inside = math.prod(map(len, cells))
        whole = math.prod(padded) if getattr(module, "count_include_pad", False) else inside
        yield place, np.ix_(*cells), getattr(module, "divisor_override", None) or whole


def spans(module, axis, size, count):
    """Along one axis: the cells of each window, and its length with padding."""
    if not hasattr(module, "kernel_size"):
        starts = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        return [(list(range(*span)), span[1] - span[0]) for span in starts]
    kernel, stride, pad, step = (
        along(getattr(module, name, 1), axis) for name in ("kernel_size", "stride", "padding", "dilation")
    )
    out = []
    for start in (i * stride - pad for i in range(count)):
        cells = range(start, start + step * (kernel - 1) + 1, step)
        out.append(([c for c in cells if 0 <= c < size], min(start + kernel, size + pad) - start))
    return out


def along(value, axis):
    return value if isinstance(value, int) else value[0] if len(value) == 1 else value[axis]


@walk.register(_BatchNorm)
@walk.register(_InstanceNorm)
@walk.register(nn.GroupNorm)
@walk.register(nn.LayerNorm)
@walk.register(nn.RMSNorm)
def _(module, x):
    z = module(x)
    deviation = deviations(module, x).numpy()
    weight = np.ones(1) if module.weight is None else module.weight.numpy()
    if not isinstance(module, nn.LayerNorm | nn.RMSNorm):
        weight = weight.reshape(1, -1, *[1] * (x.ndim - 2))
    return z, lambda arrived: arrived * weight / deviation


def deviations(module, x):
    """What a norm divides by."""
    if isinstance(module, nn.RMSNorm):
        return (x.square().mean(-1, keepdim=True) + module.eps).sqrt()
    if isinstance(module, nn.LayerNorm):
        return spread_over(x, range(-len(module.normalized_shape), 0), module.eps)
    if isinstance(module, nn.GroupNorm):
        groups = x.unflatten(1, (module.num_groups, -1))
        return spread_over(groups, range(2, groups.ndim), module.eps).expand_as(groups).flatten(1, 2)
    if isinstance(module, _InstanceNorm) and (module.training or not module.track_running_stats):
        return spread_over(x, range(2, x.ndim), module.eps)
    if module.training or module.running_var is None:
        return spread_over(x, [0, *range(2, x.ndim)], module.eps)
    return (module.running_var + module.eps).sqrt().view(1, -1, *[1] * (x.ndim - 2))


def spread_over(x, axes, eps):
    centred = x - x.mean(tuple(axes), keepdim=True)
    return (centred.square().mean(tuple(axes), keepdim=True) + eps).sqrt()


def ratio(part, v, at_zero):
    """part / v, and its limit where v = 0."""
    return np.where(v == 0, at_zero, part / np.where(v == 0, 1, v))


SECANTS = {
    nn.ReLU: lambda m, v: (v > 0).astype(float),
    nn.LeakyReLU: lambda m, v: np.where(v > 0, 1, m.negative_slope),
    nn.PReLU: lambda m, v: np.where(v > 0, 1, m.weight.numpy().reshape(-1, *[1] * (v.ndim - 2))),
    nn.SiLU: lambda m, v: 1 / (1 + np.exp(-v)),
    nn.GELU: lambda m, v: (
        0.5 * (1 + erf(v / math.sqrt(2)))
        if m.approximate == "none"
        else 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
    ),
    nn.Mish: lambda m, v: np.tanh(np.log1p(np.exp(v))),
    nn.Hardswish: lambda m, v: np.clip(v + 3, 0, 6) / 6,
    # In double precision, too, torch's derivative is a sixth in single precision.
    nn.Hardsigmoid: lambda m, v: ratio(np.clip(v + 3, 0, 6) / 6 - 0.5, v, float(np.float32(1 / 6))),
    nn.ReLU6: lambda m, v: ratio(np.clip(v, 0, 6), v, 0),
    nn.Hardtanh: lambda m, v: ratio(np.clip(v, -1, 1), v, 1),
    nn.Tanh: lambda m, v: ratio(np.tanh(v), v, 1),
    nn.Sigmoid: lambda m, v: ratio(1 / (1 + np.exp(-v)) - 0.5, v, 0.25),
    nn.ELU: lambda m, v: ratio(np.where(v > 0, v, m.alpha * np.expm1(np.minimum(v, 0))), v, m.alpha),
    nn.CELU: lambda m, v: ratio(np.where(v > 0, v, m.alpha * np.expm1(np.minimum(v, 0) / m.alpha)), v, 1),
    nn.Softplus: lambda m, v: ratio(np.log1p(np.exp(v)) - math.log(2), v, 0.5),
    nn.Softsign: lambda m, v: 1 / (1 + np.abs(v)),
    nn.Softshrink: lambda m, v: ratio(np.sign(v) * np.maximum(np.abs(v) - m.lambd, 0), v, 0),
}


def slow_wbp(net, image, target):
    """x * W~ of shape (B, C, *spatial)."""
    with torch.no_grad():
        logits, back = walk(copy.deepcopy(net).requires_grad_(False), image)
    return image.numpy() * back(np.eye(logits.shape[1])[np.broadcast_to(target, len(image))])


def assert_wbp_is_the_slow_one(net, image=IMAGE):
    target = np.arange(len(image)) % 3
    torch.manual_seed(5)
    expected = slow_wbp(net, image, target)
    for engine in ("auto", "surrogate"):
        torch.manual_seed(5)  # dropout draws alike
        ours = mapped(WBP(engine, reduce=None), net, image, torch.tensor(target))
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def around(layer, image=IMAGE, width=4):
    """A net with `layer` in its middle."""
    first = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[image.ndim](image.shape[1], width, 3, padding=1)
    return ending(first, nn.LeakyReLU(0.2), layer, nn.SiLU(), image=image)


LAYERS = {
    "linear": lambda: nn.Linear(6, 5),
    "linear without bias": lambda: nn.Linear(6, 5, bias=False),
    "conv": lambda: nn.Conv2d(4, 5, 3),
    "conv padded": lambda: nn.Conv2d(4, 5, 3, padding=(2, 1)),
    "conv strided, dividing": lambda: nn.Conv2d(4, 5, 3, stride=2, padding=1),
    "conv strided, leaving cells over": lambda: nn.Conv2d(4, 5, 2, stride=(3, 4)),
    "conv depthwise": lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1),
    "conv grouped, strided, dilated": lambda: nn.Conv2d(4, 6, (2, 3), (2, 1), 2, dilation=(2, 1), groups=2),
    "conv even kernel": lambda: nn.Conv2d(4, 5, (4, 2), padding=1),
    "conv 1 x 1": lambda: nn.Conv2d(4, 5, 1, stride=2),
    "conv same": lambda: nn.Conv2d(4, 5, (4, 3), padding="same", dilation=(1, 2)),
    "conv valid": lambda: nn.Conv2d(4, 5, 3, padding="valid"),
    "conv reflect": lambda: nn.Conv2d(4, 5, 3, padding=2, padding_mode="reflect"),
    "conv replicate": lambda: nn.Conv2d(4, 5, 3, padding=(1, 2), padding_mode="replicate", stride=2),
    "conv circular": lambda: nn.Conv2d(4, 5, 3, padding=2, padding_mode="circular", groups=1),
    "batch norm": lambda: nn.BatchNorm2d(4),
    "batch norm without weights": lambda: nn.BatchNorm2d(4, affine=False),
    "batch norm without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "layer norm": lambda: nn.LayerNorm(6),
    "layer norm over three axes": lambda: nn.LayerNorm((4, 7, 6)),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "instance norm with statistics": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    "rms norm": lambda: nn.RMSNorm(6, eps=1e-5),
    "average pool": lambda: nn.AvgPool2d(2),
    "average pool, overlapping": lambda: nn.AvgPool2d(3, stride=2, padding=1),
    "average pool, padding not counted": lambda: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "average pool, ceiling": lambda: nn.AvgPool2d((2, 3), ceil_mode=True, divisor_override=5),
    "max pool": lambda: nn.MaxPool2d(2),
    "max pool, overlapping": lambda: nn.MaxPool2d(3, stride=1, padding=1),
    "max pool, dilated": lambda: nn.MaxPool2d(2, stride=2, dilation=2, ceil_mode=True),
    "adaptive average": lambda: nn.AdaptiveAvgPool2d((3, 4)),
    "global average": lambda: nn.AdaptiveAvgPool2d(1),
    "adaptive max": lambda: nn.AdaptiveMaxPool2d((3, 4)),
    "global max": lambda: nn.AdaptiveMaxPool2d(1),
    "dropout": lambda: nn.Dropout(0.4),
    "dropout of channels": lambda: nn.Dropout2d(0.4),
    "upsample": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "upsample nearest": lambda: nn.Upsample(scale_factor=2),
    "pixel shuffle": lambda: nn.PixelShuffle(2),
    "pad": lambda: nn.ConstantPad2d((1, 0, 2, 1), 0.7),
    "residual": lambda: Sum([nn.Identity(), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GELU())]),
    "residual with projection": lambda: Sum([nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(4, 5, 1)]),
    "concat": lambda: Concat([nn.Identity(), nn.Conv2d(4, 3, 3, padding=1), nn.MaxPool2d(3, 1, 1)]),
    "squeeze and excite": lambda: Gated(
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1), nn.Sigmoid())
    ),
    "hard squeeze and excite": lambda: Gated(
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Hardsigmoid())
    ),
}
LINES, VOLUMES = signed(2, 3, 11), signed(2, 2, 4, 5, 3)
OTHER_RANKS = {
    "conv 1d": (LINES, lambda: nn.Conv1d(4, 6, 4, stride=2, padding=3, dilation=2, groups=2)),
    "conv 1d same": (LINES, lambda: nn.Conv1d(4, 6, 4, padding="same", padding_mode="reflect")),
    "conv 3d": (VOLUMES, lambda: nn.Conv3d(4, 6, (2, 3, 1), stride=(1, 2, 1), padding=1, groups=2)),
    "conv 3d circular": (VOLUMES, lambda: nn.Conv3d(4, 3, 2, padding=1, padding_mode="circular")),
    "batch norm 1d": (LINES, lambda: nn.BatchNorm1d(4)),
    "batch norm 3d": (VOLUMES, lambda: nn.BatchNorm3d(4)),
    "instance norm 3d": (VOLUMES, lambda: nn.InstanceNorm3d(4, affine=True)),
    "group norm 1d": (LINES, lambda: nn.GroupNorm(4, 4)),
    "average pool 1d": (LINES, lambda: nn.AvgPool1d(3, 2, 1, count_include_pad=False)),
    "average pool 3d": (VOLUMES, lambda: nn.AvgPool3d((2, 3, 2), 2, 1)),
    "max pool 1d": (LINES, lambda: nn.MaxPool1d(3, 2, 1)),
    "max pool 3d": (VOLUMES, lambda: nn.MaxPool3d(2, 1)),
    "adaptive average 1d": (LINES, lambda: nn.AdaptiveAvgPool1d(4)),
    "adaptive max 3d": (VOLUMES, lambda: nn.AdaptiveMaxPool3d((2, 3, 2))),
    "upsample 3d": (VOLUMES, lambda: nn.Upsample(scale_factor=2, mode="trilinear")),
}
in_either_mode = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


@in_either_mode
@pytest.mark.parametrize("layer", LAYERS)
def test_wbp_of_each_layer(layer, training):
    assert_wbp_is_the_slow_one(ready(around(LAYERS[layer]()), training))


@in_either_mode
@pytest.mark.parametrize("layer", OTHER_RANKS)
def test_wbp_of_layers_of_lines_and_volumes(layer, training):
    image, make = OTHER_RANKS[layer]
    assert_wbp_is_the_slow_one(ready(around(make(), image), training), image)


@pytest.mark.parametrize("kind", [*SECANTS, partial(nn.GELU, "tanh"), partial(nn.PReLU, 3)])
def test_wbp_of_each_activation_also_at_exact_zeros_and_kinks(kind):
    image = torch.cat([torch.linspace(-8, 8, 33).double(), torch.zeros(9), torch.tensor([0.25, -0.25, 0.0])]) + 16
    image = image.reshape(1, 3, 5, 3).repeat(2, 1, 1, 1)
    net = ready(ending(nn.BatchNorm2d(3, eps=1e-300, affine=False), kind(), image=image))
    net[0].running_mean.fill_(16)  # so that an activation of 0 is no pixel of 0, where every map is 0
    net[0].running_var.fill_(1)
    assert_wbp_is_the_slow_one(net, image)


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(2), nn.AdaptiveMaxPool2d(1)]
)
def test_ties_in_a_max_pool_go_to_the_first(pool):
    image = IMAGE.round()
    assert_wbp_is_the_slow_one(ready(ending(pool)), image)


def everything():
    block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.SiLU())
    return ending(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6), nn.Hardswish(),
        Sum([nn.Identity(), block]), nn.GELU(), Concat([nn.MaxPool2d(3, 1, 1), nn.Conv2d(6, 2, 1)]), nn.GroupNorm(4, 8),
        Gated(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())), nn.Dropout(0.3),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.AvgPool2d(3, 2, 1), nn.ELU(), nn.Flatten(), nn.Linear(96, 9),
        nn.LayerNorm(9), nn.Tanh(),
    )  # fmt: skip


@in_either_mode
def test_wbp_of_a_deep_network_of_everything(training):
    assert_wbp_is_the_slow_one(ready(everything(), training))


@pytest.mark.parametrize(
    "kind",
    [nn.Tanh(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.Sigmoid(), nn.Softplus(), nn.Hardsigmoid()],
    ids=repr,
)
def test_secants_next_to_zero_in_single_precision(kind):
    image, net = (
        torch.tensor([1e-4, -1e-6, 1e-7, 1e-9]).expand(1, 3, 1, 4),
        ready(ending(kind, image=IMAGE[:, :, :1, :4])),
    )
    single, double_ = (
        mapped(WBP(reduce=None), copy.deepcopy(net).to(kind), image.to(kind)) for kind in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single.double(), double_, rtol=1e-3, atol=0)


def test_wbp_of_a_clamp_between_learned_bounds():
    class Bounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.low = nn.Parameter(torch.zeros(4, 1, 1))

        def forward(self, x):
            return x.clamp(min=self.low)

    assert mapped(WBP(), ready(around(Bounded()))).isfinite().all()


@pytest.mark.parametrize(
    "layer", [nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1), nn.ConvTranspose2d(4, 4, 2, groups=2)], ids=repr
)
def test_wbp_of_transposed_convolutions(layer):
    assert_wbp_is_the_slow_one(ready(around(layer)))


def unbiased(net):
    """The net without what WBP and LRP drop: biases and running means."""
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.zero_()
    return net


BIAS_FREE = {
    "relu": (nn.ReLU(), nn.Identity()),
    "secants": (nn.SiLU(), nn.GELU(), nn.Tanh(), nn.Hardswish(), nn.ELU(), nn.ReLU6(), nn.PReLU()),
    "batch norm": (nn.BatchNorm2d(4), nn.ReLU()),
    "rms norm": (nn.RMSNorm(6), nn.Mish()),
    "pools": (nn.MaxPool2d(3, 2, 1), nn.ReLU(), nn.AvgPool2d(2, 1, 1), nn.Upsample(scale_factor=2)),
    "residual": (Sum([nn.Identity(), nn.Conv2d(4, 4, 3, padding=1)]), nn.Softsign()),
    "concat": (Concat([nn.Tanh(), nn.Conv2d(4, 4, 3, padding=1)]),),
    "gate": (Gated(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())), nn.ReLU()),
    "dropout": (nn.Dropout(0.5), nn.ReLU()),
}


@pytest.mark.parametrize("layers", BIAS_FREE)
def test_wbp_sums_up_to_the_logit_without_biases(layers):
    net = unbiased(ready(ending(nn.Conv2d(3, 4, 3, padding=1), *BIAS_FREE[layers])))
    net.train(layers == "dropout")
    run = record(net, IMAGE, taps=("image",), ruled=True)
    torch.testing.assert_close(WBP()(run, 2).sum((1, 2)), run.logits[:, 2].detach())


PLAIN = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, 1, 1),
    Sum([nn.Identity(), nn.Conv2d(4, 4, 1)]), nn.LeakyReLU(0.1), Concat([nn.AvgPool2d(3, 1, 1), nn.PReLU()]),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3),
)  # fmt: skip


def test_wbp_is_input_times_gradient_where_the_paper_says_so_and_its_engines_agree():
    net = ready(copy.deepcopy(PLAIN))
    expected = mapped(InputXGradient(), net)
    for engine in ("auto", "autograd", "surrogate"):
        assert torch.equal(mapped(WBP(engine), net), expected)
    assert all(map(linear_as_it_stands, record(net, IMAGE, taps=("image",), ruled=True).ops))


@pytest.mark.parametrize(
    "layer",
    [nn.SiLU(), nn.LayerNorm(6), nn.BatchNorm2d(4).train(), Gated(nn.Sigmoid())],
    ids=lambda m: type(m).__name__,
)
def test_wbp_is_not_input_times_gradient_elsewhere(layer):
    net = ready(ending(nn.Conv2d(3, 4, 3, padding=1), layer), training=True)
    assert relative(mapped(WBP("surrogate"), net), mapped(InputXGradient(), net)) > 0.01
    assert torch.equal(mapped(WBP("autograd"), net), mapped(InputXGradient(), net))
    assert torch.equal(mapped(WBP(), net), mapped(WBP("surrogate"), net))


@singledispatch
def surrogate(module, x):
    """A forward whose ordinary gradient is W~: secants, statistics and gates are numbers; here of an activation."""
    if type(module) in SECANTS:
        return x * torch.as_tensor(SECANTS[type(module)](module, x.detach().numpy()))
    return module(x)


@surrogate.register
def _(module: nn.Sequential, x):
    for child in module:
        x = surrogate(child, x)
    return x


@surrogate.register
def _(module: Sum, x):
    return sum(surrogate(branch, x) for branch in module)


@surrogate.register
def _(module: Gated, x):
    return x * module.gate(x).detach()


@surrogate.register(_BatchNorm)
@surrogate.register(nn.GroupNorm)
def _(module, x):
    linear = x / deviations(module, x.detach()) * module.weight.view(1, -1, *[1] * (x.ndim - 2))
    return linear + (module(x) - linear).detach()  # its values are its own; only the way back is another


@in_either_mode
def test_constants_stay_constant_in_second_order(training):
    net = ready(
        ending(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.SiLU(),
            Sum([nn.Identity(), nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.GELU())]),
            Gated(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 6, 1), nn.Sigmoid())), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(54, 8), nn.ReLU(),
        ), training,
    )  # fmt: skip
    share = signed(2, 7, 6, seed=9)
    loss = (mapped(WBP(detach=True), net, differentiable=True) * share).sum()
    image = IMAGE.clone().requires_grad_()
    (weights,) = torch.autograd.grad(surrogate(net, image)[:, 1].sum(), image, create_graph=True)
    expected = ((IMAGE * weights).sum(1) * share).sum()
    torch.testing.assert_close(loss, expected)
    assert_same_gradients(net, loss, expected)
    exact = (mapped(WBP(), net, differentiable=True) * share).sum()
    torch.testing.assert_close(exact, expected)
    with pytest.raises(AssertionError):
        assert_same_gradients(net, exact, expected)


def assert_same_gradients(net, *losses):
    ours, theirs = (
        torch.autograd.grad(loss, net.parameters(), retain_graph=True, materialize_grads=True) for loss in losses
    )
    for name, a, b in zip(dict(net.named_parameters()), ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def slow(name):
    """The network behind a reference file takes seconds to build."""
    return pytest.param(name, marks=pytest.mark.slow)


WBP_ORACLES = [
    "seq_relu", "seq_relu_train", "seq_mixed", "seq_mixed_train", slow("resnet18"), slow("resnet18_train"),
    slow("vgg11_bn"), "squeezenet1_1", "mobilenet_v3_small",
]  # fmt: skip


@pytest.mark.parametrize("name", WBP_ORACLES)
def test_wbp_and_input_times_gradient_against_reference_values(name, oracle):
    reference = oracle(f"attr_{name}")
    net, image, target = rebuild_net(reference["meta"]), images(reference["meta"]), torch.tensor(reference["targets"])
    assert relative(mapped(WBP(reduce=None), net, image, target), reference["wbp"]) < 1e-9
    assert relative(mapped(InputXGradient(reduce=None), net, image, target), reference["ixg"]) < 1e-9


# LRP and excitation backprop of one layer: every link from an input to an output, one by one.


def links(layer, shape):
    """For each output the inputs that it is made from and their weights, by plain loops."""
    if isinstance(layer, nn.Linear):
        return [(np.arange(shape[0]), weights) for weights in layer.weight.detach().numpy()]
    weight, size = layer.weight.detach().numpy(), shape[1:]
    numbers = np.arange(math.prod(shape)).reshape(shape)
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    count = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(size, layer.padding, reach, layer.stride, strict=True)]
    out = []
    for channel, *place in np.ndindex(layer.out_channels, *count):
        group, found = channel // (layer.out_channels // layer.groups) * weight.shape[1], []
        for inner, *tap in np.ndindex(weight.shape[1:]):
            cell = [
                p * s - e + t * d
                for p, s, e, t, d in zip(place, layer.stride, layer.padding, tap, layer.dilation, strict=True)
            ]
            if all(0 <= c < n for c, n in zip(cell, size, strict=True)):
                found.append((numbers[(group + inner, *cell)], weight[(channel, inner, *tap)]))
        out.append(tuple(map(np.array, zip(*found, strict=True))))
    return out


def shares(rule, x, w, b, low, high, gamma=0.3, alpha=2.5, beta=1.5):
    """(factor, contributions of the inputs, contribution of the bias) of each group that relevance is shared among."""
    c = x * w
    up, down = (lambda v: np.maximum(v, 0)), (lambda v: np.minimum(v, 0))
    match rule:
        case "epsilon":
            return [(1, c, b)]
        case "gamma":
            part = up if c.sum() + b > 0 else down
            return [(1, c + gamma * part(c), b + gamma * part(b))]
        case "alpha_beta":
            return [(alpha, up(c), up(b)), (-beta, down(c), down(b))]
        case "zplus":
            return [(1, up(c), up(b))]
        case "zbox":
            return [(1, c - low * up(w) - high * down(w), 0)]
        case "excitation":
            return [(1, x * up(w), 0)]


def slow_rule(rule, layer, x, relevance, eps=1e-6, low=-2.0, high=2.0):
    """The relevance of the inputs of one image."""
    out, x, relevance = np.zeros(x.numel()), x.flatten().numpy(), relevance.numpy()
    bias = np.zeros(1) if layer.bias is None else layer.bias.detach().numpy()
    found = links(layer, (len(x),)) if isinstance(layer, nn.Linear) else links(layer, tuple(IMAGE.shape[1:]))
    for j, (i, w) in enumerate(found):
        b = bias[j * len(bias) // len(found)]
        for factor, inputs, rest in shares(rule, x[i], w, b, low, high):
            total = inputs.sum() + rest
            out[i] += factor * inputs / (total + (eps if total >= 0 else -eps)) * relevance[j]
    return out


SINGLE = {
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(126, 5)),
    "linear without bias": nn.Sequential(nn.Flatten(), nn.Linear(126, 5, bias=False)),
    "conv": nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten()),
    "conv grouped": nn.Sequential(
        nn.Conv2d(3, 6, (2, 3), stride=(2, 1), dilation=2, padding=1, groups=3), nn.Flatten()
    ),
    "conv strided, without bias": nn.Sequential(nn.Conv2d(3, 4, 2, stride=3, bias=False), nn.Flatten()),
}
FAST = {
    "epsilon": rules.epsilon,
    "gamma": partial(rules.gamma, gamma=0.3),
    "alpha_beta": partial(rules.alpha_beta, alpha=2.5, beta=1.5),
    "zplus": rules.zplus,
    "zbox": partial(rules.zbox, low=torch.tensor(-2.0).double(), high=torch.tensor(2.0).double()),
}


@pytest.mark.parametrize("image", [IMAGE, IMAGE.abs(), IMAGE.relu().round()], ids=["signed", "positive", "with zeros"])
@pytest.mark.parametrize("layer", SINGLE)
@pytest.mark.parametrize("rule", FAST)
def test_each_rule_of_one_layer(rule, layer, image):
    net = ready(copy.deepcopy(SINGLE[layer]))
    op = record(net, image, taps=("image",), ruled=True).ops[0]
    relevance = signed(*op.z.shape, seed=4)
    ours = FAST[rule](op, relevance).detach().flatten(1)
    (module,) = (m for m in net if not isinstance(m, nn.Flatten))
    for one, x, arrived in zip(ours, image, relevance, strict=True):
        np.testing.assert_allclose(one, slow_rule(rule, module, x, arrived.flatten()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layer", SINGLE)
def test_excitation_of_one_layer(layer):
    net = ready(copy.deepcopy(SINGLE[layer]))
    op = record(net, IMAGE.abs(), taps=("image",), ruled=True).ops[0]
    relevance = signed(*op.z.shape, seed=4)
    ours = rules.excitation(op, relevance).detach().flatten(1)
    (module,) = (m for m in net if not isinstance(m, nn.Flatten))
    for one, x, arrived in zip(ours, IMAGE.abs(), relevance, strict=True):
        expected = slow_rule("excitation", module, x, arrived.flatten(), eps=1e-20)
        np.testing.assert_allclose(one, expected, rtol=1e-9, atol=1e-12)


def test_lrp_0_sends_nothing_where_the_result_is_zero():
    net = double(nn.Sequential(nn.Flatten(), nn.Linear(126, 3)))
    net[1].weight.data[1] = 0
    net[1].bias.data.zero_()
    op = record(net, IMAGE, taps=("image",), ruled=True).ops[0]
    ours = rules.epsilon(op, torch.ones_like(op.z), 0.0).detach()
    expected = rules.epsilon(op, torch.tensor([[1.0, 0, 1]] * 2).double(), 1e-14).detach()
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


# LRP of networks.


def test_lrp_0_is_wbp():
    """Also with biases, secants, norms and gates: the decomposition is the same."""
    torch.testing.assert_close(mapped(LRP("zero", eps=0.0), ready(everything())), mapped(WBP(), ready(everything())))
    net = ready(copy.deepcopy(PLAIN))
    assert relative(mapped(LRP("epsilon", eps=1e-12), net), mapped(InputXGradient(), net)) < 1e-9


def features(norm):
    """A small net of convolutions, with or without BatchNorm behind each."""

    def layer(width, out, **options):
        return [nn.Conv2d(width, out, 3, padding=1, **options), *([nn.BatchNorm2d(out)] if norm else []), nn.ReLU()]

    return nn.Sequential(
        *layer(3, 8), nn.MaxPool2d(2), *layer(8, 12, bias=not norm), *layer(12, 12), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(48, 10), *([nn.BatchNorm1d(10)] if norm else []), nn.ReLU(), nn.Dropout(), nn.Linear(10, 4),
    )  # fmt: skip


def residual(norm):
    """The first half of a small ResNet, with or without BatchNorm."""
    repair_torchvision()
    resnet = pytest.importorskip("torchvision").models.resnet
    net = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], 4, norm_layer=None if norm else nn.Identity)
    net.layer3, net.layer4, net.fc = nn.Identity(), nn.Identity(), nn.Linear(128, 4)
    return net


def without_batch_norm(net):
    """The net with every BatchNorm folded into the layer ahead of it, by hand."""
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        children = list(parent.named_children())
        for (name, layer), (after, norm) in itertools.pairwise(children):
            if isinstance(norm, _BatchNorm):
                setattr(parent, name, folded(layer, norm))
                setattr(parent, after, nn.Identity())
    return net


def folded(layer, norm):
    layer, scale = copy.deepcopy(layer), norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = 0 if layer.bias is None else layer.bias
    layer.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias)
    layer.weight.data *= scale.view(-1, *[1] * (layer.weight.ndim - 1)).data
    return layer


def zennit_relevance(composite, net, image, target):
    with composite.context(net) as ruled:
        image = image.clone().requires_grad_()
        logits = ruled(image)
        seed = F.one_hot(target, logits.shape[1]) * logits.detach()
        return torch.autograd.grad(logits, image, seed)[0]


def zennit_composites(image):
    """Our explainer and its counterpart there, by name."""
    repair_torchvision()
    zennit = pytest.importorskip("zennit")
    from zennit import composites, types
    from zennit import rules as theirs
    from zennit.torchvision import ResNetCanonizer

    plain, box = (
        {"canonizers": [ResNetCanonizer()]},
        {"low": torch.full_like(image, -2), "high": torch.full_like(image, 2)},
    )
    both = (types.Convolution, types.Linear)

    def everywhere(rule, first=None):
        layers = [(both, rule), *composites.layer_map_base()]
        if first is None:
            return composites.LayerMapComposite(layers, **plain)
        return composites.SpecialFirstLayerMapComposite(layers, [(both, first)], **plain)

    assert zennit
    return {
        "Epsilon": (LRP(reduce=None), everywhere(theirs.Epsilon())),
        "Gamma": (LRP("gamma", reduce=None), everywhere(theirs.Gamma())),
        "AlphaBeta": (LRP("alpha_beta", dense="alpha_beta", reduce=None), everywhere(theirs.AlphaBeta())),
        "ZPlus": (LRP(conv="zplus", dense="zplus", reduce=None), everywhere(theirs.ZPlus())),
        "ZBox": (LRP("zbox", low=-2, high=2, reduce=None), everywhere(theirs.Epsilon(), theirs.ZBox(**box))),
        "EpsilonGammaBox": (
            LRP("epsilon_gamma_box", low=-2, high=2, reduce=None), composites.EpsilonGammaBox(**box, **plain)
        ),
        "EpsilonPlus": (LRP("epsilon_plus", reduce=None), composites.EpsilonPlus(**plain)),
        "EpsilonAlpha2Beta1": (LRP("alpha_beta", reduce=None), composites.EpsilonAlpha2Beta1(**plain)),
    }  # fmt: skip


ZENNIT = ("Epsilon", "Gamma", "AlphaBeta", "ZPlus", "ZBox", "EpsilonGammaBox", "EpsilonPlus", "EpsilonAlpha2Beta1")


@pytest.mark.parametrize(("build", "norm"), [(features, False), (features, True), (residual, True)])
@pytest.mark.parametrize("name", ZENNIT)
def test_lrp_agrees_with_zennit(name, build, norm):
    image, target = signed(2, 3, *((8, 8) if build is features else (21, 26))), torch.tensor([1, 3])
    lrp, composite = zennit_composites(image)[name]
    net = ready(build(norm))
    theirs = zennit_relevance(composite, without_batch_norm(net), image, target)
    assert relative(mapped(lrp, net, image, target), theirs) < 1e-9


@pytest.mark.parametrize("name", [slow("vgg11_bn"), slow("resnet18")])
def test_lrp_against_reference_values(name, oracle):
    reference = oracle(f"lrp_{name}")
    meta = reference["meta"]
    net, image, target = rebuild_net(meta), images(meta), torch.tensor(reference["targets"])
    bounds = {key: meta[key] if isinstance(meta[key], float) else tuple(meta[key]) for key in ("low", "high")}
    for key in (key for key in reference if key.startswith("relevance__")):
        composite = key.removeprefix("relevance__").replace("alpha2beta1", "alpha_beta")
        ours = mapped(LRP(composite, **bounds, eps=meta["eps"], gamma=meta["gamma"], reduce=None), net, image, target)
        assert relative(ours, reference[key]) < 1e-9, key


CONSERVING = [
    LRP("zero", eps=0.0),
    LRP("gamma", eps=0.0, gamma=0.7),
    LRP("alpha_beta", dense="alpha_beta", eps=0.0),
    LRP(conv="zplus", dense="zplus", eps=0.0),
    LRP("epsilon_gamma_box", eps=0.0, low=-2, high=2),
]
JOINTS = {
    "plain": (nn.Identity(), nn.MaxPool2d(2)),
    "pool": (nn.AvgPool2d(2), nn.ReLU()),
    "batch norm": (nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()),
    "residual": (Sum([nn.Identity(), nn.Conv2d(12, 12, 3, padding=1)]), nn.ReLU()),
    "three": (Sum([nn.Identity(), nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU()), nn.MaxPool2d(3, 1, 1)]),),
    "concat": (Concat([nn.Identity(), nn.Conv2d(12, 6, 3, padding=1), nn.AvgPool2d(3, 1, 1)]), nn.ReLU()),
    "gate": (Gated(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 12, 1), nn.Sigmoid())), nn.GELU()),
}  # fmt: skip


@pytest.mark.parametrize("joint", JOINTS)
@pytest.mark.parametrize("lrp", CONSERVING, ids=repr)
def test_relevance_sums_up_to_the_logit_without_biases(lrp, joint):
    net = unbiased(ready(ending(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), *JOINTS[joint], classes=4)))
    run = record(net, IMAGE, taps=("image",), ruled=True)
    torch.testing.assert_close(lrp(run, 2).sum((1, 2)), run.logits[:, 2].detach())


MERGES = {
    "linear": (lambda bias: nn.Sequential(nn.Flatten(), nn.Linear(126, 5, bias)), nn.BatchNorm1d, IMAGE),
    "1d": (lambda bias: nn.Conv1d(3, 5, 3, 2, 1, bias=bias), nn.BatchNorm1d, LINES),
    "2d": (lambda bias: nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect", bias=bias), nn.BatchNorm2d, IMAGE),
    "3d": (lambda bias: nn.Conv3d(2, 5, 2, dilation=2, padding=1, bias=bias), nn.BatchNorm3d, VOLUMES),
}


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("affine", [False, True], ids=["no affine", "affine"])
@pytest.mark.parametrize("layer", MERGES)
@in_either_mode
def test_a_batch_norm_is_merged_exactly(layer, affine, bias, training):
    make, norm, image = MERGES[layer]
    net = ready(nn.Sequential(make(bias), norm(5, affine=affine), nn.Flatten()), training)
    op = record(net, image, taps=("image",), ruled=True).ops[-1]
    merged = op.merged()
    assert op.kind == "norm"
    assert merged.name.startswith(("conv", "linear"))
    torch.testing.assert_close(merged.run(merged.x, merged.weight, merged.bias), op.z)


class Product(nn.Module):
    """A fully connected layer whose weight stands the other way round."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(126, 126))

    def forward(self, x):
        return x @ self.weight


def test_a_batch_norm_behind_a_product_is_not_merged():
    net = ready(nn.Sequential(nn.Flatten(), Product(), nn.BatchNorm1d(126), nn.ReLU(), nn.Linear(126, 3)))
    assert [op.source for op in record(net, IMAGE, taps=("image",), ruled=True).ops if op.kind == "norm"] == [None]
    assert relative(mapped(LRP(eps=1e-12), net), mapped(InputXGradient(), net)) < 1e-6


class Direct(nn.BatchNorm2d):
    """Calls torch's own function, whose arguments stand in another order."""

    def forward(self, x):
        values = self.weight, self.bias, self.running_mean, self.running_var
        return torch.batch_norm(x, *values, self.training, self.momentum, self.eps, False)


def test_a_batch_norm_called_directly():
    direct, plain = (ready(ending(nn.Conv2d(3, 4, 3), kind(4), nn.ReLU())) for kind in (Direct, nn.BatchNorm2d))
    torch.testing.assert_close(mapped(LRP("gamma"), direct), mapped(LRP("gamma"), plain))


def test_a_batch_norm_behind_something_else_is_a_layer_of_its_own():
    net = ready(ending(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()))
    run = record(net, IMAGE, taps=("image",), ruled=True)
    (norm,) = (op for op in run.ops if op.kind == "norm")
    assert norm.source is None
    arrived = signed(*norm.z.shape, seed=8)
    scale = (net[2].weight / (net[2].running_var + 1e-5).sqrt()).view(-1, 1, 1)
    expected = norm.x * scale * arrived / (norm.z + 1e-6 * torch.where(norm.z >= 0, 1, -1))
    torch.testing.assert_close(rules.through_norm(norm, arrived), expected)


NORMALISED = nn.Sequential(Normalise((0.4, 0.5, 0.3), (0.2, 0.25, 0.3)), nn.Identity()).double()


@pytest.mark.parametrize("composite", ["epsilon", "gamma", "epsilon_plus", "zbox", "epsilon_gamma_box"])
def test_a_model_that_normalises_gives_the_relevance_of_the_normalised_image(composite):
    image, net = IMAGE.abs() / 2, ready(ending(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()))
    inside = mapped(LRP(composite, low=(0.0, -0.1, 0.2), high=1.0, reduce=None), nn.Sequential(NORMALISED, net), image)
    low, high = (
        NORMALISED(torch.tensor(bound).double().view(1, 3, 1, 1)).flatten() for bound in ((0, -0.1, 0.2), (1.0,) * 3)
    )
    box = {"low": tuple(low.tolist()), "high": tuple(high.tolist())}
    torch.testing.assert_close(inside, mapped(LRP(composite, **box, reduce=None), net, NORMALISED(image)))


class Negative(nn.Module):
    def forward(self, image):
        return 1 - image


def test_bounds_of_a_negated_image_are_put_in_order():
    net = ready(ending(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()))
    inside = mapped(LRP("zbox", low=0, high=0.75), nn.Sequential(Negative(), net), IMAGE.abs() / 2)
    torch.testing.assert_close(inside, mapped(LRP("zbox", low=0.25, high=1), net, 1 - IMAGE.abs() / 2))


def test_z_box_of_several_numbers_of_channels():
    net = ready(ending(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()))
    same = mapped(LRP("zbox", low=-2, high=(2, 2, 2)), net)
    torch.testing.assert_close(same, mapped(LRP("zbox", low=(-2, -2, -2), high=2), net))
    with pytest.raises(SightlineError, match="2 values for images of 3 channels"):
        mapped(LRP("zbox", low=(0, 0)), net)


def test_the_relative_stabiliser_counts_in_sizes_of_the_result():
    net = ready(nn.Sequential(nn.Flatten(), nn.Linear(126, 8), nn.ReLU(), nn.Linear(8, 3)))
    ours = mapped(LRP(eps=0.3, relative=True, reduce=None), net).flatten(1)
    with torch.no_grad():
        hidden, logits = net[:3](IMAGE), net(IMAGE)
        first, last = (z.square().mean(1).sqrt() for z in (net[:2](IMAGE), logits))
    for x, v, z, one, a, b in zip(IMAGE, hidden, logits, ours, first.tolist(), last.tolist(), strict=True):
        between = slow_rule("epsilon", net[3], v, z * torch.eye(3)[1].double(), eps=0.3 * b)
        expected = slow_rule("epsilon", net[1], x, torch.from_numpy(between), eps=0.3 * a)
        np.testing.assert_allclose(one, expected, rtol=1e-6)


def test_with_the_relative_stabiliser_relevance_keeps_pace_with_the_scale():
    net = unbiased(ready(ending(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU())))
    small = copy.deepcopy(net)
    for parameter in small.parameters():
        parameter.data *= 1e-3
    moved = [
        relative(
            mapped(LRP("gamma", relative=on, eps=1e-3), small) * 1e9, mapped(LRP("gamma", relative=on, eps=1e-3), net)
        )
        for on in (True, False)
    ]
    assert moved[0] < 1e-9
    assert moved[1] > 0.5


@pytest.mark.parametrize(
    ("overridden", "composite"),
    [
        (LRP("epsilon", first="zbox", conv="gamma"), LRP("epsilon_gamma_box")),
        (LRP("zbox", conv="alpha_beta"), LRP("epsilon_alpha_beta_box")),
        (LRP("gamma", conv="zplus", dense="epsilon"), LRP("epsilon_plus")),
        (LRP("gamma", first="zero", conv="zero", dense="zero"), LRP("zero")),
        (LRP("epsilon_gamma_box", first="epsilon", conv="epsilon"), LRP("epsilon")),
        (LRP("alpha_beta", alpha=1, beta=0), LRP("epsilon_plus")),
        (LRP("gamma", gamma=0), LRP("epsilon")),
    ],
    ids=repr,
)
def test_overrides_of_single_rules(overridden, composite):
    net = ready(features(norm=True))
    image = signed(2, 3, 8, 8)
    torch.testing.assert_close(mapped(overridden, net, image), mapped(composite, net, image))


def test_the_first_layer_alone_follows_first():
    net, image = ready(features(norm=True)), signed(2, 3, 8, 8)
    ours = mapped(LRP("gamma", first="alpha_beta", reduce=None), net, image)
    run = record(net, image, taps=("image", "2"), ruled=True)
    lrp = LRP("gamma")
    seed = run.one_hot(1) * run.logits
    arrived = run.pull(run.logits, (run.tap("2"),), seed, rules=partial(lrp._rule, first=None, bounds=()))[0]
    norm = next(op for op in run.ops if op.kind == "norm")
    torch.testing.assert_close(ours, rules.alpha_beta(norm.merged(), arrived).detach())


def test_z_box_of_a_network_of_fully_connected_layers():
    net = ready(nn.Sequential(nn.Flatten(), nn.Linear(126, 8), nn.ReLU(), nn.Linear(8, 3)))
    run = record(net, IMAGE, taps=("image",), ruled=True)
    arrived = rules.epsilon(run.ops[-1], run.one_hot(1) * run.logits)
    expected = FAST["zbox"](run.ops[0], arrived).detach().view_as(IMAGE)
    torch.testing.assert_close(LRP("zbox", low=-2, high=2, reduce=None)(run, 1), expected)


# Excitation backprop.


@singledispatch
def excite(module, x):
    """The result of `module` for one image (1, ...), and the way back of winning probability; here as in WBP."""
    return walk(module, x)


@excite.register
def _(module: nn.Sequential, x):
    backs = []
    for child in module:
        x, back = excite(child, x)
        backs.append(back)
    return x, lambda arrived: chain(backs, arrived)


@excite.register
def _(module: Sum, x):
    results, backs = zip(*(excite(branch, x) for branch in module), strict=True)
    total = sum(results)
    shared = [np.where(total == 0, 0, result / torch.where(total == 0, 1, total)) for result in results]
    return total, lambda arrived: sum(back(arrived * part) for back, part in zip(backs, shared, strict=True))


@excite.register(_AvgPoolNd)
@excite.register(_AdaptiveAvgPoolNd)
def _(module, x):
    z, back = walk(module, x)
    return z, lambda arrived: x.numpy() * back(arrived / (z.numpy() + 1e-20))


@excite.register(nn.Linear)
@excite.register(_ConvNd)
def _(module, x):
    found = links(module, tuple(x.shape[1:]))

    def back(arrived):
        out, v = np.zeros(x.numel()), x.flatten().numpy()
        for (i, w), probability in zip(found, arrived.flatten(), strict=True):
            won = v[i] * np.maximum(w, 0)
            out[i] += won / (won.sum() + 1e-20) * probability
        return out.reshape(x.shape)

    return module(x), back


@excite.register
def _(module: _BatchNorm, x):
    return module(x), lambda arrived: arrived


def winning(norm):
    """Below the cut: what explains; above it: what is explained there."""
    lower = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), *norm, nn.ReLU())
    upper = nn.Sequential(
        nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2, 1),
        Sum([nn.Identity(), nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]), nn.AvgPool2d(2, 1), nn.Flatten(),
    )  # fmt: skip
    return ready(nn.Sequential(lower, upper, nn.Linear(16, 4)))


def slow_excitation(net, image, target, sign=1):
    """(C, h, w) winning probability behind the first part of `net`, for the last layer's weight times `sign`."""
    with torch.no_grad():
        lower, upper, head = copy.deepcopy(net).requires_grad_(False)
        head.weight *= sign
        features, back = excite(upper, lower(image[None]))
        return back(excite(head, features)[1](np.eye(4)[[target]]))[0]


@pytest.mark.parametrize("norm", [(), (nn.BatchNorm2d(6),)], ids=["plain", "batch norm"])
def test_mwp_and_cmwp_by_hand(norm):
    net, target = winning(norm), torch.tensor([2, 0])
    for_it, against_it = (
        np.stack([slow_excitation(net, one, cls, sign) for one, cls in zip(IMAGE, target.tolist(), strict=True)])
        for sign in (1, -1)
    )
    np.testing.assert_allclose(mapped(MWP("0"), net, target=target), for_it.sum(1), rtol=1e-8, atol=1e-14)
    contrast = np.maximum((for_it - against_it).sum(1), 0)  # the rules are linear in what arrives
    np.testing.assert_allclose(mapped(CMWP("0"), net, target=target), contrast, rtol=1e-7, atol=1e-12)


def test_winning_probabilities_sum_up_to_one():
    net = winning((nn.BatchNorm2d(6),))
    for layer in ("0", "1.1", "1.3", "1.4"):
        torch.testing.assert_close(mapped(MWP(layer), net).sum((1, 2)), torch.ones(2).double())


def test_the_contrast_is_at_the_input_of_the_classifier_unless_named():
    net = ready(ending(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)))
    expected = mapped(CMWP("1"), net)
    assert expected.sum() > 0
    for contrast in ("4", "5"):
        torch.testing.assert_close(mapped(CMWP("1", contrast=contrast), net), expected)
    assert relative(mapped(CMWP("1", contrast="3"), net), expected) < 1e-9  # so far the rules are linear


@pytest.mark.parametrize("name", [slow("resnet18"), slow("vgg11")])
def test_excitation_backprop_against_reference_values(name, oracle):
    reference = oracle(f"cmwp_{name}")
    meta = reference["meta"]
    net, image, target = rebuild_net(meta), images(meta), torch.tensor(reference["targets"])
    for key in (key for key in reference if key.startswith(("eb__", "cmwp__"))):
        kind, layer = key.split("__")
        explainer = MWP(layer) if kind == "eb" else CMWP(layer, contrast=meta["contrast"])
        assert relative(mapped(explainer, net, image, target), reference[key][:, 0]) < 1e-9, key


# FullGrad.


def by_hooks(net, image, target):
    """x * dz/dx and b * dz/dv for every layer with a bias, in order, from hooks and plain autograd."""
    layers = [
        m
        for m in net.modules()
        if isinstance(m, _BatchNorm) or (isinstance(m, nn.Linear | _ConvNd) and m.bias is not None)
    ]
    kept, image = {}, image.clone().requires_grad_()
    hooks = [layer.register_forward_hook(lambda m, _, z: kept.__setitem__(m, z)) for layer in layers]
    logits = net(image)
    for hook in hooks:
        hook.remove()
    outputs = [kept[layer] for layer in layers]
    gradients = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), [image, *outputs])
    values = [image.detach(), *(bias_of(layer, z) for layer, z in zip(layers, outputs, strict=True))]
    return [(v * g).detach() for v, g in zip(values, gradients, strict=True)]


def bias_of(layer, z):
    if isinstance(layer, nn.Linear):
        return layer.bias
    if isinstance(layer, _ConvNd):
        return layer.bias.view(-1, *[1] * (z.ndim - 2))
    bias = layer.bias - layer.weight * layer.running_mean / (layer.running_var + layer.eps).sqrt()
    return bias.view(-1, *[1] * (z.ndim - 2))


def slow_full_grad(terms, size):
    maps = []
    for one in zip(*(term for term in terms if term.ndim > 2), strict=True):
        planes = [F.interpolate(psi(term)[None], size, mode="bilinear", align_corners=True)[0].sum(0) for term in one]
        maps.append(sum(planes))
    return torch.stack(maps)


def psi(values):
    values = values.abs() - values.abs().min()
    return values / (values.max() + 1e-6)


FULL = {
    "relu": (features(norm=False), signed(2, 3, 8, 8)),
    "batch norm": (features(norm=True), signed(2, 3, 8, 8)),
    "residual": (
        ending(Sum([nn.Conv2d(3, 5, 1), nn.Conv2d(3, 5, 3, padding=1, bias=False)]), nn.ReLU(), nn.MaxPool2d(2)),
        IMAGE,
    ),
}


@pytest.mark.parametrize("net", FULL)
def test_full_grad_by_hooks(net):
    net, image = FULL[net]
    net, target = ready(copy.deepcopy(net)), torch.tensor([0, 2])
    expected = by_hooks(net, image, target)
    run = record(net, image, taps=("image",), ruled=True)
    for ours, theirs in zip(products(run, target, biased(run.ops)), expected, strict=True):
        torch.testing.assert_close(ours.detach(), theirs)
    torch.testing.assert_close(FullGrad()(run, target), slow_full_grad(expected, image.shape[2:]))


class Permuted(nn.Module):
    """(B, C, H, W) with its channels last, and back."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.movedim(1, -1)).movedim(-1, 1)


def test_full_grad_of_a_linear_layer_at_every_position_is_that_of_a_convolution():
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 4))
    convolved = ready(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 1), copy.deepcopy(head)))
    linear = nn.Linear(5, 7).double()
    linear.load_state_dict({k: v.flatten(1) if v.ndim > 1 else v for k, v in convolved[2].state_dict().items()})
    twin = nn.Sequential(*convolved[:2], Permuted(linear), convolved[3])
    image = signed(2, 3, 9, 8)
    ours, expected = (FullGrad()(record(net, image, taps=("image",), ruled=True), 1) for net in (twin, convolved))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("net", FULL)
def test_full_grad_is_complete(net):
    net, image = FULL[net]
    run = record(ready(copy.deepcopy(net)), image, taps=("image",), ruled=True)
    total = sum(term.flatten(1).sum(1) for term in products(run, 1, biased(run.ops)))
    torch.testing.assert_close(total, run.logits[:, 1])


@pytest.mark.parametrize("name", ["alexnet", slow("resnet18"), slow("vgg11_bn")])
def test_full_grad_against_reference_values(name, oracle):
    reference = oracle(f"fullgrad_{name}")
    net, image, target = rebuild_net(reference["meta"]), images(reference["meta"]), torch.tensor(reference["targets"])
    run = record(net, image, taps=("image",), ruled=True)
    assert relative(FullGrad()(run, target), reference["saliency"][:, 0]) < 1e-9
    total = sum(term.flatten(1).sum(1) for term in products(run, target, biased(run.ops)))
    np.testing.assert_allclose(total.detach(), reference["completeness_sum"], rtol=1e-9)
    np.testing.assert_allclose(total.detach(), reference["z_target"], rtol=1e-9)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((12,), (3,), (2,), (1,)),
        ((13,), (5,), (3,), (0,)),
        ((17, 19), (7, 4), (2, 3), (3, 1)),
        ((16, 16), (4, 4), (4, 4), (0, 0)),
        ((15, 14), (2, 3), (3, 2), (0, 4)),
        ((9, 8, 11), (3, 3, 3), (2, 1, 2), (1, 1, 1)),
    ],
)
def test_a_strided_convolution_is_transposed_by_phases(size, kernel, stride, padding):
    weight, image = signed(6, 3, *kernel), signed(2, 3, *size).requires_grad_()
    out = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1](image, weight, None, stride, padding)
    arrived = signed(*out.shape, seed=5)
    expected = torch.autograd.grad(out, image, arrived)[0]
    torch.testing.assert_close(by_phases(arrived, weight, size, stride, padding), expected)


def test_first_and_second_order_maps_agree_at_a_strided_stem():
    """They reach the image by different ways: phases where the map is not differentiated again."""
    net = ready(nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Flatten(), nn.Linear(160, 4)))
    run = record(net, signed(2, 3, 9, 8), taps=("image",), ruled=True)
    first, second = (WBP()(run, 1, differentiable=differentiable) for differentiable in (False, True))
    torch.testing.assert_close(first, second.detach(), rtol=1e-12, atol=1e-12)
