"""A fine-tuning run written down: what is trained, on what, how; and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frog.types.plans import Plan
from frog.types.selections import Selection
from frog.types.spectra import NAN

MODES = ("select", "layers")
"""Ways to train: chosen weights all the time, or whole layers that are drawn by turns."""

KEEP_CHANGE = 0.6
"""Share of the change of the tuned weights that a recipe keeps at the end, where it does not say
and a new head was fitted first; where none was, all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Rows to read: a file (``path``, absolute) or a split of a data set of the hub (``id``)."""

    path: str = ""
    id: str = ""
    config: str | None = None
    split: str = "train"

    def __str__(self) -> str:
        return self.path or f"{self.id} ({self.split})"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """Where the rows come from and what their columns mean; a column is named by its text.

    ``old`` are rows of what the model could do before: measured before and after, to tell what was
    forgotten. ``validation_share`` of the training rows is split off where no validation is given.
    ``limit`` bounds the rows of a split. ``header`` names the columns of a CSV that has no line of
    names.
    """

    train: DataSource
    validation: DataSource | None = None
    test: DataSource | None = None
    old: DataSource | None = None
    validation_share: float = 0.0
    header: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    label: str = "label"
    labels: tuple[str, ...] = ()
    pair: tuple[str, ...] = ()
    score: str = ""
    score_range: tuple[float, float] = (0.0, 1.0)
    messages: str = ""
    prompt: str = ""
    completion: str = ""
    image: str = "image"
    loss_on: str = "auto"
    pack: bool = True
    max_length: int | None = None
    limit: Mapping[str, int] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, DataSource]:
        """The sources that are given, by split."""
        named = {"train": self.train, "validation": self.validation, "test": self.test,
                 "old": self.old}  # fmt: skip
        return {name: source for name, source in named.items() if source is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionSpec:
    """Which weights train: the arguments of ``allocate`` and ``select``, or files of theirs."""

    budget: float | int | str = 0.01
    rule: str = "auto"
    knobs: Mapping[str, float] = field(default_factory=dict)
    floor: float = 0.0
    cap: float = 1.0
    score: str = "auto"
    granularity: str = "element"
    block_size: tuple[int, int] = (16, 16)
    include: str | None = None
    exclude: str | None = None
    roles: tuple[str, ...] = ()
    rank: int | None = None
    protect: int = 0
    protect_strength: float = 1.0
    keep: str = "all"
    bits: int = 4
    group: int | str = 64
    gradient_batches: int = 4
    layer_rates: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    plan: str = ""
    selection: str = ""
    report: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSpec:
    """A guard by name, with the settings that differ from its own."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A whole fine-tuning run; ``frog tune recipe.yaml`` reads one (docs/recipes.md).

    Paths are absolute. ``train_also`` is None for the parameters that are new to the model (the
    head of a new task), ``learning_rate`` None for ``auto``; ``head_first`` is the number of steps
    for which a new head is fitted before anything else moves, ``head_last`` for which it is fitted
    at the end, ``keep_change`` the share of the change of the tuned weights that is kept: each None
    for ``auto``. ``noise`` and ``layers`` hold the settings that were given, ``noise`` is None for
    none; ``guards`` is ``auto``, or guards in order. ``training`` are fields of transformers'
    ``TrainingArguments``, as given; ``compare`` says whether the result is measured beside the
    model before. ``lines`` says where each key stood, for messages.
    """

    origin: str
    model: str
    task: str
    data: DataSpec
    output: str
    selection: SelectionSpec = field(default_factory=SelectionSpec)
    mode: str = "select"
    layers: Mapping[str, Any] = field(default_factory=dict)
    train_also: tuple[str, ...] | None = None
    learning_rate: float | None = None
    full_learning_rate: float | None = None
    head_first: int | None = None
    head_last: int | None = None
    keep_change: float | None = None
    noise: Mapping[str, Any] | None = None
    guards: tuple[GuardSpec, ...] | str = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    compare: bool = True
    lines: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def where(self, *keys: str) -> str:
        """The place of a key in words, as errors begin: ``recipe.yaml:7: data.train``."""
        for end in range(len(keys), 0, -1):
            found = self.lines.get(".".join(keys[:end]))
            if found:
                return found
        return f"{self.origin}: {'.'.join(keys)}" if keys else self.origin

    def to_yaml(self, path: Any = None) -> str:
        """The recipe with every setting written out; also written to ``path`` if given."""
        from frog.serial.recipe import recipe_to_yaml
        from frog.serial.whole_file import write_whole

        text = recipe_to_yaml(self)
        if path is not None:
            write_whole(text.encode(), path)
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRate:
    """The learning rate of a run and the sentence that says where it comes from."""

    value: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFit:
    """How a new head is fitted alone: which parameters, how many steps before anything else moves
    and how many at the end, how fast."""

    names: tuple[str, ...]
    steps: int
    rate: float
    last: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes of the main parts of a training step on one device.

    ``activations`` are what a forward pass of one example of ``tokens`` elements keeps for the
    way back, as measured, times the batch; ``transient`` the largest dense gradient that exists
    for a moment. The libraries themselves, the context of a GPU, data and evaluation are not in.
    """

    weights: int
    gradients: int
    optimizer: int
    indices: int
    transient: int
    activations: int
    batch: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        parts = (self.weights, self.gradients, self.optimizer, self.indices, self.transient)
        return sum(parts) + self.activations


@dataclass(frozen=True, slots=True, kw_only=True)
class TunePlan:
    """What a run would do, as ``frog tune --dry-run`` shows it; nothing was written.

    ``head`` is None where no head is fitted alone; ``keep_change`` is the share of the change that
    would be kept, None where the loss at the end says it.
    """

    recipe: Recipe
    plan: Plan
    selection: Selection | None
    trainable: int
    chosen: int
    whole: Mapping[str, int]
    params: int
    rate: LearningRate
    memory: MemoryEstimate
    rows: Mapping[str, int]
    epochs: float
    steps: int
    batch: int
    head: HeadFit | None = None
    keep_change: float | None = 1.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneResult:
    """What a run gave: the task before and after, and what it changed.

    ``before`` and ``after`` map splits to metrics, ``metric`` is the one that the task goes by.
    A larger one is better where ``higher``. ``rows`` counts what each split measured, ``digests``
    say which rows: metrics of unlike ones are not to be compared. ``stopped`` says which guard
    ended the run, "" where none did. ``changed`` counts weights that differ from the start,
    ``trainable`` those that could. ``seconds`` and ``cpu_seconds`` are those of training, the
    latter of this process on all cores; ``memory`` is the peak while training in bytes: allocated
    on the GPU where ``device`` names one, else resident in the whole process; NaN where the system
    does not tell. ``delta_bytes`` is the size of the file of what changed. ``head`` says how a new
    head was fitted alone, ``keep_change`` the share of the change that was kept.
    """

    output: str
    model: str
    task: str
    metric: str
    before: Mapping[str, Mapping[str, float]]
    after: Mapping[str, Mapping[str, float]]
    trainable: int
    changed: int
    params: int
    steps: int
    seconds: float
    rate: LearningRate
    head: HeadFit | None = None
    keep_change: float = 1.0
    resumed_at: int = 0
    stopped: str = ""
    alarms: int = 0
    mode: str = "select"
    higher: bool = True
    rows: Mapping[str, int] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    cpu_seconds: float = NAN
    memory: float = NAN
    device: str = ""
    delta_bytes: int = 0
    verdict: str = ""
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
