"""What may stand where in a recipe, as pydantic models: one class for each section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from frog.serial.yaml_values import Regex, as_list

SHARED_DATA = ("train", "validation", "test", "old", "validation_share", "header", "limit")
"""Keys of ``data`` that every task takes."""


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _as_source(value: Any) -> Any:
    """A source may be given by its file or id alone."""
    return {"file": value} if isinstance(value, str) else value


def _as_limits(value: Any) -> Any:
    """One number bounds every split."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"train": value, "validation": value, "test": value, "old": value}
    return value


def _as_rate(value: Any) -> Any:
    if isinstance(value, str) and value != "auto":
        raise ValueError("must be auto or a number above 0")
    return None if value == "auto" else value


def _as_steps(value: Any) -> Any:
    if isinstance(value, str) and value != "auto":
        raise ValueError("must be auto or a number of steps (0: none)")
    return None if value == "auto" else value


def _as_part(value: Any) -> Any:
    if isinstance(value, str) and value != "auto":
        raise ValueError("must be auto or a number above 0 and at most 1")
    return None if value == "auto" else value


def _as_rates(value: Any) -> Any:
    """Rates by layer may be given by the name of the mapping, or by true."""
    if value in (False, "none"):
        return None
    if value is True:
        return {}
    return {"kind": value} if isinstance(value, str) else value


def _as_noise(value: Any) -> Any:
    """Noise may be given by its size alone; ``none`` is none."""
    if value in ("none", False) or (value == 0 and not isinstance(value, dict)):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"nu": value}
    if not isinstance(value, dict):
        raise ValueError("must be none, a number or a mapping such as {nu: 0.01}")
    return value


def _as_guards(value: Any) -> Any:
    """``auto``, ``none``, one name, or a list of names and of mappings name -> settings."""
    if value in (None, "none", False):
        return []
    if value == "auto":
        return value
    if isinstance(value, str):
        value = [value]
    if isinstance(value, dict):
        value = [{name: settings} for name, settings in value.items()]
    if not isinstance(value, list):
        raise ValueError("must be auto, none, or a list of names")
    made = []
    for guard in value:
        guard = {guard: None} if isinstance(guard, str) else guard
        if not isinstance(guard, dict) or not all(
            isinstance(k, str) and (v is None or isinstance(v, dict)) for k, v in guard.items()
        ):
            raise ValueError("must hold names, or mappings such as health: {every: 50}")
        made.append(guard)
    return made


Word = Annotated[str, AfterValidator(_filled)]
Words = Annotated[list[Word], BeforeValidator(as_list), Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Part = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A mapping in which no other key may stand, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Source(Section):
    """A file, or a split of a data set of the hub."""

    file: Word | None = None
    id: Word | None = None
    config: Word | None = None
    split: Word | None = None

    @model_validator(mode="after")
    def _one(self) -> Source:
        if (self.file is None) == (self.id is None):
            raise ValueError("must have either file or id")
        return self


class Limits(Section):
    """Most rows of each split."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None
    old: Count | None = None


Given = Annotated[Source, BeforeValidator(_as_source)]


class Data(Section):
    """Where the rows come from, and what their columns mean."""

    train: Given
    validation: Given | None = None
    test: Given | None = None
    old: Given | None = None
    validation_share: Share = 0.0
    header: Words | None = None
    text: Words | None = None
    label: Word | None = None
    labels: Annotated[list[Word], Field(min_length=2)] | None = None
    pair: Annotated[list[Word], Field(min_length=2, max_length=2)] | None = None
    score: Word | None = None
    score_range: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = None
    messages: Word | None = None
    prompt: Word | None = None
    completion: Word | None = None
    image: Word | None = None
    loss_on: Literal["auto", "all", "assistant", "completion"] | None = None
    pack: bool | None = None
    max_length: Count | None = None
    limit: Annotated[Limits | None, BeforeValidator(_as_limits)] = None

    @model_validator(mode="after")
    def _ranges(self) -> Data:
        if self.score_range is not None and not self.score_range[0] < self.score_range[1]:
            raise ValueError("score_range must rise, such as [0, 5]")
        return self


class Rates(Section):
    """Learning rates by layer: what ``frog.layer_rates`` takes."""

    kind: Word | None = None
    strength: Number | None = None
    tau: Number | None = None


class Selection(Section):
    """Which weights train."""

    budget: float | int | str = 0.01
    rule: Word = "auto"
    knobs: dict[str, Number] = {}
    floor: Share = 0.0
    cap: Annotated[float, Field(gt=0, le=1)] = 1.0
    score: Word = "auto"
    granularity: Literal["element", "row", "column", "block"] = "element"
    block_size: Annotated[list[Count], Field(min_length=2, max_length=2)] = [16, 16]
    include: Regex | None = None
    exclude: Regex | None = None
    roles: Words | None = None
    rank: Natural | None = None
    protect: Natural = 0
    protect_strength: Number = 1.0
    keep: Literal["all", "nonzero"] = "all"
    bits: Annotated[int, Field(ge=1, le=8)] = 4
    group: Count | Literal["row"] = 64
    gradient_batches: Count = 4
    layer_rates: Annotated[Rates | None, BeforeValidator(_as_rates)] = None
    seed: Natural | None = None
    plan: Word | None = None
    selection: Word | None = None
    report: Word | None = None


class Layers(Section):
    """Training by whole layers that are drawn by turns."""

    active: Count | None = None
    every: Count | None = None
    by: Word | None = None
    temperature: Number | None = None
    unit: Word | None = None
    always: Annotated[list[Regex], BeforeValidator(as_list)] | None = None


class Noise(Section):
    """Noise on what is not selected, while training: of a size, or that of rounding to bits."""

    nu: Positive | None = None
    bits: Annotated[int, Field(ge=1, le=8)] | None = None
    group: Count | Literal["row"] | None = None
    schedule: Word | None = None
    until: Annotated[float, Field(gt=0, le=1)] | None = None
    draw: Word | None = None
    guide: Word | None = None

    @model_validator(mode="after")
    def _size(self) -> Noise:
        if self.nu is None and self.bits is None:
            raise ValueError("must have nu or bits, such as {nu: 0.01} or {bits: 4}")
        if self.bits is None and self.group is not None:
            raise ValueError("group is for bits: give both, or neither")
        if self.bits is not None and self.guide is not None:
            raise ValueError("guide is for nu alone: with bits, noise follows the rounding error")
        return self


class Document(Section):
    """The whole file."""

    version: Annotated[int, Field(ge=1, le=1)]
    model: Word
    task: Word
    data: Data
    output: Word
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    mode: Literal["select", "layers"] = "select"
    selection: Selection = Selection()
    layers: Layers | None = None
    train_also: Annotated[list[Regex], BeforeValidator(as_list)] | None = None
    learning_rate: Annotated[Positive | None, BeforeValidator(_as_rate)] = None
    full_learning_rate: Positive | None = None
    head_first: Annotated[Natural | None, BeforeValidator(_as_steps)] = None
    head_last: Annotated[Natural | None, BeforeValidator(_as_steps)] = None
    keep_change: Annotated[Part | None, BeforeValidator(_as_part)] = None
    noise: Annotated[Noise | None, BeforeValidator(_as_noise)] = None
    guards: Annotated[Any, BeforeValidator(_as_guards)] = []
    training: dict[str, Any] = {}
    compare: bool = True
    made_with: dict[str, Any] = {}


SCHEMA: dict[str, type[BaseModel]] = {
    "": Document,
    "data": Data,
    "data.train": Source,
    "data.validation": Source,
    "data.test": Source,
    "data.old": Source,
    "data.limit": Limits,
    "selection": Selection,
    "selection.layer_rates": Rates,
    "layers": Layers,
    "noise": Noise,
}
"""The section at each place that has keys of its own."""
