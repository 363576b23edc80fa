"""Data parallel training of parameters that train in turns.

DistributedDataParallel fixes at its construction which gradients it averages: a parameter that is
frozen then would later be trained by every process on its own data, silently. So the parameters of
all units are kept out of DDP, and their gradients are averaged here, each when it is ready. Only
those that train cost communication, and DDP keeps buffers for the others only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from frog.errors import UsageError

IGNORED = "_ddp_params_and_buffers_to_ignore"
"""What DDP reads of a module that it wraps."""


class Ignored(list[str]):
    """Names that DDP leaves alone; a copy of the model has none: it has no sampler either."""

    def __reduce__(self) -> Any:
        return list, ()


class Reducing:
    """Averages the gradients of ``parameters`` over the processes of DDP, where there are any.

    ``mark``, a digest in hexadecimal, must be the same in all processes. Call :meth:`watch`
    before every training forward pass; without DDP nothing else happens.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, nn.Parameter], mark: str) -> None:
        self._model = model
        self._mark = mark
        self._group: Any = None
        self._met = False
        self._sync = False
        mine = {id(x) for x in parameters.values()}
        names = model.named_parameters(remove_duplicate=False)
        self._names = {name for name, x in names if id(x) in mine}
        self._before = getattr(model, IGNORED, None)
        setattr(model, IGNORED, Ignored({*(self._before or ()), *self._names}))
        self._handles: list[Any] = []

    def follow(self, parameters: Iterable[nn.Parameter]) -> None:
        """These train from now on, and no others."""
        for handle in self._handles:
            handle.remove()
        self._handles = [x.register_post_accumulate_grad_hook(self._average) for x in parameters]

    def watch(self) -> None:
        """See whether DDP is running this forward pass, and whether it averages after it.

        Raises :class:`~frog.errors.UsageError` where DDP was made first, or where the processes
        would not draw the same.
        """
        parallel = DistributedDataParallel._active_ddp_module
        if parallel is None or parallel.module is not self._model:
            self._sync = False
            return
        if not self._met:
            if not self._names <= set(parallel.parameters_to_ignore):
                raise UsageError(
                    "the LayerSampler must be made before DistributedDataParallel wraps the "
                    "model: DDP would not average the layers that are drawn later"
                )
            self._group, self._met = parallel.process_group, True
            self._must_agree()
        self._sync = bool(parallel.require_backward_grad_sync)

    def check(self) -> None:
        """UsageError where several processes train the model, but DDP was not seen to run it."""
        if self._met or not (dist.is_available() and dist.is_initialized()):
            return
        if dist.get_world_size() > 1:
            raise UsageError(
                f"{dist.get_world_size()} processes train, but DistributedDataParallel was not "
                "seen to run the model that the LayerSampler was given: wrap that very model in "
                "DDP, without torch.compile"
            )

    def remove(self) -> None:
        """Leave the model to DDP alone."""
        self.follow(())
        if self._before is None:
            delattr(self._model, IGNORED)
        else:
            setattr(self._model, IGNORED, self._before)

    @torch.no_grad()
    def _average(self, parameter: torch.Tensor) -> None:
        # What earlier backward passes left in it is averaged already or not at all, as in DDP.
        if self._sync and parameter.grad is not None:
            dist.all_reduce(parameter.grad, group=self._group)
            parameter.grad.div_(dist.get_world_size(self._group))

    def _must_agree(self) -> None:
        device = next(iter(self._model.parameters())).device
        number = int(self._mark[:15], 16)
        low = torch.tensor(number, dtype=torch.int64, device=device)
        high = low.clone()
        dist.all_reduce(low, dist.ReduceOp.MIN, group=self._group)
        dist.all_reduce(high, dist.ReduceOp.MAX, group=self._group)
        if low != high:
            raise UsageError(
                "the processes would draw different layers: give all of them the same report and "
                "the same settings of the LayerSampler (save the report once and load it in each)"
            )
