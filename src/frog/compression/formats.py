"""What a format of quantised checkpoints is: how it stores a rounded matrix, how it says so.

Another format is a subclass of :class:`CheckpointFormat` in a module of its own, added to
``FORMATS`` of :mod:`frog.compression.checkpoints`, which reads, checks and writes folders for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from frog.errors import MissingPackage
from frog.numerics.rounding import Rounded, Rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stored:
    """What takes the place of one weight in a file: tensors by name, and lines of its metadata."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


class CheckpointFormat(ABC):
    """One format that plain transformers loads again."""

    name: str
    meaning: str
    package: str

    def need(self) -> None:
        """:class:`~frog.errors.MissingPackage` where the format's package is absent."""
        for package, extra in ((self.package, "compress"), ("transformers", "tune")):
            if find_spec(package) is None:
                raise MissingPackage(package.replace("_", "-"), extra)

    def check(self, name: str, how: Rounding) -> None:  # noqa: B027 - most formats take all
        """:class:`~frog.errors.UsageError` for a matrix that the format cannot hold."""

    @abstractmethod
    def store(self, module: str, rounded: Rounded, how: Rounding) -> Stored:
        """The matrix of a linear layer, exactly; ``rounded.scales`` has the type of the weights."""

    @abstractmethod
    def config(self, widths: Mapping[str, Rounding], kept: Sequence[str]) -> dict[str, Any]:
        """``quantization_config`` of config.json, by module; ``kept`` are other linear layers."""

    def metadata(self, entries: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
        """Metadata of a file: ``entries`` are those of its matrices, ``names`` all of the model."""
        return dict(entries)
