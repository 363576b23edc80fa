"""Sentence embeddings: pairs of texts that belong together, or that people gave a score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from frog.errors import UsageError
from frog.recipes.models import length_of, load_config, load_model, load_tokenizer
from frog.recipes.rows import load_splits, texts
from frog.recipes.scoring import correlated, retrieved
from frog.recipes.task import Prepared, task
from frog.types.recipes import Recipe

LONGEST = 256
SCALE = 20.0
"""Cosines are multiplied by this before the softmax over a batch, as sentence-transformers does."""

POOLINGS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens",
            "max": "pooling_mode_max_tokens"}  # fmt: skip


@task(
    "sentence-embedding",
    keys=("pair", "score", "score_range", "max_length"),
    metrics=("spearman", "pearson", "accuracy@1", "mrr"),
    defaults={"per_device_train_batch_size": 32, "per_device_eval_batch_size": 64},
)
def sentence_embedding(recipe: Recipe) -> Prepared:
    """Vectors of texts: pairs against the others of a batch, or cosines towards scores."""
    spec = recipe.data
    pair = spec.pair or ("first", "second")
    columns = {"pair": pair[0], "pair.": pair[1]} | ({"score": spec.score} if spec.score else {})
    rows = load_splits(recipe, columns)
    config, tokenizer = load_config(recipe), load_tokenizer(recipe)
    length = length_of(recipe, tokenizer, config, LONGEST)
    splits = {}
    for split, given in rows.items():
        coded = [
            tokenizer(texts(given, name, recipe, split), truncation=True, max_length=length)
            for name in pair
        ]
        scores = _scores(given, recipe, split) if spec.score else None
        splits[split] = _rows(coded, scores)
    if not spec.score and len(splits["train"]) < 2:
        raise UsageError(f"{recipe.where('data', 'train')}: pairs need others: at least 2 rows")
    model, new = load_model(recipe, "AutoModel")
    pooling = pooling_of(recipe)

    def vectors(model: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = {k: v for k, v in batch.items() if k != "score"}
        made = pooled(model(**inputs)[0], inputs["attention_mask"], pooling)
        half = len(made) // 2
        return made[:half], made[half:]

    def loss(model: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        return _loss(*vectors(model, batch), batch.get("score"))

    def predict(model: nn.Module, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        first, second = vectors(model, batch)
        labels = batch.get("score", torch.zeros(len(first), device=first.device))
        return _loss(first, second, batch.get("score")), torch.stack([first, second], 1), labels

    def metrics(given: Any) -> dict[str, float]:
        first, second = given.predictions[:, 0], given.predictions[:, 1]
        if spec.score:
            return correlated(np.sum(first * second, axis=1), given.label_ids)
        return retrieved(first, second)

    return Prepared(
        model=model,
        processor=tokenizer,
        splits=splits,
        collate=_Stack(tokenizer),
        metrics=metrics,
        metric="spearman" if spec.score else "accuracy@1",
        loss=loss,
        predict=predict,
        unused=_unused(model, new),
        files=_files(recipe, pooling, length, config),
    )


def pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Vectors of unit length (N, d) from hidden states (N, T, d), of the tokens in ``mask``.

    >>> pooled(torch.tensor([[[3.0, 4.0], [9.0, 9.0]]]), torch.tensor([[1, 0]]), "mean").tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    seen = mask.unsqueeze(-1).to(hidden.dtype)
    if pooling == "cls":
        made = hidden[:, 0]
    elif pooling == "max":
        made = hidden.masked_fill(seen == 0, float("-inf")).amax(1)
    else:
        made = (hidden * seen).sum(1) / seen.sum(1).clamp(min=1e-9)
    return nn.functional.normalize(made.float(), dim=-1)


def _loss(first: torch.Tensor, second: torch.Tensor, score: torch.Tensor | None) -> torch.Tensor:
    """Cosines towards scores in 0..1, or each pair against the other second texts of the batch."""
    if score is not None:
        return nn.functional.mse_loss((first * second).sum(-1), score)
    logits = SCALE * first @ second.T
    return nn.functional.cross_entropy(logits, torch.arange(len(first), device=first.device))


class _Stack:
    """A batch of pairs: all first texts, then all second ones, padded together."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, rows: Any) -> dict[str, Any]:
        members = [
            {k.removeprefix(side): v for k, v in row.items() if k.startswith(side)}
            for side in ("first_", "second_")
            for row in rows
        ]
        batch = dict(self.tokenizer.pad(members, return_tensors="pt"))
        if "score" in rows[0]:
            batch["score"] = torch.tensor([row["score"] for row in rows], dtype=torch.float32)
        return batch


def _rows(coded: list[Any], scores: list[float] | None) -> Any:
    import datasets

    sides = zip(("first_", "second_"), coded, strict=True)
    columns = {f"{side}{name}": values for side, part in sides for name, values in part.items()}
    return datasets.Dataset.from_dict(columns | ({} if scores is None else {"score": scores}))


def _scores(rows: Any, recipe: Recipe, split: str) -> list[float]:
    """Scores brought from their range to 0..1."""
    low, high = recipe.data.score_range
    made = []
    for number, value in enumerate(rows[recipe.data.score]):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(
                f"{recipe.where('data', 'score')}: column '{recipe.data.score}' must hold numbers, "
                f"row {number + 1} of {split} has {value!r}"
            )
        if not low <= value <= high:
            raise UsageError(
                f"{recipe.where('data', 'score')}: scores must lie in {low:g}..{high:g}, row "
                f"{number + 1} of {split} has {value:g}: set data.score_range, such as [0, 5]"
            )
        made.append((value - low) / (high - low))
    return made


def _unused(model: Any, new: tuple[str, ...]) -> str | None:
    """What no vector depends on: the pooler that classification heads read."""
    pooler = [n for n, _ in model.named_parameters() if n.startswith("pooler.")]
    if any(name not in pooler for name in new):
        first = next(name for name in new if name not in pooler)
        raise UsageError(f"this model lacks {first}: a sentence encoder must be whole")
    return r"(^|\.)pooler\." if pooler else None


def pooling_of(recipe: Recipe) -> str:
    """How the model's own folder pools (sentence-transformers' 1_Pooling), else the mean."""
    path = Path(recipe.model) / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    config = json.loads(path.read_text())
    named = [name for name, key in POOLINGS.items() if config.get(key)]
    named = named or [x for x in POOLINGS if x == config.get("pooling_mode")]
    if len(named) != 1:
        raise UsageError(f"{path}: must pool by one of {', '.join(POOLINGS)} to be tuned")
    return named[0]


def _files(recipe: Recipe, pooling: str, length: int, config: Any) -> dict[str, bytes]:
    """What sentence-transformers needs to load the result: the model's own files, else new ones."""
    folder = Path(recipe.model)
    names = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json",
             "config_sentence_transformers.json")  # fmt: skip
    if (folder / "modules.json").is_file():
        return {x: (folder / x).read_bytes() for x in names if (folder / x).is_file()}
    kind = "sentence_transformers.models."
    parts = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind + name}
        for i, (path, name) in enumerate(parts)
    ]
    modes = {key: name == pooling for name, key in POOLINGS.items()}
    pooler = {"word_embedding_dimension": config.hidden_size, **modes}
    made = (modules, pooler, {"max_seq_length": length, "do_lower_case": False})
    return {name: json.dumps(x, indent=2).encode() for name, x in zip(names[:3], made, strict=True)}
