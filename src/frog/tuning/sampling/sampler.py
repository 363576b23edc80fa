"""Units of a model train in turns, drawn by given chances: layer importance sampling (LISA)."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from frog.errors import UsageError
from frog.tuning.attached import Attached, checked_share, trainer_callback
from frog.tuning.changes import changes
from frog.tuning.compact import equal_bits
from frog.tuning.places import parameter_homes, refuse_sharded
from frog.tuning.rates.defaults import family_of, full_rate
from frog.tuning.sampling.draws import Draws, Turn, draw
from frog.tuning.sampling.reducing import Reducing
from frog.tuning.sampling.units import Division, Unit
from frog.tuning.state import BeforeForward, BeforeLoad, Followed
from frog.types import Rate, SparseDelta


class Sampler(Attached):
    """Trains a few units of ``model`` at a time, densely; which ones, is drawn by chances.

    :class:`frog.LayerSampler` makes the chances from a report; the rest is here. Active units
    and the parameters that always train require gradients, all else is frozen. A unit that is
    drawn out loses its gradients and its optimizer state; drawn again, it starts with none.
    """

    def __init__(
        self,
        model: nn.Module,
        division: Division,
        draws: Draws,
        *,
        path: str = "",
        frozen_statistics: bool = True,
    ) -> None:
        super().__init__(model, draws.seed)
        self.division = division
        self.draws = draws
        self.path = path or type(model).__name__
        self._units = {unit.name: unit for unit in division.units}
        self.chances = dict(zip(self._units, draws.chances, strict=True))
        self._digest = self._mark()
        self._start: dict[str, Tensor] = {}
        self._active: tuple[str, ...] = ()
        self._fits: Callable[[], Any] = lambda: None
        self._ids = {id(x) for x in self._named().values()}
        self._places = [
            (name, module, attribute, module._parameters[attribute])
            for name, (_, module, attribute) in parameter_homes(model).items()
            if id(module._parameters[attribute]) in self._ids
        ]
        self._attach(frozen_statistics)

    def __repr__(self) -> str:
        state = f"step {self.step}" if self.attached else "left"
        return (
            f"LayerSampler({type(self.model).__name__}: {len(self._active)} of "
            f"{len(self._units)} {self.division.kind}s train at a time, {self.trainable:,} "
            f"weights now, {state})"
        )

    # ------------------------------------------------------------------ while training

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the units that train now."""
        return self._active

    @property
    def units(self) -> tuple[Unit, ...]:
        """All units, in the order of the model."""
        return self.division.units

    @property
    def trainable(self) -> int:
        """Number of weights that train now."""
        always = sum(x.numel() for x in self.division.always.values())
        return always + sum(self._units[name].count for name in self._active)

    @property
    def whole(self) -> dict[str, nn.Parameter]:
        """The parameters that always train, by name."""
        return dict(self.division.always)

    @property
    def held_bytes(self) -> int:
        """Bytes of the copies, on the CPU, that reverting and deltas need."""
        return sum(x.numel() * x.element_size() for x in self._start.values())

    def schedule(self, steps: int) -> list[Turn]:
        """Which units train when, in the first ``steps`` optimizer steps; a pure function.

        It depends on seed, chances and names only: not on what was trained so far.
        """
        every = self.draws.every
        return [
            Turn(start=start, stop=min(start + every, steps), units=self.units_at(start))
            for start in range(0, steps, every)
        ]

    def units_at(self, step: int) -> tuple[str, ...]:
        """The units that train in the optimizer step of this number, counted from 0."""
        turn = step // self.draws.every
        return draw(self.chances, self.draws.active, seed=self.seed, turn=turn)

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """UsageError for an optimizer that does not hold everything that is sampled."""
        held = {id(x) for group in optimizer.param_groups for x in group["params"]}
        missing = [name for name, x in self._named().items() if id(x) not in held]
        if missing:
            raise UsageError(
                f"one optimizer must hold all that the LayerSampler trains, this one lacks "
                f"{len(missing)} parameters ({missing[0]}, ...): use sampler.optimizer(...), in a "
                "Trainer as optimizers=(sampler.optimizer(...), None)"
            )

    def optimizer(
        self,
        cls: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        *,
        lr: float | str = "auto",
        also_lr: float | None = None,
        **settings: Any,
    ) -> torch.optim.Optimizer:
        """An optimizer over everything that will ever train, in groups that stay the same.

        ``lr`` is that of full tuning, since units train densely ("auto": the default for this kind
        and size of model); ``also_lr`` that of the parameters that always train (``lr`` if not
        given); ``settings`` go to ``cls``.
        Vectors (norms, biases) get no weight decay, as in transformers' Trainer; matrices decay
        towards zero, and only while they train.
        """
        if isinstance(lr, str):
            if lr != "auto":
                raise UsageError(f"lr must be a number or 'auto', got '{lr}'")
            lr = self.rate(cls=cls).lr
        groups = self.division.groups(lr, lr if also_lr is None else also_lr)
        made = cls(groups, **{"lr": lr, **settings})
        self._followed.meet(made)
        return made

    def rate(
        self,
        *,
        full: float | None = None,
        cls: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
        kept: float = 1.0,
    ) -> Rate:
        """The learning rate of ``lr="auto"``: ``full``, else the default of full tuning.

        ``kept`` is the share of the change that :meth:`scale_change` will keep: the rate of what
        trains by turns is divided by it, ``also`` is not.
        """
        kept = checked_share(kept, "kept")
        family, name = family_of(cls, told=full is not None)
        value, origin = (full, "given") if full is not None else full_rate(self.model, family)
        return Rate(lr=value / kept, full=value, origin=origin, optimizer=name, budget=1.0,
                    also=value, kept=kept)  # fmt: skip

    def callback(self) -> Any:
        """For transformers' Trainer: logs what trains. Training is the same without it."""
        return trainer_callback("SamplingCallback", self)

    def snapshot(self) -> dict[str, Tensor]:
        """A copy, on the CPU, of every parameter that has trained or trains."""
        named = self._named()
        return {name: _copy(named[name]) for name in self._start}

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Put a :meth:`snapshot` back; what has trained only since goes back to the start."""
        named = self._named()
        self._must_be_of_one_dtype()
        for name, start in self._start.items():
            named[name].copy_(snapshot.get(name, start))

    @torch.no_grad()
    def scale_change(self, share: float) -> None:
        """Keep ``share`` of the change of every unit that has trained, at the end of a run.

        As :meth:`frog.Tuner.scale_change`, but a change is known only as what the weights hold:
        each is computed in float32 and rounded to their dtype. Parameters that always train (a new
        head) stay as they are.
        """
        self._must_be_attached()
        factor = checked_share(share)
        self._must_be_of_one_dtype()
        named = self._named()
        for name in self._start.keys() - self.division.always.keys():
            if factor < 1:
                named[name].copy_(_between(self._start[name], named[name], factor))

    def delta(self) -> SparseDelta:
        """What has changed since the sampler was made, bit for bit, under the names on disk."""
        facts = {
            "trainable": self.trainable,
            "sampling": self.draws.marks.get("by", ""),
            "units": f"{self.draws.active} of {len(self._units)} {self.division.kind}s",
            "steps": self.step,
        }
        self._must_be_of_one_dtype()
        return changes(self.model, (), self._start, self.path, facts)

    # ------------------------------------------------------------------------- leaving

    def keep(self) -> None:
        """Leave the model with its tuned weights."""
        self._must_be_attached()
        self._detach()

    @torch.no_grad()
    def revert(self) -> None:
        """Leave the model as it was, bit for bit."""
        self._must_be_attached()
        self.restore({})
        self._detach()

    # --------------------------------------------------------- state, for the optimizer

    def state_dict(self) -> dict[str, Any]:
        """The counters and parts, as they travel with the optimizer: the rest follows from them."""
        return {"sampling": self._digest, **self._state()}

    def check_state(self, state: dict[str, Any]) -> None:
        """UsageError for the state of another sampling, and where gradients would be lost."""
        if state.get("sampling") != self._digest:
            raise UsageError(
                "the saved run sampled other layers: resume with the same report, model, seed and "
                "settings of the LayerSampler (nothing was changed)"
            )
        self._check_parts(state["parts"])
        gone = [x for x in self._active if x not in self.units_at(state["step"])]
        if any(p.grad is not None for x in gone for p in self._units[x].parameters.values()):
            raise UsageError(
                "the state of another step must be loaded before gradients are computed, or after "
                "zero_grad(): layers that train now do not train there. Call "
                "sampler.meet(optimizer) before optimizer.load_state_dict (nothing was changed)"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a :meth:`state_dict`; UsageError, and nothing changes, for another sampling."""
        self.check_state(state)
        self._load(state)
        self._take_turns()

    def trains_in(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimizer holds something that this sampler trains."""
        return any(id(x) in self._ids for group in optimizer.param_groups for x in group["params"])

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Count; let others train where their turn has come; call what waits for a step."""
        self.step += 1
        self.micro_step = 0
        if self.step % self.draws.every == 0:
            self._take_turns()
        for action in self._after:
            action(optimizer)

    # ------------------------------------------------------------------------- private

    def _named(self) -> dict[str, nn.Parameter]:
        in_turns = {name: x for unit in self.units for name, x in unit.parameters.items()}
        return {**self.division.always, **in_turns}

    def _mark(self) -> str:
        """Digest of all that the draws and the division depend on."""
        said = {
            "draws": [self.draws.active, self.draws.every, self.draws.seed],
            "chances": {name: f"{chance:.9e}" for name, chance in self.chances.items()},
            "marks": dict(self.draws.marks),
            "units": {x.name: sorted(x.parameters) for x in self.units},
            "always": sorted(self.division.always),
        }
        text = json.dumps(said, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _must_be_of_one_dtype(self) -> None:
        named = self._named()
        for name, start in self._start.items():
            if named[name].dtype != start.dtype:
                raise UsageError(
                    f"{name} must stay {start.dtype} while it is sampled, got "
                    f"{named[name].dtype}: cast the model before the LayerSampler is made"
                )

    def _take_turns(self) -> None:
        """Freeze the units that are drawn out, and forget their state; start the others."""
        now = self.units_at(self.step)
        for name in self._active:
            if name not in now:
                for parameter in self._units[name].parameters.values():
                    parameter.requires_grad_(False)
                    parameter.grad = None
                    for optimizer in self._followed.known:
                        optimizer.state.pop(parameter, None)
        for name in now:
            self._hold(self._units[name].parameters)
            for parameter in self._units[name].parameters.values():
                parameter.requires_grad_(True)
        self._active = now
        self._reducing.follow(x for name in now for x in self._units[name].parameters.values())

    def _hold(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            if name not in self._start:
                self._start[name] = _copy(parameter)

    def _attach(self, frozen_statistics: bool) -> None:
        self._take(self.division.always.values(), frozen_statistics)
        self._hold(self.division.always)
        in_turns = {name: x for unit in self.units for name, x in unit.parameters.items()}
        self._reducing = Reducing(self.model, in_turns, self._digest)
        before = BeforeForward(self._before_forward)
        self._hooks = [
            self.model.register_forward_pre_hook(before),
            self.model.register_load_state_dict_pre_hook(BeforeLoad(self._before_load)),
        ]
        self._followed = Followed(self, self._before_step)
        self._take_turns()

    def _detach(self) -> None:
        self._followed.remove()
        self._reducing.remove()
        for hook in self._hooks:
            hook.remove()
        self._give_back()

    def _before_forward(self) -> None:
        if torch.is_grad_enabled():
            self.micro_step += self.model.training
            self._reducing.watch()

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse a step that could not be what was asked for, before it changes anything."""
        self._reducing.check()
        for name, module, attribute, parameter in self._places:
            now = module._parameters.get(attribute)
            if now is not parameter:
                raise UsageError(
                    f"{name} must stay the parameter it was, got another "
                    f"({type(now).__name__}): shard (not supported), "
                    "resize or tie before the LayerSampler is made"
                )
        if self._fits() is not optimizer:
            refuse_sharded(self.model)
            self.check(optimizer)
            self._fits = weakref.ref(optimizer)
        active = (x for name in self._active for x in self._units[name].parameters.values())
        if any(x.grad is not None for x in self.division.always.values()) and not any(
            x.grad is not None for x in active
        ):
            raise UsageError(
                f"no gradient reached the active layers ({', '.join(self._active)}): re-entrant "
                "gradient checkpointing needs use_reentrant=False or enable_input_require_grads()"
            )

    def _before_load(self, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
        """Copy the start of what a checkpoint changes; refuse one that changes frozen weights."""
        if metadata.get("assign_to_params_buffers"):
            raise UsageError(
                "load_state_dict(assign=True) would replace the parameters that are sampled: load "
                "without assign, or before the LayerSampler is made"
            )
        mine = {id(x): name for name, x in self._named().items()}
        fresh, other = {}, []
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            new = state.get(prefix + name)
            if new is None or tuple(new.shape) != tuple(parameter.shape):
                continue  # the module itself tells what is missing or of another shape
            new = new.to(parameter.device, parameter.dtype)
            if bool(equal_bits(new, parameter.data).all()):
                continue
            if id(parameter) in mine:
                fresh[mine[id(parameter)]] = parameter
            else:
                other.append(name)
        if other:
            raise UsageError(
                f"{prefix}{other[0]} to be loaded differs from the model, and the LayerSampler "
                "never trains it: it is another model. Nothing was loaded; load the weights "
                "before the LayerSampler is made"
            )
        self._hold(fresh)


def _copy(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", copy=True)


def _between(start: Tensor, now: Tensor, share: float) -> Tensor:
    """start + share (now - start), rounded once to their dtype; equal ones keep their bits."""
    start = start.to(now.device)
    wide = torch.promote_types(now.dtype, torch.float32)
    moved = start.to(wide) + share * (now.to(wide) - start.to(wide))
    return torch.where(now == start, now, moved.to(now.dtype))
