"""Text classification: a label for a text, or for two texts together."""

from __future__ import annotations

from typing import Any

from frog.recipes.labels import encoded, head_settings, label_names, trained_head
from frog.recipes.models import head_of, length_of, load_config, load_model, load_tokenizer
from frog.recipes.rows import load_splits, need, texts
from frog.recipes.scoring import classified
from frog.recipes.task import Prepared, task
from frog.types.recipes import Recipe

LONGEST = 512


@task(
    "text-classification",
    keys=("text", "label", "labels", "max_length"),
    metrics=("accuracy", "f1"),
    defaults={"per_device_train_batch_size": 16, "per_device_eval_batch_size": 32},
)
def text_classification(recipe: Recipe) -> Prepared:
    """A label for each text, or for two texts together (text: [premise, hypothesis])."""
    columns = recipe.data.text or ("text",)
    spec = {f"text{i}" if i else "text": name for i, name in enumerate(columns)}
    rows = load_splits(recipe, {**spec, "label": recipe.data.label})
    config, tokenizer = load_config(recipe), load_tokenizer(recipe)
    names = label_names(rows, recipe, config)
    length = length_of(recipe, tokenizer, config, LONGEST)
    feature = rows["train"].features[recipe.data.label]
    splits, cut = {}, 0
    for split, given in rows.items():
        coded = tokenizer(
            *(texts(given, name, recipe, split) for name in columns),
            truncation=True, max_length=length,
        )  # fmt: skip
        labels = encoded(given, names, recipe, split, feature)
        splits[split] = _rows(coded, labels)
        cut += sum(len(x) >= length for x in coded["input_ids"])
    model, new = load_model(recipe, "AutoModelForSequenceClassification", **head_settings(names))
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    transformers = need("transformers")
    return Prepared(
        model=model,
        processor=tokenizer,
        splits=splits,
        collate=transformers.DataCollatorWithPadding(tokenizer),
        metrics=lambda x: classified(_logits(x.predictions), x.label_ids),
        new=trained_head(names, config, new, head_of(model)),
        head=head_of(model),
        metric="accuracy",
        notes=(f"{cut:,} texts fill max_length {length}: what is longer was cut",) if cut else (),
    )


def _rows(coded: Any, labels: list[int]) -> Any:
    import datasets

    return datasets.Dataset.from_dict({**coded, "labels": labels})


def _logits(predictions: Any) -> Any:
    """Logits alone: some models give hidden states besides."""
    return predictions[0] if isinstance(predictions, tuple) else predictions
