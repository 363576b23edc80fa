"""The tuner: attaches a selection to a live model, and leaves it as it was or as it became."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from frog.errors import UsageError
from frog.tuning import owner, rates
from frog.tuning.attached import Attached, checked_share, matching
from frog.tuning.changes import changes
from frog.tuning.compact import Compact
from frog.tuning.guards.guard import Guard
from frog.tuning.guards.guarded import Guarded
from frog.tuning.line_search import search
from frog.tuning.matrix import TunedMatrix
from frog.tuning.noise import attach_noise
from frog.tuning.places import call_of, place
from frog.tuning.state import BeforeForward, Followed
from frog.tuning.tap import pieces_of
from frog.types import Noise, Plan, Rate, Selection, SparseDelta
from frog.types.level_plans import refuse_levels


class Tuner(Attached, Guarded):
    """Trains the selected weights of ``model``, and nothing else, in any loop.

        tuner = frog.Tuner(model, selection)
        trainer = Trainer(model, args, ..., optimizers=(tuner.optimizer(lr=1e-3), None))
        trainer.train(); tuner.keep()

    From the moment it is made until :meth:`keep` or :meth:`revert`, the model has one trainable
    vector for each tuned parameter (``weight_change`` beside ``weight``: the difference to the
    values at the start, so that weight decay pulls towards them) and all else is frozen, but for
    the parameters that a regular expression in ``also`` finds: they train as they are (a new
    head). The dense weights are always up to date, in forward, ``state_dict`` and
    ``save_pretrained``, which stay those of the plain model. Statistics of BatchNorm layers stay
    as they are unless ``frozen_statistics`` is False.

    ``plan`` gives the learning-rate ratios, if not that of the selection; ``noise`` acts on the
    weights of tuned matrices that are not selected (``tuner.noise``). ``guards`` (names, objects,
    or ``"auto"``) watch the run: ``frog list guards``. As a context manager the tuner keeps on a
    normal exit and reverts on an exception.

    Raises :class:`~frog.errors.UsageError` for a selection of another model, a second tuner, a
    pattern that matches nothing, sharded parameters; :class:`~frog.errors.ModelError` for weights
    that are not finite.

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
        frozen_statistics: bool = True,
        noise: Noise | None = None,
        guards: str | Sequence[str | Guard] = (),
    ) -> None:
        super().__init__(model, selection.seed)
        self.selection = selection
        refuse_levels(plan)
        self.plan = plan or selection.plan
        self.measured = rates.Measured()
        self.matrices: tuple[TunedMatrix, ...] = place(model, selection, self.plan)
        self.compacts: tuple[Compact, ...] = tuple(
            dict.fromkeys(matrix.compact for matrix in self.matrices)
        )
        self.dense = self._dense(also)
        self._digest = selection.digest
        self._written = True
        self._stepped_by_torch = False
        self._attach(frozen_statistics)
        try:
            self.noise = attach_noise(self, noise, self._owners)
            self._set_guards(guards)
        except BaseException:
            self._detach()
            raise

    def __repr__(self) -> str:
        state = f"step {self.step}" if self.attached else "left"
        dense = f" + {len(self.dense)} whole parameters" if self.dense else ""
        return (
            f"Tuner({type(self.model).__name__}: {self.trainable:,} trainable weights in "
            f"{len(self.matrices)} matrices{dense}, {state})"
        )

    # ------------------------------------------------------------------ while training

    @property
    def trainable(self) -> int:
        """Number of weights that train."""
        compact = sum(len(x.change) for x in self.compacts)
        return compact + sum(x.numel() for x in self.dense.values())

    @property
    def whole(self) -> dict[str, nn.Parameter]:
        """The parameters of ``also=``, by name."""
        return dict(self.dense)

    def plan_steps(self, total: int) -> None:
        """Tell what follows a schedule (noise) how many optimizer steps the run has."""
        if self.noise is not None:
            self.noise.plan(total)

    @property
    def facts(self) -> tuple[str, ...]:
        """What a log should hold before training: where the learning rate comes from."""
        used = self.measured.used
        return () if used is None else tuple(used.reason.splitlines())

    def write(self) -> None:
        """Put every change into its dense weight: after a change by anything but an optimizer."""
        for compact in self.compacts:
            compact.write()

    def rate(
        self,
        batches: Iterable[Any] | None = None,
        *,
        loss: rates.Loss | None = None,
        full: float | None = None,
        cls: rates.Optimizer = torch.optim.AdamW,
        kept: float = 1.0,
    ) -> Rate:
        """The automatic learning rate: printed, it says why. :meth:`optimizer` then uses it.

        ``full`` is the rate of full tuning (a default by kind and size of the model). Without
        ``batches`` it is divided by the budget; with a few, not those that chose the mask, by the
        share of the gradient in the mask. ``loss`` is that of :func:`frog.collect_gradients`; the
        model is left as it was. ``kept`` is the share of the change that :meth:`scale_change` will
        keep: the rate is divided by it. In DDP every process must call it.
        """
        self._must_be_attached()
        kept = checked_share(kept, "kept")
        shares = None if batches is None else rates.measure(self, batches, loss)
        made = rates.rate_of(self, cls, shares, full, kept)
        self.measured = rates.Measured(shares=shares, full=full, kept=kept)
        return made

    def optimizer(
        self,
        cls: rates.Optimizer = torch.optim.AdamW,
        *,
        lr: float | str = "auto",
        also_lr: float | None = None,
        **settings: Any,
    ) -> torch.optim.Optimizer:
        """An optimizer over all that trains: ``lr`` times the ratio of each matrix.

        ``lr="auto"`` is the rate of :meth:`rate`, as measured there, else from the budget alone;
        what was used is then ``tuner.measured.used``. ``also_lr`` is the rate of the dense
        parameters: ``lr`` if not given, with ``"auto"`` ten times that of full tuning. ``settings``
        go to ``cls``. Weight decay pulls tuned weights towards their values at the start, and
        dense parameters towards zero.
        """
        groups, plain = rates.groups(self, cls, lr, also_lr)
        made = cls(groups, **{"lr": plain, **settings})
        self._followed.meet(made)
        return made

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all that trains: k numbers, and the dense parameters of ``also``."""
        held = {x.name: x.change.detach().clone() for x in self.compacts}
        return held | {name: x.detach().clone() for name, x in self.dense.items()}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Put a :meth:`snapshot` back."""
        for compact in self.compacts:
            compact.set(snapshot[compact.name])
        for name, parameter in self.dense.items():
            parameter.copy_(snapshot[name])

    @torch.no_grad()
    def scale_change(self, share: float) -> None:
        """Keep ``share`` of the change of every chosen weight, at the end of a run; in place.

        Between the weights of before and those of after lie better trades of what was known for
        what was learnt (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903). The float32 changes are
        multiplied and the weights rounded once. Parameters of ``also=`` stay as they are: a new
        head has nothing to keep. A second call acts on what the first one left; :meth:`snapshot`
        before and :meth:`restore` after undo it. Under DDP every process must call it.

        Raises :class:`~frog.errors.UsageError` for a share outside (0, 1].

        >>> import torch, frog
        >>> model = torch.nn.Linear(64, 256, bias=False)
        >>> tuner = Tuner(model, frog.select(model, frog.allocate(frog.analyze(model), 0.01)))
        >>> tuner.matrices[0].set_change(torch.ones(164))
        >>> tuner.scale_change(0.5)
        >>> float(tuner.matrices[0].change().sum()), tuner.delta().count
        (82.0, 164)
        """
        self._must_be_attached()
        factor = checked_share(share)
        for compact in self.compacts:
            compact.set(compact.change.detach() * factor)

    def fit_change(self, batches: Iterable[Any], *, loss: rates.Loss | None = None) -> float:
        """Keep as much of the change as the loss asks for, at the end of a run; gives the share.

        A learning rate that was too large leads past the best weights, and on the way back lie
        better ones. From the whole change downwards in tenths, as long as the mean loss over
        ``batches`` (training data, eight of them will do) falls: as :meth:`scale_change`, with the
        share found. The model runs in eval mode, without gradients. ``loss`` is that of
        :func:`frog.collect_gradients`. Under DDP every process must call it, with as many batches.

        Raises :class:`~frog.errors.UsageError` for no batches or a loss that is finite at no
        share; the change is then as it was.

        >>> import torch, frog
        >>> model = torch.nn.Linear(64, 256, bias=False)
        >>> tuner = Tuner(model, frog.select(model, frog.allocate(frog.analyze(model), 0.01)))
        >>> half = {0: 0.5 + model.weight.detach()[tuner.matrices[0].entries()]}
        >>> def loss(model, batch):
        ...     return (model.weight[tuner.matrices[0].entries()] - half[batch]).square().sum()
        >>> tuner.matrices[0].set_change(torch.ones(164))
        >>> tuner.fit_change([0], loss=loss)
        0.5
        """
        self._must_be_attached()
        return search(self, batches, loss)

    def delta(self) -> SparseDelta:
        """What has changed since the tuner was made, bit for bit, under the names on disk."""
        facts = {
            "trainable": self.trainable,
            "selection": self._digest,
            "score": self.selection.score,
            "granularity": self.selection.granularity,
            "rule": self.plan.rule,
            "steps": self.step,
        }
        return changes(self.model, self.matrices, self._start, self.selection.path, facts)

    # ------------------------------------------------------------------------- leaving

    def keep(self) -> None:
        """Leave the model with its tuned weights."""
        self._must_be_attached()
        self.write()
        self._detach()

    @torch.no_grad()
    def revert(self) -> None:
        """Leave the model as it was, bit for bit."""
        self._must_be_attached()
        for compact in self.compacts:
            compact.revert()
        for name, parameter in self.dense.items():
            parameter.copy_(self._start[name])
        self._detach()

    # --------------------------------------------------------- state, for the optimizer

    def state_dict(self) -> dict[str, Any]:
        """The exact changes, counters and parts, as they travel with the optimizer."""
        return {
            "selection": self._digest,
            "changes": {x.name: x.change.detach() for x in self.compacts},
            **self._state(),
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """UsageError for the state of another selection, or of other parts."""
        if state.get("selection") != self._digest:
            raise UsageError(
                "the saved run trained another selection: resume with the one it was started "
                "with (nothing was changed)"
            )
        self._check_parts(state["parts"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a :meth:`state_dict`; UsageError, and nothing changes, for another selection."""
        self.check_state(state)
        self._load(state)
        for compact in self.compacts:
            compact.set(state["changes"][compact.name])

    def trains_in(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimizer holds something that this tuner trains."""
        mine = {id(x.change) for x in self.compacts} | {id(x) for x in self.dense.values()}
        return any(id(x) in mine for group in optimizer.param_groups for x in group["params"])

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Write what the optimizer changed; count; call what waits for a step."""
        self._stepped_by_torch = True
        self.write()
        first = self.compacts[0].change if self.compacts else None
        if not any(x is first for group in optimizer.param_groups for x in group["params"]):
            return  # of several optimizers one counts
        self.step += 1
        self.micro_step = 0
        for action in self._after:
            action(optimizer)

    # ------------------------------------------------------------------------- private

    def _dense(self, also: Sequence[str]) -> dict[str, nn.Parameter]:
        """The parameters that train whole, by name."""
        tuned = {id(compact.weight): compact.name for compact in self.compacts}
        chosen = matching(self.model, also, "also")
        both = [name for name, x in chosen.items() if id(x) in tuned]
        if both:
            raise UsageError(
                f"{both[0]} must be tuned by selection or trained whole (also=), got both: make "
                "the pattern narrower"
            )
        return chosen

    def _attach(self, frozen_statistics: bool) -> None:
        self._start = {name: x.detach().clone() for name, x in self.dense.items()}
        self._take(self.dense.values(), frozen_statistics)
        by_weight = {id(compact.weight): compact for compact in self.compacts}
        self._owners: list[nn.Module] = []
        for module in list(self.model.modules()):
            mine = {
                attribute: by_weight[id(parameter)]
                for attribute, parameter in module._parameters.items()
                if parameter is not None and id(parameter) in by_weight
            }
            if mine:
                self._adopt(module, mine)
        self._hook = self.model.register_forward_pre_hook(BeforeForward(self._before_forward))
        self._followed = Followed(self)

    def _adopt(self, module: nn.Module, compacts: dict[str, Compact]) -> None:
        call, mine = "other", []
        if list(compacts) == ["weight"]:
            call = call_of(module, "weight")
            mine = [x for x in self.matrices if x.compact is compacts["weight"]]
        owner.adopt(module, compacts, call, partial(pieces_of, mine, call))
        self._owners.append(module)

    def _detach(self) -> None:
        self._dismiss_guards()
        self._followed.remove()
        self._hook.remove()
        for module in self._owners:
            owner.release(module)
        self._give_back()

    def _before_forward(self) -> None:
        """Count the forward passes of a step; write where no torch optimizer would tell of one."""
        training = torch.is_grad_enabled()
        self.micro_step += training and self.model.training
        owner.check_in_place(self._owners)
        if not self._stepped_by_torch and (training or not self._written):
            self.write()
        self._written = not training
