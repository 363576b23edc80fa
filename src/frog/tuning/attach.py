"""The tuner: attaches a selection to a live model, and leaves it as it was or as it became."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from frog.errors import UsageError
from frog.tuning import owner
from frog.tuning.compact import Compact
from frog.tuning.matrix import TunedMatrix
from frog.tuning.places import place
from frog.types import Noise, Plan, Selection

ROOT = "_frog_tuner"
"""Where the model keeps its tuner: who drops the name ``tuner`` still trains."""


class Part(Protocol):
    """Something with a state that is saved and resumed with the optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        ...


class Tuner:
    """Trains the selected weights of ``model`` and nothing else."""

    def __init__(
        self,
        model: nn.Module,
        selection: Selection,
        *,
        plan: Plan | None = None,
        noise: Noise | None = None,
        guards: Sequence[Any] = (),
        also: Sequence[str] = (),
    ) -> None:
        if ROOT in model.__dict__:
            raise UsageError("this model has a tuner already: keep() or revert() that one first")
        self.model = model
        self.selection = selection
        self.plan = plan or selection.plan
        self.step = 0
        self.micro_step = 0
        self.seed = selection.seed
        self.parts: dict[str, Part] = {}
        self.guards = tuple(guards)
        self.noise = noise
        self._after: list[Callable[[], None]] = []
        self.matrices: tuple[TunedMatrix, ...] = place(model, selection, self.plan)
        self.compacts: tuple[Compact, ...] = tuple(
            dict.fromkeys(matrix.compact for matrix in self.matrices)
        )
        self.dense = self._dense(also)
        self._attach()

    # ------------------------------------------------------------------ while training

    @property
    def trainable(self) -> int:
        """Number of weights that train."""
        return sum(len(x.change) for x in self.compacts) + sum(
            x.numel() for x in self.dense.values()
        )

    def add(self, name: str, part: Part) -> None:
        """Save and resume ``part`` with the optimizer."""
        self.parts[name] = part

    def on_step(self, action: Callable[[], None]) -> None:
        """Call ``action`` after every optimizer step, when the weights are written."""
        self._after.append(action)

    def write(self) -> None:
        """Put every change into its dense weight."""
        for compact in self.compacts:
            compact.write()

    def optimizer(
        self,
        cls: type[torch.optim.Optimizer] = torch.optim.AdamW,
        *,
        lr: float,
        also_lr: float | None = None,
        **settings: Any,
    ) -> torch.optim.Optimizer:
        """An optimizer of ``cls`` over what trains, with the rate of each matrix."""
        ratios: dict[float, list[nn.Parameter]] = {}
        for compact in self.compacts:
            ratio = next(x.lr_ratio for x in self.matrices if x.compact is compact)
            ratios.setdefault(ratio, []).append(compact.change)
        groups: list[dict[str, Any]] = [
            {"params": members, "lr": lr * ratio} for ratio, members in ratios.items()
        ]
        if self.dense:
            groups.append({"params": list(self.dense.values()), "lr": also_lr or lr})
        return cls(groups, lr=lr, **settings)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of everything that trains: k numbers, and the dense parameters of ``also``."""
        held = {x.name: x.change.detach().clone() for x in self.compacts}
        return held | {name: x.detach().clone() for name, x in self.dense.items()}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Put a :meth:`snapshot` back."""
        for compact in self.compacts:
            compact.set(snapshot[compact.name])
        with torch.no_grad():
            for name, parameter in self.dense.items():
                parameter.copy_(snapshot[name])

    # ------------------------------------------------------------------------- leaving

    def keep(self) -> None:
        """Leave the model with its tuned weights."""
        self.write()
        self._detach()

    def revert(self) -> None:
        """Leave the model as it was, bit for bit."""
        for compact in self.compacts:
            compact.revert()
        with torch.no_grad():
            for name, parameter in self.dense.items():
                parameter.copy_(self._start[name])
        self._detach()

    def __enter__(self) -> Tuner:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if ROOT in self.model.__dict__:
            self.keep() if kind is None else self.revert()

    # ------------------------------------------------------------------------- private

    def _dense(self, also: Sequence[str]) -> dict[str, nn.Parameter]:
        tuned = {id(compact.weight) for compact in self.compacts}
        named = dict(self.model.named_parameters())
        chosen: dict[str, nn.Parameter] = {}
        for pattern in also:
            hits = {k: v for k, v in named.items() if re.search(pattern, k)}
            if not hits:
                raise UsageError(f"also={pattern!r} matches no parameter of the model")
            chosen |= {k: v for k, v in hits.items() if id(v) not in tuned}
        return chosen

    def _attach(self) -> None:
        self._start = {name: x.detach().clone() for name, x in self.dense.items()}
        self._required = {id(x): x.requires_grad for x in self.model.parameters()}
        dense = {id(x) for x in self.dense.values()}
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) in dense)
        by_weight = {id(compact.weight): compact for compact in self.compacts}
        self._owners = []
        for module in list(self.model.modules()):
            mine = {
                attribute: by_weight[id(parameter)]
                for attribute, parameter in module._parameters.items()
                if parameter is not None and id(parameter) in by_weight
            }
            if mine:
                owner.adopt(module, mine)
                self._owners.append(module)
        self.model.__dict__[ROOT] = self
        self._handles = [_follow_optimizers(self)]

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        for module in self._owners:
            owner.release(module)
        for parameter in self.model.parameters():
            parameter.requires_grad_(self._required[id(parameter)])
        del self.model.__dict__[ROOT]

    def _stepped(self, optimizer: torch.optim.Optimizer) -> None:
        mine = {id(compact.change) for compact in self.compacts}
        if not any(id(x) in mine for group in optimizer.param_groups for x in group["params"]):
            return
        self.write()
        self.step += 1
        self.micro_step = 0
        for action in self._after:
            action()


def _follow_optimizers(tuner: Tuner) -> Any:
    """Tell ``tuner`` of every step of any optimizer: fused ones leave no other trace."""
    known = weakref.ref(tuner)

    def stepped(optimizer: Any, args: Any, kwargs: Any) -> None:
        alive = known()
        if alive is not None:
            alive._stepped(optimizer)

    return register_optimizer_step_post_hook(stepped)
