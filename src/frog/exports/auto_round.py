"""Bit widths by matrix as the ``layer_config`` of AutoRound.

Source of the format: intel/auto-round, ``AutoRound(model, layer_config={module: {"bits": ...,
"group_size": ..., "sym": ...}})``, where a group of -1 is a row and 16 bits leave a layer alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from frog.errors import UsageError
from frog.serial.config_groups import WidthLevel, module_of


def layer_config(levels: Mapping[str, WidthLevel], *, kept: Iterable[str] = ()) -> str:
    """The JSON of module names and how each is rounded.

    AutoRound rounds every linear layer that is not named by its own default scheme: name in
    ``kept`` the matrices that are to stay, or they do not. It learns the rounding, so its weights
    are not those of rounding to nearest. Raises :class:`~frog.errors.UsageError` for parts of
    tensors, for names in both, and for single bits.

    >>> from frog.compression.curves import Bits
    >>> from frog.numerics.rounding import Rounding
    >>> print(layer_config({"a.b.weight": Bits(Rounding(bits=4))}, kept=["c.weight"]), end="")
    {
      "a.b": {"bits": 4, "group_size": 64, "sym": true},
      "c": {"bits": 16, "data_type": "float"}
    }
    """
    made: dict[str, dict[str, object]] = {}
    for name, level in levels.items():
        how = level.rounding
        if how.bits == 1:
            raise UsageError(f"{name}: AutoRound starts at 2 bits, got 1: take 2")
        group = -1 if how.group is None else how.group
        made[module_of(name)] = {"bits": how.bits, "group_size": group, "sym": how.symmetric}
    for name in kept:
        if module_of(name) in made:
            raise UsageError(f"{name} must be in the levels or be kept, got both: choose one")
        made[module_of(name)] = {"bits": 16, "data_type": "float"}
    if not levels:
        raise UsageError("levels must name one matrix or more, got none")
    rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in made.items())
    return f"{{\n{rows}\n}}\n"
