"""Reads a forward as it runs: every torch function that touches the image becomes an operation."""

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sightline.errors import SightlineError
from sightline.functions import COMPOSED, READERS, SIGNAL, Call, Fields, Seen, mapped, tensors_in, unknown
from sightline.ops import Op, Switch, node


class Recorder(TorchFunctionMode):
    """Inside this mode every torch function that touches `image` becomes an operation, wherever it is called.

    Modules are not asked: functional calls, reused modules and layers of one's own are seen alike. Functions that work
    in place run out of place, and their target is known by its new value from then on.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.switch = Switch()
        self.ops: list[Op] = []
        self._seen = {id(image): Seen(image, SIGNAL)}
        self._latest: dict[int, tuple[Tensor, Tensor]] = {}
        self._overwritten: dict[int, Tensor] = {}

    def depends(self, value: Tensor) -> bool:
        """Whether `value` is known to depend on the image."""
        return id(value) in self._seen and self._seen[id(value)].role is not None

    def latest(self, value: Any) -> Any:
        """`value`, or what functions that work in place have made of it."""
        while id(value) in self._latest:
            value = self._latest[id(value)][1]
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = Call(func, args, kwargs or {}, self._seen)
        if self._latest and any(id(tensor) in self._latest for tensor in call.tensors):
            now = {key: mapped(self.latest, value) for key, value in call.kwargs.items()}
            call = Call(func, mapped(self.latest, tuple(args)), now, self._seen)
        if not call.signals:
            result = call()
            return result if call.unseen else self._remember(result, None)
        if self._overwritten and any(id(tensor) in self._overwritten for tensor in call.tensors):
            raise SightlineError(f"{call.name} reads a tensor that was overwritten in place through a view of it.")
        if (plain := _out_of_place(call)) is None:
            return self._see(call)
        return self._redefine(call.tensors[0], self._see(Call(*plain, self._seen)))

    def _see(self, call: Call) -> Any:
        if call.name in COMPOSED:
            with self:
                composed = COMPOSED[call.name](call)
            if composed is not None:
                return composed
        fields = unknown(call) if call.unseen else READERS.get(call.name, unknown)(call)
        result = call()
        if fields is None:
            self._remember(call.args[0] if call.name == "__setitem__" else result, min(call.roles.values()))
            return result
        if isinstance(result, list | tuple):
            return tuple(self._put(call.name, z, fields) for z in result)
        return self._put(call.name, result, fields)

    def _put(self, name: str, z: Any, fields: Fields) -> Any:
        """The result `z`, with a node behind it."""
        if not isinstance(z, Tensor) or not z.is_floating_point():
            return z
        op = Op(name=name, z=z, **{key: value for key, value in fields.items() if key != "role"})
        self.ops.append(op)
        return self._remember(node(self.switch, op), fields.get("role", SIGNAL), op)

    def _remember(self, result: Any, role: int | None, maker: Op | None = None) -> Any:
        for tensor in tensors_in((result,)):
            if role is not None or tensor.requires_grad:
                self._seen.setdefault(id(tensor), Seen(tensor, role, maker))
        return result

    def _redefine(self, target: Tensor, result: Tensor) -> Tensor:
        if result is not target:
            self._latest[id(target)] = target, result
            if target._base is not None:
                self._overwritten[id(target._base)] = target._base
        return result


def _out_of_place(call: Call) -> tuple[Any, Sequence[Any], Mapping[str, Any]] | None:
    """Function and arguments that compute the same and leave the input alone; None if this call does."""
    name, func, args, kwargs = call.name, call.func, call.args, call.kwargs
    if name.endswith("_") and not name.endswith("__"):
        plain = getattr(torch.Tensor, name[:-1], None) or getattr(F, name[:-1], None)
        return (plain, args, kwargs) if callable(plain) else None
    place = _inplace_argument(func)
    if place is None or not (args[place] if place < len(args) else kwargs.get("inplace")):
        return None
    if place < len(args):
        return func, (*args[:place], False, *args[place + 1 :]), kwargs
    return func, args, {**kwargs, "inplace": False}


@cache
def _inplace_argument(func: Any) -> int | None:
    if getattr(func, "__module__", None) != F.__name__:
        return None
    try:
        return list(inspect.signature(func).parameters).index("inplace")
    except ValueError:
        return None
