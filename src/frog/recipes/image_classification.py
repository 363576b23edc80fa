"""Image classification: a label for an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from frog.errors import UsageError
from frog.recipes.labels import encoded, head_settings, label_names, trained_head
from frog.recipes.models import head_of, load_config, load_model
from frog.recipes.pixels import array_of, check_image, processor_of
from frog.recipes.rows import load_splits
from frog.recipes.scoring import classified
from frog.recipes.task import Prepared, task
from frog.types.recipes import Recipe


@task(
    "image-classification",
    keys=("image", "label", "labels"),
    metrics=("accuracy", "f1"),
    defaults={"per_device_train_batch_size": 32, "per_device_eval_batch_size": 64},
)
def image_classification(recipe: Recipe) -> Prepared:
    """A label for each image: a file, bytes in Parquet, or an array."""
    column = recipe.data.image
    rows = load_splits(recipe, {"image": column, "label": recipe.data.label})
    config = load_config(recipe)
    channels = getattr(config, "num_channels", 3)
    names = label_names(rows, recipe, config)
    feature = rows["train"].features[recipe.data.label]
    processor = processor_of(recipe, config)
    splits = {}
    for split, given in rows.items():
        folder = Path(recipe.data.splits.get(split, recipe.data.train).path).parent
        _check(given, column, folder, channels, f"{recipe.where('data', split)}")
        labels = encoded(given, names, recipe, split, feature)
        kept = given.select_columns([column])
        kept = kept if column == "image" else kept.rename_column(column, "image")
        folders = [str(folder)] * len(labels)
        splits[split] = kept.add_column("labels", labels).add_column("folder", folders)
    model, new = load_model(recipe, "AutoModelForImageClassification", **head_settings(names))
    return Prepared(
        model=model,
        processor=processor,
        splits=splits,
        collate=_Collate(processor, channels),
        metrics=lambda x: classified(_logits(x.predictions), x.label_ids),
        new=trained_head(names, config, new, head_of(model)),
        head=head_of(model),
        metric="accuracy",
    )


class _Collate:
    """A batch of pixels and labels; files are opened here, where workers may share the work."""

    def __init__(self, processor: Any, channels: int) -> None:
        self.processor, self.channels = processor, channels

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        images = [array_of(x["image"], Path(x["folder"]), self.channels) for x in rows]
        labels = torch.tensor([x["labels"] for x in rows])
        return {"pixel_values": self.processor(images), "labels": labels}


def _check(rows: Any, column: str, folder: Path, channels: int, place: str) -> None:
    """The first image is opened, of every other file the presence is seen."""
    check_image(rows[0][column], folder, channels, f"{place}: row 1")
    kind = str(rows.features[column])
    if "string" not in kind:
        return
    for number, name in enumerate(rows[column]):
        if not isinstance(name, str) or not (folder / name).is_file():
            raise UsageError(f"{place}: row {number + 1}: no such image file: {folder / str(name)}")


def _logits(predictions: Any) -> Any:
    """Logits alone: some models give hidden states besides."""
    return predictions[0] if isinstance(predictions, tuple) else predictions
