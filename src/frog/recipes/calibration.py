"""A few rows of a file as batches without padding, for a model that transformers loads.

The kinds of rows are those of recipes: texts, images, or tensors that are ready for the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frog.errors import ModelError, UnknownName, UsageError
from frog.recipes.models import length_of, load_config, load_model, load_tokenizer
from frog.recipes.pixels import array_of, processor_of
from frog.recipes.rows import need, read_table
from frog.recipes.sentence_embedding import pooled, pooling_of
from frog.recipes.training import calm
from frog.serial.tensors import read_arrays
from frog.types.level_plans import Calibration
from frog.types.recipes import DataSource, DataSpec, Recipe

KINDS = {
    "causal-lm": "AutoModelForCausalLM",
    "sentence-embedding": "AutoModel",
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
}
"""Tasks that can be calibrated, and the class of transformers that loads their models."""

HEADS = (
    (r"(ForCausalLM|LMHeadModel)$", "causal-lm"),
    (r"ForSequenceClassification$", "text-classification"),
    (r"ForImageClassification$", "image-classification"),
)
LONGEST = {"causal-lm": 256, "sentence-embedding": 128, "text-classification": 128}
TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
TENSORS = (".safetensors", ".npz")
BATCH = 8
COMPARED = 32
"""Positions of a sequence whose logits are compared: all of them would not fit into memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What of a file is read: ``rows`` of them, evenly spaced, ``length`` tokens each at most."""

    task: str | None = None
    column: str | None = None
    rows: int = 64
    length: int | None = None

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in KINDS:
            raise UnknownName("task to calibrate", self.task, KINDS)
        if self.rows < 1:
            raise UsageError(f"rows must be 1 or more, got {self.rows}")
        if self.length is not None and self.length < 2:
            raise UsageError(f"a length must be 2 tokens or more, got {self.length}")


def calibration(model: str, file: Path, asked: Asked) -> Calibration:
    """Load a model and the rows of a file; what its task gives is what is compared.

    Language models give logits (at some positions), sentence encoders unit vectors, classifiers
    logits. Raises :class:`~frog.errors.UsageError` for the file and
    :class:`~frog.errors.ModelError` for the model.
    """
    if not file.is_file():
        raise UsageError(f"{file}: must be a file of rows, there is none")
    ending = file.suffix.lower()
    if ending not in (".txt", *TABLES, *TENSORS):
        raise UsageError(
            f"{file}: must end in one of .txt, {', '.join((*TABLES, *TENSORS))}, got '{ending}'"
        )
    source = DataSpec(train=DataSource(path=str(file)), max_length=asked.length)
    recipe = Recipe(origin="calibration", model=model, task=asked.task or "", data=source,
                    output="")  # fmt: skip
    with calm():
        return _read(recipe, file, asked)


def _read(recipe: Recipe, file: Path, asked: Asked) -> Calibration:
    """A model and rows that are ready for it."""
    ending, model = file.suffix.lower(), recipe.model
    config = load_config(recipe)
    task = asked.task or _task_of(config)
    tensors = _tensors(file, asked) if ending in TENSORS else None
    found = None if tensors is not None else _values(file, task, asked)
    loaded, new = load_model(recipe, KINDS[task])
    if task.endswith("classification") and new:
        raise ModelError(f"{model} lacks {new[0]}: a classifier must have its head to be measured")
    loaded.eval()
    if tensors is not None:
        _check_tensors(tensors, loaded, file)
        batches = list(_split(tensors))
    elif task == "image-classification":
        channels = getattr(config, "num_channels", 3)
        made = processor_of(recipe, config)(_images(found or [], file, channels))
        batches = list(_split({"pixel_values": made}))
    else:
        tokenizer = load_tokenizer(recipe)
        length = length_of(recipe, tokenizer, config, LONGEST[task])
        if task == "causal-lm":
            batches = _windows(found or [], tokenizer, length, asked.rows, file)
        else:
            batches = _equal_lengths(found or [], tokenizer, length)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded.to(device)
    batches = [{k: v.to(device) for k, v in batch.items()} for batch in batches]
    return Calibration(
        batches=batches,
        outputs=_outputs(task, recipe, loaded),
        loss=_loss if task == "causal-lm" else None,
        model=loaded,
        source=str(file),
        task=task,
        tokens=_tokens if task == "causal-lm" else None,
        unused=r"(^|\.)pooler\." if task == "sentence-embedding" else None,
    )


def _task_of(config: Any) -> str:
    names = getattr(config, "architectures", None) or []
    for name in names:
        for pattern, task in HEADS:
            if re.search(pattern, name):
                return task
    return "sentence-embedding"


def _values(file: Path, task: str, asked: Asked) -> list[Any]:
    """The texts or images of a file; for a language model all, else evenly spaced ones."""
    if file.suffix.lower() == ".txt":
        if task == "image-classification":
            raise UsageError(f"{file}: must be a table of images or tensors, got lines of text")
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{file}: must be text in UTF-8, is not ({error.reason})") from None
        if task == "causal-lm":
            found: list[Any] = [text] if text.strip() else []
        else:
            found = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        column = asked.column or ("image" if task == "image-classification" else "text")
        need("pyarrow")
        try:
            table = read_table(file)
        except (ValueError, OSError, UnicodeDecodeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(f"{file} cannot be read: {reason}") from None
        if table.num_columns and column not in table.column_names:
            unknown = UnknownName("column", column, table.column_names)
            raise UsageError(f"{file}: {unknown} (--column names it)")
        found = table.column(column).to_pylist() if table.num_columns else []
        if task != "image-classification":
            for number, value in enumerate(found, 1):
                if not isinstance(value, str):
                    raise UsageError(f"{file}: row {number} must hold a text, got {value!r}")
            found = [x for x in found if x.strip()]
    if not found:
        raise UsageError(f"{file} has no rows: give a few dozen")
    if task == "causal-lm":
        return found
    places = np.linspace(0, len(found) - 1, min(asked.rows, len(found))).round().astype(int)
    return [found[i] for i in places]


def _images(values: Sequence[Any], file: Path, channels: int) -> list[np.ndarray]:
    made = []
    for number, value in enumerate(values, 1):
        try:
            made.append(array_of(value, file.parent, channels))
        except (ValueError, OSError) as error:
            raise UsageError(f"{file}: image {number}: {error}") from None
    return made


def _windows(
    texts: Sequence[str], tokenizer: Any, length: int, rows: int, file: Path
) -> list[dict[str, torch.Tensor]]:
    """Windows of equal length out of all texts in a row, evenly spaced."""
    end = tokenizer.eos_token_id if len(texts) > 1 else None
    line: list[int] = []
    for text in texts:
        line += tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        line += [] if end is None else [end]
    first = tokenizer("", verbose=False)["input_ids"][:1]
    opening = first if first and first[0] == tokenizer.bos_token_id else []
    body = min(length - len(opening), len(line))
    if body < 2:
        raise UsageError(f"{file} must hold at least 2 tokens, got {len(line)}")
    starts = sorted(
        set(np.linspace(0, len(line) - body, min(rows, max(1, len(line) // body))).astype(int))
    )
    ids = torch.tensor([opening + line[start : start + body] for start in starts])
    return list(_split({"input_ids": ids}))


def _equal_lengths(
    texts: Sequence[str], tokenizer: Any, length: int
) -> list[dict[str, torch.Tensor]]:
    """Batches of texts that have the same number of tokens."""
    coded = tokenizer(list(texts), truncation=True, max_length=length)
    names = [name for name in coded if name != "length"]
    by_length: dict[int, list[int]] = {}
    for place, ids in enumerate(coded["input_ids"]):
        by_length.setdefault(len(ids), []).append(place)
    batches = []
    for _, places in sorted(by_length.items()):
        rows = {name: torch.tensor([coded[name][i] for i in places]) for name in names}
        batches += _split(rows)
    return batches


def _tensors(file: Path, asked: Asked) -> dict[str, torch.Tensor]:
    """``input_ids`` or ``pixel_values`` of a file, the first rows of it."""
    try:
        if file.suffix.lower() == ".npz":
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        else:
            arrays = read_arrays(file)
        found = {name: torch.from_numpy(array) for name, array in arrays.items()}
    except Exception as error:  # zip, numpy and safetensors have errors of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{file} cannot be read: {reason}") from None
    known = [name for name in ("input_ids", "pixel_values") if name in found]
    if len(known) != 1:
        raise UsageError(
            f"{file}: must hold either input_ids or pixel_values, got {', '.join(found) or 'none'}"
        )
    values = found[known[0]]
    axes, whole = {"input_ids": (2, True), "pixel_values": (4, False)}[known[0]]
    if values.ndim != axes or 0 in values.shape or values.is_floating_point() == whole:
        form = "whole (rows, tokens)" if whole else "floating (rows, channels, height, width)"
        raise UsageError(
            f"{file}: {known[0]} must be {form}, got {values.dtype} {tuple(values.shape)}"
        )
    if not bool(torch.isfinite(values).all()):
        raise UsageError(f"{file}: {known[0]} must be finite, got NaN or Inf")
    values = values[: asked.rows].long() if whole else values[: asked.rows].float()
    return {known[0]: values}


def _check_tensors(tensors: Mapping[str, torch.Tensor], model: Any, file: Path) -> None:
    ids = tensors.get("input_ids")
    if ids is None:
        if model.main_input_name != "pixel_values":
            raise UsageError(f"{file}: this model takes input_ids, got pixel_values")
        return
    if model.main_input_name != "input_ids":
        raise UsageError(f"{file}: this model takes {model.main_input_name}, got input_ids")
    known = model.get_input_embeddings().num_embeddings
    if int(ids.min()) < 0 or int(ids.max()) >= known:
        raise UsageError(
            f"{file}: input_ids must lie in 0..{known - 1}, got {int(ids.min())} to "
            f"{int(ids.max())}: take this model's own tokenizer"
        )


def _split(rows: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    count = len(next(iter(rows.values())))
    for start in range(0, count, BATCH):
        yield {name: value[start : start + BATCH] for name, value in rows.items()}


def _outputs(task: str, recipe: Recipe, model: Any) -> Callable[[Any, Any], torch.Tensor]:
    if task == "causal-lm":

        def logits_at(model: Any, batch: Any) -> torch.Tensor:
            return model(**batch, use_cache=False).logits[:, _places(batch)]

        return logits_at
    if task == "sentence-embedding":
        pooling = pooling_of(recipe)

        def vectors(model: Any, batch: Any) -> torch.Tensor:
            hidden = model(**batch)[0]
            mask = batch.get("attention_mask")
            mask = torch.ones_like(batch["input_ids"]) if mask is None else mask
            return pooled(hidden, mask, pooling)

        return vectors
    return lambda model, batch: model(**batch).logits


def _places(batch: Any) -> np.ndarray:
    """Positions whose logits are compared: evenly spaced, the last is never one."""
    length = batch["input_ids"].shape[1]
    return np.unique(np.linspace(0, length - 2, min(length - 1, COMPARED)).astype(int))


def _tokens(batch: Any) -> torch.Tensor:
    """(E, P) tokens, of which the one at p + 1 is what the logits at p predict."""
    ids, places = batch["input_ids"], _places(batch)
    return torch.cat([ids[:, :1], ids[:, places[:-1] + 1]], 1)


def _loss(model: Any, batch: Any) -> torch.Tensor:
    return model(**batch, labels=batch["input_ids"], use_cache=False).loss
