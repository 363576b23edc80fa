"""The certificate of a run, and the check that nothing outside the selection was touched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from frog.tuning.changes import bits
from frog.tuning.guards.watch import Watch
from frog.types import Certificate
from frog.weights.catalogue import catalogue
from frog.weights.delta import digest
from frog.weights.names import locate
from frog.weights.source import list_tensors


class Reference:
    """What the bits were: digests of tuned matrices, and of all other frozen parameters.

    A selection has the digest of every matrix that it was made on, and the tuner has refused a
    model with others: those cost nothing. What is not in the selection is digested at the start,
    parameter by parameter.
    """

    def __init__(self, tuner: Any, watch: Watch) -> None:
        begin = time.perf_counter()
        pairs = zip(tuner.selection.chosen, tuner.matrices, strict=True)
        self.matrices = {tuned.name: x.digest for x, tuned in pairs if x.digest}
        tuned = {id(compact.weight) for compact in tuner.compacts}
        whole = {id(parameter) for parameter in tuner.dense.values()}
        trains = {id(compact.change) for compact in tuner.compacts}
        self.parameters = {
            name: (parameter, _digest(parameter))
            for name, parameter in tuner.model.named_parameters()
            if id(parameter) not in tuned | whole | trains
        }
        watch.account.seconds["start"] += time.perf_counter() - begin


def certify(tuner: Any, watch: Watch, reference: Reference) -> Certificate:
    """How a run went, with the bits of everything outside the selection checked."""
    begin = time.perf_counter()
    untouched, touched, unchecked = _check_bits(tuner, reference)
    check = time.perf_counter() - begin
    return Certificate(
        model=type(tuner.model).__name__,
        steps=tuner.step,
        trainable=tuner.trainable,
        stopped=watch.stopped,
        slow=watch.factor,
        worst=tuple(watch.record.worst.values()),
        alarms=tuple(watch.record.alarms),
        untouched=untouched,
        touched=tuple(touched),
        unchecked=unchecked,
        seconds={**watch.account.seconds, "check": check},
        facts={
            "selection": tuner.selection.digest,
            "matrices": len(tuner.matrices),
            "snapshot": watch.snapshot_step if watch.snapshot else -1,
            "guards": {
                x.name: {
                    "action": x.action,
                    "every": x.every,
                    "every at the end": x.every * watch.stretch[x.name],
                    "checks": watch.checks[x.name],
                    "seconds": watch.account.by_guard.get(x.name, 0.0),
                }
                for x in watch.guards
            },
        },
    )


def _check_bits(tuner: Any, reference: Reference) -> tuple[int, list[str], int]:
    """(weights with their bits of before, names of tensors without, weights not checkable)."""
    untouched, unchecked, touched = 0, 0, []
    for name, (parameter, seal) in reference.parameters.items():
        if _digest(parameter) == seal:
            untouched += parameter.numel()
        else:
            touched.append(name)
    with _at_start(tuner):
        known = _matrices_by_name(tuner.model)
        by_compact: dict[int, int] = {}
        for matrix in tuner.matrices:
            free = matrix.params - matrix.count
            seal = reference.matrices.get(matrix.name)
            here = known.get(matrix.name)
            by_compact[id(matrix.compact)] = by_compact.get(id(matrix.compact), 0) + matrix.params
            if seal is None or here is None:
                unchecked += free
            elif here.loader.fingerprint() == seal:
                untouched += free
            else:
                touched.append(matrix.name)
    # a fused tensor of which only some matrices were chosen: the others have no digest
    for compact in tuner.compacts:
        unchecked += compact.weight.numel() - by_compact.get(id(compact), 0)
    return untouched, touched, max(0, unchecked)


@contextmanager
def _at_start(tuner: Any) -> Iterator[None]:
    """Put the chosen entries' values of the start into the weights for a while."""
    now: list[tuple[Tensor, Tensor, Tensor]] = []
    for compact in tuner.compacts:
        flat = compact.weight.data.view(-1)
        now.append((flat, compact.index, flat[compact.index].clone()))
        flat.index_copy_(0, compact.index, compact.base)
    try:
        yield
    finally:
        for flat, index, values in now:
            flat.index_copy_(0, index, values)


def _matrices_by_name(model: nn.Module) -> dict[str, Any]:
    listed = locate(catalogue(list_tensors(model)), model)
    return {name: x for x in listed.matrices for name in (x.name, *x.aliases)}


def _digest(parameter: nn.Parameter) -> str:
    flat = parameter.detach().contiguous().view(-1)
    return digest(bits(flat), tuple(parameter.shape), str(parameter.dtype))
