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
from sightline.functions import COMPOSED, COPIES, READERS, SIGNAL, Call, Fields, Seen, mapped, tensors_in, unknown
from sightline.ops import Op, Switch, node


class Recorder(TorchFunctionMode):
    """Inside this mode every torch function that touches `image` becomes an operation, wherever it is called.

    Modules are not asked: functional calls, reused modules and layers of one's own are seen alike. Functions that work
    in place run out of place, and their target is known by its new value from then on; whoever reads the target's
    memory by another name is refused.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.switch = Switch()
        self.ops: list[Op] = []
        self._seen: dict[int, Seen] = {}
        self.follow(image)
        self._latest: dict[int, tuple[Tensor, Tensor]] = {}
        # By memory, the values that were written there in place, but for a tensor of another name.
        self._unwritten: dict[int, list[Tensor]] = {}

    def follow(self, start: Tensor) -> None:
        """From here on, take `start` for what depends on the image."""
        self._seen[id(start)] = Seen(start, SIGNAL)

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
        if self._latest:
            call = self._updated(call)
        if not call.signals:
            result = call()
            return result if call.unseen else self._remember(result, None)
        if (plain := _out_of_place(call)) is None:
            return self._see(call)
        return self._redefine(call.tensors[0], self._see(Call(*plain, self._seen)))

    def _updated(self, call: Call) -> Call:
        """The call on the values that its arguments have by now."""
        if any(id(tensor) in self._latest for tensor in call.tensors):
            now = {key: mapped(self.latest, value) for key, value in call.kwargs.items()}
            call = Call(call.func, mapped(self.latest, tuple(call.args)), now, self._seen)
        if call.name == "__setitem__":  # writes what it is given to where it belongs
            self._write(_memory(call.tensors[0]), call.tensors[-1])
        elif any(_memory(tensor) in self._unwritten for tensor in call.tensors):
            raise SightlineError(
                f"{call.name} reads a tensor whose memory was overwritten in place by another name. Write the result "
                "to a new tensor in the model's forward."
            )
        return call

    def _see(self, call: Call) -> Any:
        if call.name in COMPOSED:
            if "attention" in call.name:
                _refuse_checkpoints()
            with self:
                composed = COMPOSED[call.name](call)
            if composed is not None:
                return composed
        fields = unknown(call) if call.unseen else READERS.get(call.name, unknown)(call)
        result = call()
        if fields is None:
            target = call.args[0] if call.name == "__setitem__" else result
            self._remember(target, call.passed_on(), call.source if call.name in COPIES else None)
            return result
        if isinstance(result, list | tuple):
            values = [self._put(call.name, z, fields) for z in result]
            return type(result)(*values) if hasattr(result, "_fields") else type(result)(values)
        return self._put(call.name, result, fields)

    def _put(self, name: str, z: Any, fields: Fields) -> Any:
        """The result `z`, with a node behind it if it has a gradient."""
        if not isinstance(z, Tensor) or not z.requires_grad:
            return z
        op = Op(name=name, z=z, **{key: value for key, value in fields.items() if key != "role"})
        self.ops.append(op)
        return self._remember(node(self.switch, op), fields.get("role", SIGNAL), op)

    def _remember(self, result: Any, role: int | None, maker: Op | None = None) -> Any:
        for tensor in tensors_in((result,)):
            # What has no gradient is a constant, whatever it was computed from.
            if tensor.requires_grad and (id(tensor) not in self._seen or role is not None):
                known = self._seen.get(id(tensor))
                self._seen[id(tensor)] = known or Seen(tensor, role, maker)
        return result

    def _redefine(self, target: Tensor, result: Tensor) -> Tensor:
        if result is not target:
            self._latest[id(target)] = target, result
            if (memory := _memory(target)) != _memory(result):  # else a view, as unsqueeze_ makes one
                self._unwritten.setdefault(memory, []).append(result)
        return result

    def _write(self, memory: int, value: Tensor) -> None:
        left = [other for other in self._unwritten.pop(memory, []) if other is not value]
        if left:
            self._unwritten[memory] = left


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _refuse_checkpoints() -> None:
    # Run again in the backward, outside this mode, a block would save other tensors than it did here.
    hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if hooks and hooks[0].__module__ == "torch.utils.checkpoint":
        raise SightlineError(
            "the model checkpoints a block with attention, which rules cannot follow. Turn checkpointing off."
        )


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
