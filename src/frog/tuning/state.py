"""What a run needs to go on exactly: it travels inside the optimizer's own state.

The dense weights of a checkpoint are rounded to their dtype; the changes are not. Every loop that
saves and loads its optimizer (Trainer does) so resumes bit for bit, without a file of ours.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from frog.errors import UsageError

KEY = "frog"


class Resumable(Protocol):
    """What is saved: the tuner, by its digest and its state."""

    def state_dict(self) -> dict[str, Any]:
        """Numbers, words and tensors only: optimizer files are read without pickles."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        ...


def carry(optimizer: torch.optim.Optimizer, tuner: Resumable) -> list[Any]:
    """Put the tuner's state into the optimizer's, both ways; gives the handles of the hooks."""

    def saved(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, KEY: tuner.state_dict()}

    def loaded(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        if KEY not in state:
            raise UsageError(
                "the optimizer state to resume from was saved without this tuner: it must come "
                "from a run with the same selection; nothing was loaded"
            )
        tuner.load_state_dict(state[KEY])
        return {name: value for name, value in state.items() if name != KEY}

    return [
        optimizer.register_state_dict_post_hook(saved),
        optimizer.register_load_state_dict_pre_hook(loaded),
    ]


def check_digest(found: str, wanted: str) -> None:
    """Refuse to resume with another selection."""
    if found != wanted:
        raise UsageError(
            f"the run to resume trained another selection ({found[:12]}, this one is "
            f"{wanted[:12]}): resume with that selection, or start a new run; nothing was loaded"
        )
