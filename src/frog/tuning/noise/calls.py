"""Which call of a layer this is, also when activation checkpointing repeats it.

The random numbers of a call must be its own, and the same when the call is recomputed. So the
calls of each layer are counted, anew after every optimizer step: that count takes in micro-steps,
several forward passes before one backward, and a layer that is used twice. A call inside a
checkpointed segment is also noted at the segment, in order. When the segment is recomputed, its
calls are found there: two passes on the way at once, layers used twice, nested segments and a
second backward pass cannot be mistaken for one another.

``torch.utils.checkpoint`` tells nobody that it records or repeats. Its functions on the stack do:
each has the segment among its local names, in both its variants. (Run with torch 2.13; sources as
old as 2.2 have the same names.) Under other makers of checkpoints a layer that was called once in
the step is known again, and any other is refused.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch
import torch.utils.checkpoint

from frog.errors import UsageError

_HOME = torch.utils.checkpoint.__file__
_NOTES = "_frog_calls"
"""Where a checkpointed segment keeps the calls made in it: they live as long as its graph."""

Call = tuple[int, int]
"""The optimizer step in which a call was made, and its number among the layer's calls there."""


class Calls:
    """Numbers the calls of layers that are part of training.

    >>> calls = Calls()
    >>> calls.number("layer", 0), calls.number("layer", 0), calls.number("layer", 1)
    ((0, 0), (0, 1), (1, 0))
    >>> with torch.no_grad():
    ...     print(calls.number("layer", 1))
    None
    """

    def __init__(self) -> None:
        self.step = 0
        self.counts: dict[str, int] = {}

    def number(self, layer: str, step: int) -> Call | None:
        """The number of this call of ``layer`` in optimizer step ``step``; None outside training.

        Raises :class:`~frog.errors.UsageError` for a recomputed call that fits no single one.
        """
        recording, repeated = _segments()
        if repeated is not None or torch._C._current_graph_task_id() != -1:
            call = self._again(layer, repeated)  # within a backward pass
        elif torch.is_grad_enabled() or any(_wants_gradient(x) for x in recording):
            call = self._next(layer, step)
        else:
            call = None
        if call is not None:
            for segment in recording:
                _notes(segment).setdefault((self, layer), []).append(call)
        return call

    def _next(self, layer: str, step: int) -> Call:
        if step != self.step:
            self.step, self.counts = step, {}
        count = self.counts.get(layer, 0)
        self.counts[layer] = count + 1
        return step, count

    def _again(self, layer: str, segment: Any) -> Call | None:
        """The call that is repeated: the next one of this layer in its segment."""
        notes = {} if segment is None else _notes(segment)
        if (self, layer) in notes:
            run = torch._C._current_graph_task_id()  # another backward pass starts from the first
            place = notes.get((self, layer, run), 0)
            notes[(self, layer, run)] = place + 1
            if place < len(notes[(self, layer)]):
                return notes[(self, layer)][place]
        elif notes:
            return None  # the segment was watched, and this layer had no noise in it
        elif self.counts.get(layer, 0) < 2:
            return (self.step, 0) if layer in self.counts else None
        raise UsageError(
            f"{layer} is recomputed by activation checkpointing in a way that does not show which "
            "of its calls it repeats, so its noise cannot be drawn again: checkpoint with "
            "torch.utils.checkpoint.checkpoint, or train without noise"
        )


def _segments() -> tuple[list[Any], Any]:
    """The checkpointed segments that record this call, and the one that repeats it, if any."""
    recording: list[Any] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == _HOME:
            name, names = frame.f_code.co_name, frame.f_locals
            if name == "unpack_hook" and "frame" in names:
                return recording, names["frame"]
            if name == "backward" and "ctx" in names:
                return recording, names["ctx"]
            if name == "forward" and "ctx" in names:
                recording.append(names["ctx"])
            elif name == "checkpoint" and getattr(names.get("gen"), "gi_frame", None) is not None:
                recording.append(names["gen"].gi_frame.f_locals["new_frame"])
        frame = frame.f_back
    return recording, None


def _wants_gradient(segment: Any) -> bool:
    """Whether a segment that runs without gradients now will be repeated with them (reentrant)."""
    return any(getattr(segment, "needs_input_grad", ()))


def _notes(segment: Any) -> dict[Any, Any]:
    notes = getattr(segment, _NOTES, None)
    if notes is None:
        notes = {}
        setattr(segment, _NOTES, notes)
    return notes
