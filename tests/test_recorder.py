"""What a ruled pass sees, and that it computes what the model computes."""

import copy
import gc
import operator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from nets import Deep, Residual, double
from sightline import record
from sightline.compat import repair_torchvision
from sightline.errors import SightlineError
from sightline.explainers import CMWP, LRP, MWP, WBP, GradCAM

IMAGE = 2 * torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64) - 1


class Middle(nn.Module):
    """A function of the features (B, 4, 6, 6) of a convolution, and of the parts that it needs, under a linear head."""

    def __init__(self, function, **parts):
        super().__init__()
        self.conv, self.head, self.function = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3), function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, image):
        out = self.function(self, self.conv(image))
        return self.head(out.mean(tuple(range(2, out.ndim))))


def middle(function, **parts):
    return double(Middle(function, **parts)).eval()


def both(net, image=IMAGE, taps=("image",)):
    """The same pass, with rules and without, from the same random state."""
    passes = []
    for ruled in (True, False):
        torch.manual_seed(3)
        passes.append(record(net, image, taps=taps, ruled=ruled))
    return passes


def assert_same(net, image=IMAGE, exact=True):
    """A ruled pass without rules is the model's own, to the last bit unless told otherwise; returns its operations."""
    ruled, plain = both(net, image)
    gradients = [run.grad(1, "image") for run in (ruled, plain)]
    assert gradients[1].isfinite().all()
    assert gradients[1].abs().sum() > 0
    for ours, theirs in ((ruled.logits, plain.logits), gradients):
        if exact:
            assert torch.equal(ours, theirs)
        else:
            assert (ours - theirs).norm() <= 1e4 * torch.finfo(ours.dtype).eps * theirs.norm()
    return ruled.ops


def kinds(ops):
    """Those between the first convolution and the head."""
    return [op.kind for op in ops[1:-2]]


WEIGHT = nn.Parameter(torch.randn(4, 4))
ONE = {
    "linear": [
        lambda m, x: F.conv2d(x, m.w[..., None, None]),
        lambda m, x: torch.conv2d(x, m.w[..., None, None], None, 1, 1),
        lambda m, x: F.conv1d(x.flatten(2), weight=m.w[..., None], padding="same"),
        lambda m, x: F.conv3d(x[..., None], m.w[..., None, None, None]),
        lambda m, x: F.linear(x.movedim(1, -1), m.w).movedim(-1, 1),
        lambda m, x: (x.movedim(1, -1) @ m.w).movedim(-1, 1),
        lambda m, x: m.w @ x.flatten(2),
        lambda m, x: torch.matmul(m.w, x.flatten(2)),
        lambda m, x: torch.bmm(m.w.expand(2, 4, 4), x.flatten(2)),
        lambda m, x: torch.mm(m.w, x[0].flatten(1)).view(1, 4, -1).expand(2, -1, -1),
        lambda m, x: torch.einsum("oc,bchw->bohw", m.w, x),
    ],
    "norm": [
        lambda m, x: F.batch_norm(x, torch.zeros(4).double(), torch.ones(4).double()),
        lambda m, x: F.batch_norm(x, None, None, training=True) + 0 * x.sum(),
        lambda m, x: F.layer_norm(x, (6,)) * m.mask,
        lambda m, x: F.rms_norm(x, (6, 6)),
        lambda m, x: F.group_norm(x, 2) * m.mask,
        lambda m, x: F.instance_norm(x) * m.mask,
        lambda m, x: F.normalize(x, dim=1),
    ],
    "activation": [
        F.relu, torch.relu, torch.Tensor.relu, F.leaky_relu, F.relu6, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish,
        F.softplus, F.hardswish, F.hardsigmoid, F.hardtanh, F.softsign, F.tanhshrink, F.hardshrink, F.softshrink,
        torch.sigmoid, torch.Tensor.sigmoid, F.sigmoid, torch.tanh, F.tanh, torch.abs, torch.square, torch.erf,
        lambda m, x: F.prelu(x, m.slope), lambda m, x: x.clamp(min=0),
        lambda m, x: torch.clamp(x, -1, 1), lambda m, x: x**2, lambda m, x: x.pow(3),
    ],
    "pool": [
        lambda m, x: F.avg_pool2d(x, 2), lambda m, x: F.adaptive_avg_pool2d(x, 2), lambda m, x: x.mean(3),
        lambda m, x: torch.sum(x, -1), lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda m, x: F.avg_pool1d(x.flatten(2), 3), lambda m, x: F.avg_pool3d(x[:, :, None], (1, 2, 2)),
        lambda m, x: x.cumsum(2),
        lambda m, x: F.fold(F.unfold(x, 2), (6, 6), 2),
        lambda m, x: F.grid_sample(x, m.grid, align_corners=False),
    ],
    "affine": [
        lambda m, x: x + 1, lambda m, x: 1 + x, lambda m, x: x - 1, lambda m, x: 1 - x, lambda m, x: torch.rsub(x, 1),
        lambda m, x: 2 * x, lambda m, x: x * m.slope.view(-1, 1, 1), lambda m, x: x / 2, lambda m, x: -x,
        lambda m, x: x + m.mask, lambda m, x: torch.add(x, 1), lambda m, x: x.sub(1), lambda m, x: torch.mul(x, 2),
        lambda m, x: torch.div(x, 2), lambda m, x: torch.true_divide(x, 2), lambda m, x: torch.neg(x),
        lambda m, x: F.dropout(x, 0.5), lambda m, x: F.dropout2d(x, 0.5), lambda m, x: x * (x > 0).double(),
    ],
    "sum": [
        lambda m, x: x + x, lambda m, x: torch.add(x, x), lambda m, x: x.add(x), lambda m, x: x + x.mT,
        lambda m, x: operator.iadd(x, x.mT.clone()),
    ],
    "unknown": [
        torch.exp, torch.sin, lambda m, x: F.softmin(x, 1), lambda m, x: x.softmax(1) * m.mask,
        lambda m, x: x.logsumexp(2),
    ],
}  # fmt: skip


def flattened(table):
    return [
        (kind, function, f"{kind} {number}")
        for kind, functions in table.items()
        for number, function in enumerate(functions)
    ]


@pytest.mark.parametrize(("kind", "function"), [pytest.param(k, f, id=name) for k, f, name in flattened(ONE)])
def test_each_function_is_the_operation_that_it_is(kind, function):
    call = function if getattr(function, "__name__", "") == "<lambda>" else lambda m, x: function(x)
    mask = torch.linspace(-1, 1, 36).double().view(6, 6)
    net = middle(call, w=nn.Parameter(WEIGHT.clone()), slope=nn.Parameter(torch.ones(4)))
    net.mask, net.grid = mask, 1.6 * torch.rand(2, 5, 5, 2).double() - 0.8
    assert kind in kinds(assert_same(net))


@pytest.mark.parametrize(
    "function",
    [F.logsigmoid, lambda x: F.threshold(x, 0.1, 0.0)],
    ids=["logsigmoid, whose name is log_sigmoid", "threshold, whose name is _threshold"],
)
def test_activations_of_another_name(function):
    assert kinds(assert_same(middle(lambda m, x: function(x)))) == ["activation"]


MOVED = [
    lambda x: x.view(2, 2, 2, 6, 6).flatten(1, 2), lambda x: x.reshape(2, 4, 36), lambda x: x.permute(0, 1, 3, 2),
    lambda x: x.unsqueeze(-1).squeeze(-1), lambda x: x.mT, lambda x: x[:, :, 1:, ::2], lambda x: x.roll(1, 2),
    lambda x: torch.cat([x, x], 2), lambda x: torch.stack([x, x], 2), lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    lambda x: x.split([1, 5], 2)[1], lambda x: torch.flip(x, (2,)), lambda x: x.contiguous().clone(),
    lambda x: x.double(), lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), lambda x: x.repeat(1, 1, 2, 1),
    lambda x: F.unfold(x, 2).view(2, 4, 4, -1),
    lambda x: F.max_pool2d(x, 2), lambda x: x.max(2).values,
    lambda x: F.adaptive_max_pool2d(x, 2), lambda x: x.amax((2, 3), keepdim=True), lambda x: torch.maximum(x, x.mT),
    lambda x: torch.where(x > 0, x, x.mT), lambda x: x.masked_fill(x < 0, 0.5), lambda x: x.sort(2).values,
    lambda x: x.topk(2, 3)[0], lambda x: x.gather(2, x.argsort(2)), lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2),
    lambda x: x.unbind(1)[2][:, None].expand(-1, 4, -1, -1), lambda x: x.expand_as(x).type_as(x), lambda x: x,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MOVED)))
def test_what_moves_or_selects_values_is_no_operation(number):
    assert kinds(assert_same(middle(lambda m, x: MOVED[number](x)))) == []


FORMS = {
    "x += y": lambda x, y: operator.iadd(x, y),
    "x -= y": lambda x, y: operator.isub(x, y),
    "x *= y": lambda x, y: operator.imul(x, y.sigmoid()),
    "x /= y": lambda x, y: operator.itruediv(x, y.square() + 1),
    "x **= 2": lambda x, y: operator.ipow(x, 2),
    "x - y": lambda x, y: x - y,
    "y - 2 x": lambda x, y: torch.rsub(x, y, alpha=2),
    "torch.add with alpha": lambda x, y: torch.add(x, y, alpha=3),
    "torch.sub with alpha": lambda x, y: torch.sub(x, y, alpha=3),
    "add_ with alpha": lambda x, y: x.add_(y, alpha=-0.5),
    "sub_": lambda x, y: x.sub_(y),
    "addcmul": lambda x, y: torch.addcmul(x, y, y.sigmoid(), value=0.5),
    "chain": lambda x, y: x.add_(1).mul_(2).add_(y).relu_(),
    "neg_": lambda x, y: x.neg_(),
    "clamp_": lambda x, y: x.clamp_(-0.2, 0.7),
    "masked_fill_": lambda x, y: x.masked_fill_(y > 0, 0.1),
    "F.relu": lambda x, y: F.relu(x, inplace=True),
    "F.relu by position": lambda x, y: F.relu(x, True),
    "F.relu_": lambda x, y: F.relu_(x),
    "F.leaky_relu": lambda x, y: F.leaky_relu(x, 0.3, inplace=True),
    "F.leaky_relu_": lambda x, y: F.leaky_relu_(x, 0.3),
    "F.hardtanh by position": lambda x, y: F.hardtanh(x, -0.3, 0.4, True),
    "F.hardtanh_": lambda x, y: F.hardtanh_(x, -0.3, 0.4),
    "F.silu": lambda x, y: F.silu(x, inplace=True),
    "F.dropout": lambda x, y: F.dropout(x, 0.5, inplace=True),
    "torch.sigmoid_": lambda x, y: torch.sigmoid_(x),
    "residual": lambda x, y: F.relu(x.add_(y), inplace=True),
    "sum of a list": lambda x, y: sum([x, y, x * 2]),
}


@pytest.mark.parametrize("again", ["result", "target"])
@pytest.mark.parametrize("form", FORMS)
def test_functional_and_method_forms_compute_what_they_do_without_a_recorder(form, again):
    """Also where the value is read from the target of a function that works in place, and not from its result."""

    def function(m, x):
        y = m.other(x.clone())  # autograd refuses to overwrite what a convolution needs
        out = FORMS[form](x, y)
        return (out if again == "result" else x) + 0.5 * y

    ops = assert_same(middle(function, other=nn.Conv2d(4, 4, 1)), exact="alpha" not in form)
    assert "unknown" not in kinds(ops)


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: torch.sub(x, other=y),
        lambda x, y: torch.add(input=x, other=y, alpha=2),
        lambda x, y: torch.div(input=x, other=2),
        lambda x, y: torch.matmul(input=x, other=WEIGHT.double().new_ones(6, 6)),
    ],
    ids=["sub", "add", "div", "matmul"],
)
def test_arguments_by_name(form):
    net = middle(lambda m, x: form(x, m.other(x)), other=nn.Conv2d(4, 4, 1))
    assert_same(net)
    LRP()(both(net)[0], 1)


INPLACE = {
    "behind a convolution": [nn.ReLU(inplace=True)],
    "behind a norm": [nn.BatchNorm2d(4), nn.ReLU(inplace=True)],
    "twice": [nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)],
    "others": [nn.Dropout(inplace=True), nn.SiLU(True), nn.Hardswish(True), nn.ELU(inplace=True)],
}


@pytest.mark.parametrize("layers", INPLACE)
def test_modules_that_work_in_place_are_recorded_as_if_they_did_not(layers):
    net = middle(lambda m, x: m.layers(x), layers=nn.Sequential(*copy.deepcopy(INPLACE[layers])))
    apart = copy.deepcopy(net)
    for module in apart.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    assert len(assert_same(net)) == len(assert_same(apart))
    for explainer in (WBP(), LRP("gamma"), MWP("conv"), GradCAM("conv")):
        one, other = (explainer(record(n, IMAGE, taps=explainer.taps, ruled=explainer.ruled), 1) for n in (net, apart))
        assert torch.equal(one, other)


def test_a_reused_module_is_one_operation_each_time():
    again = nn.ModuleDict({"act": nn.ReLU(inplace=True), "conv": nn.Conv2d(4, 4, 3, padding=1)})
    net = middle(lambda m, x: again["act"](again["conv"](again["act"](again["conv"](again["act"](x))))), again=again)
    assert kinds(assert_same(net)) == ["activation", "linear", "activation", "linear", "activation"]
    apart = copy.deepcopy(net)
    first, second = (copy.deepcopy(again["conv"]) for _ in range(2))
    apart.function = lambda m, x: second(first(x.relu()).relu()).relu()
    assert torch.equal(*(LRP("alpha_beta")(both(n)[0], 1) for n in (net, apart)))


def views_then_base(m, x):
    half = x[:, :2]
    half += 1
    return x


def base_then_view(m, x):
    flat = x.flatten(2)
    x.relu_()
    return flat


def one_view_then_another(m, x):
    first, second = x.flatten(2), x.flatten(2)
    first.relu_()
    return second


def part_of_itself(m, x):
    x[:, :2] += 1
    return x


def halves(m, x):
    first, second = x[:, :2], x[:, 2:]
    first.relu_()
    return torch.cat([first, second], 1)


def cells(m, x):
    x[:, :, 0] = 0
    x[:, 1] = x[:, 1] * 2
    return x


def into_a_new_tensor(m, x):
    out = torch.zeros_like(x)
    out[:, :3], out[:, 3:] = x[:, 1:], x[:, :1]
    return out


def test_writing_through_a_view_is_refused_when_the_whole_is_read_again():
    with pytest.raises(SightlineError, match="overwritten in place"):
        both(middle(views_then_base))


def test_writing_a_part_of_itself():
    assert_same(middle(part_of_itself))


@pytest.mark.parametrize("function", [base_then_view, one_view_then_another, halves])
def test_views_of_what_is_overwritten_are_right_or_refused(function):
    try:
        assert_same(middle(function))
    except SightlineError as error:
        assert "overwritten in place" in str(error)  # noqa: PT017 - either is right


def a_part_and_then_another(m, x):
    half = x[:, :2]
    half *= 2
    x[:, 2:] = 0
    return x


def test_a_part_that_was_overwritten_is_not_forgotten_when_another_is_written():
    try:
        assert_same(middle(a_part_and_then_another))
    except SightlineError as error:
        assert "overwritten in place" in str(error)  # noqa: PT017 - either is right


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.unsqueeze_(-1).squeeze_(-1),
        lambda x: x.transpose_(2, 3),
        lambda x: x + x.mean(1, keepdim=True).detach_(),
    ],
    ids=["unsqueeze_", "transpose_", "detach_"],
)
def test_views_in_place(function):
    assert_same(middle(lambda m, x: function(x) * 1))


@pytest.mark.parametrize("function", [cells, into_a_new_tensor])
def test_cells_may_be_written(function):
    net = middle(function)
    assert_same(net)
    ruled, plain = both(net)
    torch.testing.assert_close(WBP("surrogate")(ruled, 1), WBP("autograd")(plain, 1))


def test_a_rule_refuses_what_was_overwritten_behind_its_back():
    with pytest.raises(SightlineError, match="its input or result was overwritten in place"):
        LRP()(both(middle(cells))[0], 1)


class Block(nn.Module):
    """Returns the tensor that it has overwritten."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        x = self.conv(x)
        F.relu_(x)
        return x


def test_a_tap_at_a_module_that_returns_what_it_has_overwritten():
    ruled, plain = both(middle(lambda m, x: m.block(x), block=Block()), taps=("block",))
    torch.testing.assert_close(ruled.tap("block"), plain.tap("block"))
    torch.testing.assert_close(ruled.grad(1, "block"), plain.grad(1, "block"))


def test_a_tap_between_a_convolution_and_its_batch_norm_changes_no_map():
    net = middle(lambda m, x: m.layers(x), layers=nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    net.layers[0].running_var.fill_(2.0)
    plain, tapped = (LRP("gamma")(record(net, IMAGE, taps=("image", *taps), ruled=True), 1) for taps in ((), ("conv",)))
    torch.testing.assert_close(tapped, plain)


class Averaging(nn.Module):
    """Keeps a running mean of its features, as batch statistics, codebooks and teachers do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        with torch.no_grad():
            self.mean.mul_(0.9).add_(x.mean((0, 2, 3)), alpha=0.1)
        return x - self.mean.view(-1, 1, 1)


def test_buffers_are_updated_by_a_ruled_pass():
    net = middle(lambda m, x: m.keep(x), keep=Averaging())
    twin = copy.deepcopy(net)
    record(net, IMAGE, taps=("image",), ruled=True)
    record(twin, IMAGE, taps=("image",))
    assert torch.equal(net.keep.mean, twin.keep.mean)


@pytest.mark.parametrize("explainer", [WBP(), LRP("gamma"), MWP("act"), CMWP("act")], ids=lambda e: type(e).__name__)
@pytest.mark.filterwarnings("ignore:layer 'act' ran more than once")
def test_running_statistics_are_updated_exactly_once(explainer):
    net = double(Residual()).train()
    twin = copy.deepcopy(net)
    twin(IMAGE)
    run = record(net, IMAGE, taps=explainer.taps, ruled=True)
    explainer(run, 1, differentiable=True).sum().backward()
    assert net.stem[1].num_batches_tracked == 1
    for name, value in twin.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


# Products and gates.


GATES = {
    "sigmoid": lambda m, x, v: x * m.other(v).sigmoid(),
    "gate first": lambda m, x, v: torch.mul(torch.sigmoid(m.other(v)), x),
    "hard sigmoid, pooled": lambda m, x, v: x * F.hardsigmoid(v.mean((2, 3), keepdim=True)),
    "highway": lambda m, x, v: x.relu() * m.other(v).sigmoid() + (1 - m.other(v).sigmoid()) * x,
    "gated by an activation": lambda m, x, v: F.gelu(m.other(v)) * x,
    "SiLU by hand": lambda m, x, v: x * torch.sigmoid(v),
    "hard swish by hand": lambda m, x, v: x * F.relu6(v + 3) / 6,
    "softmax": lambda m, x, v: (m.other(v).softmax(1)[:, :, None] * torch.stack([x, x.mT, -x, x + 1], 1)).sum(1),
    "division": lambda m, x, v: x / (m.other(v).square() + 1),
    "through reshapes": lambda m, x, v: x * m.other(v).mean((2, 3)).sigmoid().view(2, 4, 1, 1).expand(-1, -1, 6, 6),
    "kernel": lambda m, x, v: F.conv2d(
        x.flatten(0, 1)[None], m.other(v).flatten(0, 1)[:, None, :3, :3], groups=8
    ).view(2, 4, 4, 4),
}  # fmt: skip


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_is_a_constant(gate):
    net = middle(lambda m, x: GATES[gate](m, x, x), other=nn.Conv2d(4, 4, 1))
    assert "product" in kinds(assert_same(net))
    ours = WBP(reduce=None)(both(net)[0], 1)
    constant = middle(lambda m, x: GATES[gate](m, x, x.detach()), other=nn.Conv2d(4, 4, 1))
    plain = both(constant)[1]
    expected = WBP("autograd", reduce=None)(plain, 1)
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(ours, WBP("autograd", reduce=None)(both(net)[1], 1))


NO_GATE = {
    "mul": lambda m, x: x * m.other(x),
    "matmul": lambda m, x: x @ m.other(x),
    "einsum": lambda m, x: torch.einsum("bchw,bcwv->bchv", x, m.other(x)),
    "exp": lambda m, x: x.exp(),
    "softmax": lambda m, x: x.softmax(1) + 0.1 * x,
}


@pytest.mark.parametrize("explainer", [WBP(), LRP(), MWP("conv")], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("function", NO_GATE)
def test_what_has_no_rule_is_an_error_that_names_the_function(function, explainer):
    net = middle(NO_GATE[function], other=nn.Conv2d(4, 4, 1))
    run = record(net, IMAGE, taps=explainer.taps, ruled=True)
    with pytest.raises(
        SightlineError, match=rf"no backward rule fits torch function '\w*{function}\w*' of shapes \(2, 4"
    ):
        explainer(run, 1)


TOLD = {
    "expand_as": (["product"], lambda m, x: x * m.other(x).mean((2, 3), keepdim=True).sigmoid().expand_as(x)),
    "ReLU6 and a gate": (["product"], lambda m, x: (v := nn.ReLU6()(x)) * m.other(v).sigmoid()),
    "ones_like": (["affine"], lambda m, x: x * torch.ones_like(x)),
    "comparison": (["affine"], lambda m, x: x * (x > 0).double()),
    "detached": (["affine"], lambda m, x: x * m.other(x).detach()),
    "noise": (["affine"], lambda m, x: x * x.new_empty(2, 1, 1, 1).bernoulli_(0.9).div_(0.9)),
    "weight": (["affine"], lambda m, x: x * m.scale.exp()),
    "weight of the same shape": (["affine"], lambda m, x: x * m.scale.expand_as(x)),
}


@pytest.mark.parametrize("case", TOLD)
def test_gates_are_told_from_signals_and_constants_from_both(case):
    expected, function = TOLD[case]
    net = middle(function, other=nn.Conv2d(4, 4, 1), scale=nn.Parameter(torch.ones(4, 1, 1)))
    ops = assert_same(net)
    assert kinds(ops)[-1:] == expected
    assert WBP("surrogate")(both(net)[0], 1).isfinite().all()


# Attention.


def heads(t):
    return t.unflatten(-1, (2, 4)).transpose(1, 2)


def attended(t, **options):
    return F.scaled_dot_product_attention(heads(t), heads(t), heads(t), **options).transpose(1, 2).flatten(2)


def tokens(function, **parts):
    """A net of 36 tokens of width 8."""
    net = Middle(lambda m, x: function(m, m.widen(x).flatten(2).mT).mT, widen=nn.Conv2d(4, 8, 1), **parts)
    net.head = nn.Linear(8, 3)
    return double(net).eval()


ALLOWED = torch.rand(36, 36, generator=torch.Generator().manual_seed(0)) > 0.4
ALLOWED |= torch.eye(36, dtype=torch.bool)
BIAS = torch.randn(36, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ATTENTION = {
    "plain": lambda m, t: attended(t),
    "one head": lambda m, t: F.scaled_dot_product_attention(t, t, t),
    "allowed": lambda m, t: attended(t, attn_mask=ALLOWED),
    "allowed for each image": lambda m, t: attended(t, attn_mask=torch.stack([ALLOWED, ALLOWED.T])[:, None]),
    "bias": lambda m, t: attended(t, attn_mask=BIAS),
    "bias by position": lambda m, t: F.scaled_dot_product_attention(t, t, t, BIAS, 0.0, False),
    "learned bias": lambda m, t: attended(t, attn_mask=m.bias),
    "causal": lambda m, t: attended(t, is_causal=True),
    "causal, fewer queries": lambda m, t: F.scaled_dot_product_attention(t[:, :5], t, t, is_causal=True),
    "scale": lambda m, t: attended(t, scale=0.1),
    "dropout": lambda m, t: attended(t, dropout_p=0.3),
    "learned queries": lambda m, t: F.scaled_dot_product_attention(m.queries.expand(2, -1, -1), t, t),
}


@pytest.mark.parametrize("kind", ATTENTION)
def test_attention_is_taken_apart(kind):
    net = tokens(ATTENTION[kind], bias=nn.Parameter(BIAS.float()), queries=nn.Parameter(torch.ones(3, 8)))
    ops = assert_same(net, exact=False)
    products = [op for op in ops if op.kind == "product"]
    assert products[-1].signal == 1  # of attention times values, the values
    assert WBP()(both(net)[0], 1).abs().sum() > 0


def test_attention_without_a_rule_is_right_and_says_so():
    def function(m, t):
        few = heads(t)[:, :1]
        return F.scaled_dot_product_attention(heads(t), few, few, enable_gqa=True).transpose(1, 2).flatten(2)

    net = tokens(function)
    assert_same(net)
    with pytest.raises(SightlineError, match="'scaled_dot_product_attention'"):
        WBP()(both(net)[0], 1)


def test_a_query_that_may_look_nowhere():
    allowed = ALLOWED.clone()
    allowed[3] = False
    assert_same(tokens(lambda m, t: attended(t, attn_mask=allowed)), exact=False)


def self_attention(m, t):
    return m.attention(t, t, t, need_weights=False)[0]


MULTI_HEAD = {
    "self": (self_attention, {}),
    "self, batch second": (lambda m, t: self_attention(m, t.transpose(0, 1)).transpose(0, 1), {"batch_first": False}),
    "cross": (lambda m, t: m.attention(t[:, :7], t, t.tanh(), need_weights=False)[0], {}),
    "no bias": (self_attention, {"bias": False}),
    "dropout in evaluation": (self_attention, {"dropout": 0.5}),
}
READ_WHOLE = {
    "widths of its own": (
        lambda m, t: m.attention(t, t[..., :6], t[..., :6], need_weights=False)[0],
        {"kdim": 6, "vdim": 6},
    ),
    "weights wanted": (lambda m, t: m.attention(t, t, t)[0], {}),
    "mask": (lambda m, t: m.attention(t, t, t, need_weights=False, attn_mask=~ALLOWED)[0], {}),
    "padding": (lambda m, t: m.attention(t, t, t, need_weights=False, key_padding_mask=~ALLOWED[:2])[0], {}),
    "biased keys": (self_attention, {"add_bias_kv": True}),
    "zero attention": (self_attention, {"add_zero_attn": True}),
}


def multi_head(kind):
    function, options = kind
    return tokens(function, attention=nn.MultiheadAttention(8, 2, **{"batch_first": True, **options}))


@pytest.mark.parametrize("kind", MULTI_HEAD)
def test_multi_head_attention(kind):
    net = multi_head(MULTI_HEAD[kind])
    ops = assert_same(net, exact=False)
    assert [op.kind for op in ops].count("linear") == 7
    assert WBP()(both(net)[0], 1).abs().sum() > 0


@pytest.mark.parametrize("kind", READ_WHOLE)
def test_multi_head_attention_that_is_not_taken_apart_is_right_and_has_no_rule(kind):
    net = multi_head(READ_WHOLE[kind])
    assert_same(net)
    with pytest.raises(SightlineError, match="'multi_head_attention_forward'"):
        WBP()(both(net)[0], 1)


def test_multi_head_attention_without_a_batch():
    net = multi_head((lambda m, t: torch.stack([self_attention(m, one) for one in t]), {}))
    assert_same(net, exact=False)


def test_multi_head_attention_drops_the_same():
    net = multi_head((self_attention, {"dropout": 0.5}))
    assert_same(net.train(), exact=False)


def test_a_transformer_layer():
    assert_same(
        tokens(lambda m, t: m.layer(t), layer=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)), exact=False
    )


# Weights that are made of others.


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)

    def plain(self):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return weight / weight.std((1, 2, 3), keepdim=True)


MADE = {
    "standardised": lambda: Standardised(4, 4, 3, padding=1),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3, padding=1)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Conv2d(4, 4, 3, padding=1)),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("layer", MADE)
def test_a_weight_that_is_made_of_others_is_a_weight(layer, frozen):
    net = Middle(lambda m, x: m.made(x).relu(), made=MADE[layer]()).double().eval().requires_grad_(not frozen)
    assert kinds(assert_same(net)) == ["linear", "activation"]
    apart = Middle(lambda m, x: m.made(x).relu(), made=nn.Conv2d(4, 4, 3, padding=1)).double()
    apart.conv, apart.head = net.conv, net.head
    made = net.made.plain() if layer == "standardised" else net.made.weight
    apart.made.load_state_dict({"weight": made.detach(), "bias": net.made.bias.detach()})
    for explainer in (WBP(), LRP("alpha_beta")):
        torch.testing.assert_close(*(explainer(both(n)[0], 1) for n in (net, apart)))


# Code that no torch function shows.


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(2 * x.detach().numpy())

    @staticmethod
    def backward(ctx, arrived):
        return 2 * arrived


class Swish(torch.autograd.Function):
    """Saves memory by computing its sigmoid twice."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, arrived):
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return arrived * gate * (1 + x * (1 - gate))


def scripted():
    return torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()))


def traced():
    return torch.jit.trace(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()), torch.rand(1, 4, 6, 6))


UNSEEN = {
    "scripted": (lambda m, x: m.part(x), scripted),
    "traced": (lambda m, x: m.part(x), traced),
    "custom function": (lambda m, x: Doubled.apply(x), None),
}


@pytest.mark.parametrize("kind", UNSEEN)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_seen_is_an_error(kind):
    function, make = UNSEEN[kind]
    net = middle(function, **({"part": make()} if make else {}))
    with pytest.raises(SightlineError, match="a scripted module or a custom autograd function"):
        both(net)
    beside = middle(lambda m, x: x + function(m, x), **({"part": make()} if make else {}))
    with pytest.raises(SightlineError, match="no backward rule"):
        LRP()(both(beside)[0], 1)


@pytest.mark.parametrize("explainer", [WBP(), LRP()], ids=lambda e: type(e).__name__)
def test_a_custom_function_of_torch_functions_cannot_be_seen_either(explainer):
    with pytest.raises(SightlineError):
        explainer(both(middle(lambda m, x: Swish.apply(x)))[0], 1)


def test_a_compiled_model_runs_eagerly_under_rules():
    net = double(Deep()).eval()
    compiled = torch.compile(net, backend="eager")
    try:
        torch.testing.assert_close(compiled(IMAGE), net(IMAGE))
    except Exception as error:  # whatever a machine without a compiler says
        pytest.skip(f"torch.compile does not work here: {error}")
    for explainer in (WBP("surrogate"), LRP("gamma")):
        ours, theirs = (explainer(record(n, IMAGE, taps=("image",), ruled=True), 1) for n in (compiled, net))
        assert torch.equal(ours, theirs)


BLOCKS = {
    "plain": lambda m, v: m.other(v).relu(),
    "in place": lambda m, v: F.relu(m.other(v), inplace=True),
    "residual": lambda m, v: m.other(v).relu() + v,
    "difference": lambda m, v: m.other(v).relu() - v,
}


@pytest.mark.parametrize("block", BLOCKS)
def test_checkpointed_blocks(block):
    layer = nn.Conv2d(4, 4, 3, padding=1)
    net = middle(lambda m, x: checkpoint(BLOCKS[block], m, x, use_reentrant=False), other=layer)
    apart = copy.deepcopy(net)
    apart.function = BLOCKS[block]
    assert kinds(assert_same(net)) == kinds(assert_same(apart))
    assert torch.equal(*(LRP("gamma")(both(n)[0], 1) for n in (net, apart)))


def test_checkpointed_attention_is_refused():
    """Run again outside the recorder, it would save other tensors than it did: a wrong gradient, silently."""
    with pytest.raises(SightlineError, match="checkpoint"):
        both(tokens(lambda m, t: checkpoint(attended, t, use_reentrant=False)))


UNUSUAL = {
    "median": lambda m, x: x - x.median(2, keepdim=True).values,
    "grid made of the image": lambda m, x: F.grid_sample(x, m.grid + x.mean().tanh(), align_corners=False),
    "max pool with places": lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0],
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_calls_of_an_unusual_form(case):
    net = middle(UNUSUAL[case], grid=nn.Parameter(torch.rand(2, 5, 5, 2)))
    assert "unknown" not in kinds(assert_same(net))


@pytest.mark.parametrize(
    "explainer",
    [WBP("surrogate"), LRP(), LRP("gamma"), MWP("act"), CMWP("act")],
    ids=lambda e: f"{type(e).__name__} {getattr(e, 'composite', '')}",
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:layer 'act' ran more than once")
def test_a_pass_recorded_under_autocast(explainer):
    net, image = double(Residual()).float().eval(), IMAGE.float()
    with torch.autocast("cpu", torch.bfloat16):
        run = record(net, image, taps=explainer.taps, ruled=True)
    half = explainer(run, 1)
    full = explainer(record(net, image, taps=explainer.taps, ruled=True), 1)
    assert half.dtype == torch.float32
    assert (half - full).norm() < 0.05 * full.norm()


# Architectures.


def architecture(name, **options):
    """A small model from a hub, with a head that is not zero; skips where the hub is missing."""
    repair_torchvision()
    hub, name = name.split(":")
    torch.manual_seed(0)
    if hub == "timm":
        net = pytest.importorskip("timm").create_model(name, num_classes=4, **options)
    else:
        net = pytest.importorskip("torchvision").models.get_model(name, weights=None, num_classes=4, **options)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net.eval()


def slow(*case):
    """An architecture that takes a second to build."""
    return pytest.param(*case, marks=pytest.mark.slow)


OWN = [
    ("torchvision:resnet18", 32, {}), ("torchvision:densenet121", 32, {}), ("torchvision:efficientnet_b0", 32, {}),
    slow("torchvision:swin_t", 32, {}), slow("torchvision:convnext_tiny", 32, {}), ("timm:efficientvit_b0", 64, {}),
    slow("torchvision:vit_b_16", 32, {"image_size": 32}), ("timm:eva02_tiny_patch14_224", 28, {"img_size": 28}),
    slow("timm:xcit_nano_12_p16_224", 32, {}), ("timm:vit_tiny_patch16_224", 32, {"img_size": 32}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "side", "options"), OWN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_ruled_pass_is_the_models_own(name, side, options):
    taken_apart = any(f":{kind}" in name for kind in ("vit", "eva", "xcit"))  # which rounds otherwise
    assert_same(architecture(name, **options), torch.rand(1, 3, side, side), exact=not taken_apart)


WORKING = [
    ("torchvision:googlenet", 32), ("torchvision:mobilenet_v3_small", 32), ("torchvision:shufflenet_v2_x0_5", 32),
    ("torchvision:squeezenet1_1", 64), ("timm:convnextv2_atto", 32), ("timm:mobilevit_xxs", 32),
]  # fmt: skip
SLOWER = [
    ("timm:nf_resnet26", 32), ("timm:repvgg_a0", 32), ("timm:pvt_v2_b0", 32), ("timm:mobilenetv4_conv_small", 32),
    ("torchvision:alexnet", 64), ("torchvision:mobilenet_v2", 32), ("torchvision:mnasnet0_5", 32),
    ("torchvision:regnet_y_400mf", 32), ("torchvision:inception_v3", 80), ("torchvision:resnext50_32x4d", 32),
    ("torchvision:swin_v2_t", 32), ("torchvision:maxvit_t", 224), ("timm:skresnet18", 32),
    ("timm:edgenext_xx_small", 64), ("timm:poolformer_s12", 64), ("timm:resnetv2_50x1_bit", 32),
    ("timm:ghostnet_100", 32), ("timm:dpn68", 32), ("timm:hrnet_w18_small", 32), ("timm:levit_128s", 224),
    ("timm:davit_tiny", 64), ("timm:beit_base_patch16_224", 224), ("timm:coatnet_nano_rw_224", 224),
    ("timm:volo_d1_224", 224), ("timm:mixer_s32_224", 224), ("timm:gmlp_s16_224", 224), ("timm:halonet26t", 256),
    ("timm:resnest14d", 32), ("timm:fastvit_t8", 64), ("timm:crossvit_tiny_240", 240),
]  # fmt: skip


@pytest.mark.parametrize(("name", "side"), [*WORKING, *(slow(*case) for case in SLOWER)])
def test_wbp_of_architectures(name, side):
    net = architecture(name, **({"init_weights": False} if name.endswith(("inception_v3", "googlenet")) else {}))
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        logits = net(image)
    run = record(net, image, taps=("image",), ruled=True)
    maps = WBP(reduce=None)(run)
    torch.testing.assert_close(run.logits.detach(), logits, rtol=1e-4, atol=1e-5)
    assert maps.shape == image.shape
    assert maps.isfinite().all()
    assert maps.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "options", "function"),
    [
        slow("timm:focalnet_tiny_srf", {}, "mul"),
        ("timm:cait_xxs24_224", {"depth": 2, "img_size": 64}, "matmul"),
    ],
)
def test_architectures_that_multiply_two_signals_say_so(name, options, function):
    net, image = architecture(name, **options), torch.rand(1, 3, 64, 64)
    assert_same(net, image, exact="focalnet" in name)
    run = record(net, image, taps=("image",), ruled=True)
    for explainer in (LRP(), WBP()):
        with pytest.raises(SightlineError, match=rf"no backward rule fits torch function '\w*{function}\w*'"):
            explainer(run, 1)


def test_wbp_of_an_architecture_that_expands_its_gates():
    run = record(architecture("timm:eca_resnet33ts"), torch.rand(1, 3, 32, 32), taps=("image",), ruled=True)
    assert WBP()(run, 1).abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("explainer", [WBP("surrogate"), LRP("gamma"), CMWP("act")], ids=lambda e: type(e).__name__)
@pytest.mark.filterwarnings("ignore:layer 'act' ran more than once")
def test_a_thousand_ruled_calls_leave_memory_flat(explainer):
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("this system does not tell how much memory a process uses")
    net, image = double(Residual()).eval(), torch.rand(4, 3, 16, 16, dtype=torch.float64)

    def used(calls):
        for _ in range(calls):
            explainer(record(net, image, taps=explainer.taps, ruled=True), 1, differentiable=True).sum().backward()
        return int(status.read_text().split()[1]) * 4096

    gc.disable()
    try:
        before = used(100)
        assert used(1000) - before < 8e6  # eight kilobytes a call: less than any one activation
    finally:
        gc.enable()
