"""The tuner: attaches a selection to a live model, and leaves it as it was or as it became."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from frog.errors import UsageError
from frog.tuning import owner
from frog.tuning.changes import changes
from frog.tuning.compact import Compact
from frog.tuning.matrix import TunedMatrix
from frog.tuning.places import call_of, place
from frog.tuning.state import carry, check_digest
from frog.tuning.tap import pieces_of
from frog.types import Plan, Selection, SparseDelta

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
    """Trains the selected weights of ``model`` and nothing else.

    The dense weights stay where they are, frozen; for every tuned parameter a float32 vector of
    the changes trains beside it (``weight_change``) and is written into the weight after every
    step of any torch optimizer. The model is used, saved and loaded as always: its state dict
    holds the dense weights under their own names and nothing else. Parameters that ``also``
    (regular expressions) names train densely, such as a new head; everything else is frozen, and
    so are the statistics of BatchNorm, unless ``statistics`` is True.

    Leave with :meth:`keep` or :meth:`revert`; as a context manager it keeps, and reverts where an
    exception passes. Raises :class:`~frog.errors.UsageError` for a selection that was made for
    another model or for other weights.

    >>> import torch, frog
    >>> model = torch.nn.Linear(64, 256, bias=False)
    >>> plan = frog.allocate(frog.analyze(model), 0.01)
    >>> with Tuner(model, frog.select(model, plan)) as tuner:
    ...     optimizer = tuner.optimizer(lr=0.1)
    ...     model(torch.ones(1, 64)).sum().backward()
    ...     optimizer.step()
    >>> tuner.trainable, tuner.delta().count
    (164, 164)
    """

    def __init__(
        self,
        model: nn.Module,
        selection: Selection,
        *,
        plan: Plan | None = None,
        also: Sequence[str] = (),
        statistics: bool = False,
    ) -> None:
        if any(module.__dict__.get(ROOT) is not None for module in model.modules()):
            raise UsageError("this model has a tuner already: keep() or revert() that one first")
        self.model = model
        self.selection = selection
        self.plan = plan or selection.plan
        self.step = 0
        self.micro_step = 0
        self.seed = selection.seed
        self.parts: dict[str, Part] = {}
        self._after: list[Callable[[], None]] = []
        self.matrices: tuple[TunedMatrix, ...] = place(model, selection, self.plan)
        self.compacts: tuple[Compact, ...] = tuple(
            dict.fromkeys(matrix.compact for matrix in self.matrices)
        )
        self.dense = self._dense(also)
        self._statistics = statistics
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
        """An optimizer of ``cls`` over what trains, with the rate of each matrix.

        The rate of a matrix is ``lr`` times its ``lr_ratio`` in the plan, that of dense parameters
        ``also_lr``. Its state carries that of the tuner, so that a resumed run goes on exactly.
        """
        ratios: dict[float, list[nn.Parameter]] = {}
        for compact in self.compacts:
            ratio = next(x.lr_ratio for x in self.matrices if x.compact is compact)
            ratios.setdefault(ratio, []).append(compact.change)
        groups: list[dict[str, Any]] = [
            {"params": members, "lr": lr * ratio} for ratio, members in ratios.items()
        ]
        if self.dense:
            groups.append({"params": list(self.dense.values()), "lr": also_lr or lr})
        made = cls(groups, **{"lr": lr, **settings})
        self.follow(made)
        return made

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Save and load the tuner's state with an optimizer that was made elsewhere."""
        self._handles += carry(optimizer, self)

    def state_dict(self) -> dict[str, Any]:
        """The changes in float32, the step and the state of all parts."""
        return {
            "selection": self.selection.digest,
            "step": self.step,
            "changes": {x.name: x.change.detach().clone() for x in self.compacts},
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` gave; another selection is refused, nothing is changed."""
        check_digest(state["selection"], self.selection.digest)
        for compact in self.compacts:
            compact.set(state["changes"][compact.name].to(compact.change.device))
        self.step = int(state["step"])
        for name, part in self.parts.items():
            if name in state["parts"]:
                part.load_state_dict(state["parts"][name])

    def delta(self) -> SparseDelta:
        """What has changed since the tuner was made, bit for bit, under the names on disk."""
        facts = {
            "trainable": self.trainable,
            "selection": self.selection.digest,
            "score": self.selection.score,
            "granularity": self.selection.granularity,
            "rule": self.plan.rule,
            "steps": self.step,
        }
        return changes(self.model, self.matrices, self._start, self.selection.path, facts)

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

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a pickle of the model is the plain model: it has no tuner."""
        return type(None), ()

    def __repr__(self) -> str:
        return f"<Tuner of {self.trainable:,} weights in {len(self.matrices)} matrices>"

    def __enter__(self) -> Tuner:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.model.__dict__.get(ROOT) is self:
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
                self._adopt(module, mine)
        self._frozen = [] if self._statistics else owner.freeze_statistics(self.model)
        self.model.__dict__[ROOT] = self
        self._handles = [
            _follow_optimizers(self),
            self.model.register_forward_pre_hook(_before_forward),
        ]

    def _adopt(self, module: nn.Module, mine: dict[str, Compact]) -> None:
        call = call_of(module, "weight") if "weight" in mine else "other"
        pieces = []
        if call in ("linear", "conv1d"):
            compact = mine["weight"]
            members = [x for x in self.matrices if x.compact is compact]
            pieces = pieces_of(compact, members, call)
        owner.adopt(module, mine, call, pieces)
        self._owners.append(module)

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        for module in self._owners:
            owner.release(module)
        owner.thaw_statistics(self._frozen)
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


def _before_forward(model: nn.Module, inputs: Any) -> None:
    """Count the passes of a step, and write what was changed by hand."""
    tuner: Tuner | None = model.__dict__.get(ROOT)
    if tuner is None or torch.compiler.is_compiling():
        return
    if model.training:
        tuner.micro_step += 1
    tuner.write()
