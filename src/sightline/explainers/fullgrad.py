"""FullGrad: the input's and every bias's part of the logit, laid over each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sightline.maps import resize
from sightline.ops import Op
from sightline.passes import Pass, Target, rank


@dataclass(frozen=True)
class FullGrad:
    """FullGrad (Srinivas and Fleuret, NeurIPS 2019, eq. 8), as its authors' code has it.

    ``sum_c psi(x * dz/dx) + sum_l sum_c up(psi(b_l * dz/dv_l))`` over the results v_l of all convolutions with a bias
    and all BatchNorms, whose bias is ``beta - gamma mean / deviation``; a linear layer at every position of a (B,
    *spatial, C) activation is a convolution of one position. psi takes absolute values, subtracts the
    smallest and divides by the largest + 1e-6, for each image and each tensor as a whole; up resizes to the image,
    corners aligned. z is the target's logit itself.
    """

    taps: ClassVar[tuple[str, ...]] = ("image",)
    ruled: ClassVar[bool] = True
    once: ClassVar[bool] = True

    def __call__(self, run: Pass, target: Target = None, *, differentiable: bool = False) -> Tensor:
        """(B, *spatial) map at the image's resolution, non-negative."""
        run.need_ops()
        places = [op for op in biased(run.ops) if op.z.ndim == rank(run.model) + 2]
        with torch.set_grad_enabled(differentiable):
            terms = products(run, target, places, differentiable=differentiable)
            image = _scaled(terms[0].flatten(0, run.channel - 1)).sum(1)
            of_biases = (
                _scaled(term).sum(-1 if op.name == "linear" else 1) for op, term in zip(places, terms[1:], strict=True)
            )
            # Of a sum over channels instead of each channel: resizing is linear.
            return run.per_image(image + sum(resize(each, run.size, align_corners=True) for each in of_biases))


def biased(ops: Sequence[Op]) -> list[Op]:
    """The operations that add a bias: linear ones and BatchNorms."""
    return [op for op in ops if (op.kind == "linear" and op.bias is not None) or op.name == "batch_norm"]


def products(run: Pass, target: Target, places: Sequence[Op], *, differentiable: bool = False) -> list[Tensor]:
    """``x * dz/dx`` of the image, then ``b * dz/dv`` of each of `places`.

    Over all biases they sum up to the logit in networks of ReLU: the method's completeness.
    """
    gradients = run.pull(
        run.logits, (run.image, *(op.z for op in places)), run.one_hot(target), differentiable=differentiable
    )
    biases = [run.image.detach(), *(_bias(op) for op in places)]
    return [bias * gradient for bias, gradient in zip(biases, gradients, strict=True)]


def _bias(op: Op) -> Tensor:
    """The bias of `op`, in a shape that broadcasts to its result's."""
    if op.kind == "norm":
        return op.scaling()[0]
    assert op.bias is not None
    return op.bias.view(-1, *[1] * (op.z.ndim - 2)) if op.name.startswith("conv") else op.bias


def _scaled(values: Tensor, eps: float = 1e-6) -> Tensor:
    """psi: absolute values from 0 to nearly 1, for each image."""
    size = values.abs().flatten(1)
    size = size - size.amin(1, keepdim=True)
    return (size / (size.amax(1, keepdim=True) + eps)).view_as(values)
