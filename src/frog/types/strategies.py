"""One way to fine-tune a model: what it gained, what it forgot, what it cost, what it changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from frog.types.spectra import NAN


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A fine-tuned model beside the one it came from: a row of the table of strategies.

    Numbers that are not known are NaN, and ``missing`` says why, by name; ``unlike`` names those
    that are known but were measured by another metric or on other rows than the first run's.
    ``kind`` is ``run`` for the output of ``frog tune``, ``delta`` for a file of what changed, else
    ``model``: of the last only the weights speak.

    - ``quality_before``, ``quality_after``: ``metric`` on the ``rows`` rows of ``split``; more is
      better where ``higher``. ``old_before``, ``old_after``: the same metric on ``old_rows`` rows
      of what the model could do before (``data.old`` of the recipe)
    - ``trainable``, ``changed``, ``params``: weights that could change, that did, and all
    - ``memory``: peak bytes while training, on the GPU or of the process (``device`` says which);
      ``seconds``, ``cpu_seconds``: of training; ``delta_bytes``: size of what changed as a file
    - ``alpha_shift``: mean of \\|alpha' - alpha\\| over ``layers_fitted`` layers with an alpha in
      both; ``drift``: \\|\\|W' - W\\|\\|_F / \\|\\|W\\|\\|_F of all layers as one vector;
      ``overlap``: mean of \\|\\|U_k'^T U_k\\|\\|_F^2 / k over layers, left and right, 1 where the
      leading directions stayed; ``intruders``: new leading directions, summed
    """

    label: str
    path: str
    kind: str = "model"
    mode: str = ""
    task: str = ""
    metric: str = ""
    higher: bool = True
    split: str = ""
    rows: int = 0
    old_rows: int = 0
    device: str = ""
    quality_before: float = NAN
    quality_after: float = NAN
    old_before: float = NAN
    old_after: float = NAN
    trainable: float = NAN
    changed: float = NAN
    params: float = NAN
    memory: float = NAN
    seconds: float = NAN
    cpu_seconds: float = NAN
    steps: float = NAN
    learning_rate: float = NAN
    delta_bytes: float = NAN
    alpha_shift: float = NAN
    layers_fitted: int = 0
    drift: float = NAN
    overlap: float = NAN
    intruders: float = NAN
    missing: Mapping[str, str] = field(default_factory=dict)
    unlike: tuple[str, ...] = ()

    @property
    def gain(self) -> float:
        """Change of the metric on the task; better when positive where ``higher``."""
        return self.quality_after - self.quality_before

    @property
    def old_change(self) -> float:
        """Change of the metric on the old rows: forgetting where it is for the worse."""
        return self.old_after - self.old_before

    @property
    def share(self) -> float:
        """Trainable weights as a share of all."""
        return self.trainable / self.params if self.params else NAN
