"""Models, tokenizers and image processors from a folder or the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from frog.errors import ModelError, UsageError
from frog.recipes.rows import need
from frog.types.recipes import Recipe


def origin_of(model: str) -> dict[str, Any]:
    """How transformers is told where a model is: a folder is never looked for in the network."""
    if Path(model).exists():
        return {"pretrained_model_name_or_path": model, "local_files_only": True}
    name, _, revision = model.partition("@")
    return {"pretrained_model_name_or_path": name, "revision": revision or "main"}


def load_model(recipe: Recipe, kind: str, **settings: Any) -> tuple[Any, tuple[str, ...]]:
    """A model of the class ``kind`` of transformers, and the parameters that are new to it.

    New ones are drawn by the recipe's seed. Raises :class:`~frog.errors.ModelError` for what
    cannot be loaded, holds NaN or infinite weights, or lacks most of its weights.
    """
    transformers = need("transformers")
    need("accelerate")
    transformers.set_seed(int(recipe.training.get("seed", 0)))
    with _told(recipe):
        model, info = getattr(transformers, kind).from_pretrained(
            **origin_of(recipe.model), **settings, dtype=recipe.dtype, output_loading_info=True
        )
    mismatched = {x[0] for x in info["mismatched_keys"]}
    new = tuple(n for n, _ in model.named_parameters() if n in {*info["missing_keys"], *mismatched})
    _check_finite(model, recipe, new)
    lost = sum(x.numel() for n, x in model.named_parameters() if n in new)
    if lost > sum(x.numel() for x in model.parameters()) / 2:
        raise ModelError(
            f"{recipe.where('model')}: {recipe.model} lacks most weights of a "
            f"{type(model).__name__} (the first: {new[0]}): it holds another kind of model"
        )
    return model, new


def load_config(recipe: Recipe) -> Any:
    """The configuration of the recipe's model."""
    transformers = need("transformers")
    with _told(recipe):
        return transformers.AutoConfig.from_pretrained(**origin_of(recipe.model))


def load_tokenizer(recipe: Recipe) -> Any:
    """The tokenizer of the recipe's model; one without a padding token pads with its end."""
    transformers = need("transformers")
    with _told(recipe, "tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(**origin_of(recipe.model))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{recipe.where('model')}: the tokenizer of {recipe.model} has neither a padding token "
            "nor an end token: add one and save it again"
        )
    return tokenizer


def length_of(recipe: Recipe, tokenizer: Any, config: Any, most: int) -> int:
    """``max_length`` of the recipe, else what tokenizer and positions allow, at most ``most``."""
    places = getattr(config, "max_position_embeddings", None) or most
    asked = recipe.data.max_length
    if asked is not None and asked > places:
        raise UsageError(
            f"{recipe.where('data', 'max_length')}: must be at most the {places} positions of the "
            f"model, got {asked}"
        )
    return asked or min(places, tokenizer.model_max_length, most)


def head_of(model: Any) -> tuple[str, ...]:
    """The parameters that lie outside the body of a model."""
    prefix = f"{model.base_model_prefix}."
    return tuple(n for n, _ in model.named_parameters() if not n.startswith(prefix))


@contextmanager
def _told(recipe: Recipe, what: str = "model") -> Iterator[None]:
    """Errors of loading become :class:`~frog.errors.ModelError`, with place and model."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError) as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{recipe.where('model')}: the {what} of {recipe.model} cannot be loaded: "
            f"{words.rstrip(': ')}{_advice(recipe, what, words)}"
        ) from error


def _advice(recipe: Recipe, what: str, words: str) -> str:
    """What to do about a model that cannot be loaded."""
    model = recipe.model
    if not Path(model).exists():
        return f" (there is no folder '{model}' beside the recipe, so it is taken for a hub id)"
    if what == "tokenizer":
        return f": {model} must hold the files of a tokenizer, as save_pretrained writes them"
    if "Unrecognized configuration class" in words:
        return f": it is no model for the task {recipe.task}"
    return ""


def _check_finite(model: Any, recipe: Recipe, new: tuple[str, ...]) -> None:
    for name, parameter in model.named_parameters():
        if name in new or not parameter.is_floating_point():
            continue
        # a slab at a time: the check must not cost a copy of the weight
        bad = sum(int((~torch.isfinite(x)).sum()) for x in parameter.data.view(-1).split(1 << 20))
        if bad:
            raise ModelError(
                f"{recipe.where('model')}: {name} {tuple(parameter.shape)} of {recipe.model} holds "
                f"{bad} NaN or infinite weights: mend the model before tuning it"
            )
