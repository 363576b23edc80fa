"""Labels of a classification: their names, their order, and the head that they fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frog.errors import UnknownName, UsageError
from frog.types.recipes import Recipe


def label_names(splits: Mapping[str, Any], recipe: Recipe, config: Any) -> tuple[str, ...]:
    """Names of the labels in the order of the model's outputs.

    Those of ``data.labels``; else those of the data set; else those that the model's head has,
    where the training rows have no others; else those of the training rows, sorted.
    """
    spec = recipe.data
    feature = splits["train"].features[spec.label]
    found = {_name(x, feature, recipe, n) for n, x in enumerate(splits["train"][spec.label])}
    if len(found) < 2 and not spec.labels:
        raise UsageError(
            f"{recipe.where('data', 'label')}: column '{spec.label}' must hold at least 2 labels, "
            f"got {', '.join(sorted(found))} alone"
        )
    if spec.labels:
        names = spec.labels
    elif hasattr(feature, "names"):
        names = tuple(feature.names)
    elif found <= set(_own_names(config)):
        names = _own_names(config)
    elif all(x.isdecimal() for x in found):
        names = tuple(str(i) for i in range(max(map(int, found)) + 1))
        if len(names) > 10 * len(found):
            raise UsageError(
                f"{recipe.where('data', 'label')}: labels that are numbers must count from 0, got "
                f"{len(found)} labels up to {names[-1]}: name them with data.labels"
            )
    else:
        names = tuple(sorted(found))
    return names


def encoded(
    rows: Any, names: tuple[str, ...], recipe: Recipe, split: str, train_feature: Any
) -> list[int]:
    """The labels of a split as places in ``names``."""
    column = recipe.data.label
    place = {name: i for i, name in enumerate(names)}
    made = []
    for number, value in enumerate(rows[column]):
        name = _name(value, train_feature, recipe, number)
        if name not in place:
            unknown = UnknownName("label", name, names)
            raise UsageError(f"{recipe.where('data', split)}: row {number + 1}: {unknown}")
        made.append(place[name])
    return made


def head_settings(names: tuple[str, ...]) -> dict[str, Any]:
    """What ``from_pretrained`` is told of the labels."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "ignore_mismatched_sizes": True,
    }


def trained_head(
    names: tuple[str, ...], config: Any, new: tuple[str, ...], head: tuple[str, ...]
) -> tuple[str, ...]:
    """The parameters of the head that must train: new ones, and one that was for other labels."""
    return new if new or names == _own_names(config) else head


def _own_names(config: Any) -> tuple[str, ...]:
    return tuple(str(x) for _, x in sorted((getattr(config, "id2label", None) or {}).items()))


def _name(value: Any, feature: Any, recipe: Recipe, number: int) -> str:
    """A label as a text: names, whole numbers, true and false."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and hasattr(feature, "int2str"):
        return feature.int2str(value)
    if isinstance(value, int) or (isinstance(value, str) and value):
        return str(value)
    raise UsageError(
        f"{recipe.where('data', 'label')}: column '{recipe.data.label}' must hold texts or whole "
        f"numbers, row {number + 1} has {value!r}"
    )
