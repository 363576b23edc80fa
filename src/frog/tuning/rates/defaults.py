"""The learning rate of full tuning where none is told: by kind of model, size and optimizer.

What the field uses, rounded: starting points, not optima. Sources: docs/learning-rate.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from frog.errors import UsageError
from frog.weights.module import BESIDE

ENCODERS = frozenset({
    "albert", "bert", "camembert", "canine", "convbert", "data2vec-text", "deberta", "deberta-v2",
    "distilbert", "electra", "ernie", "esm", "eurobert", "flaubert", "funnel", "gte", "ibert",
    "jina_embeddings_v3", "layoutlm", "longformer", "luke", "mobilebert", "modernbert", "mpnet",
    "mra", "nezha", "nomic_bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert",
    "squeezebert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod", "yoso",
})  # fmt: skip
"""``model_type`` of encoders of text in transformers; other models of text are decoders."""

Sizes = tuple[tuple[float, float], ...]
FULL: dict[str, Sizes] = {
    # (parameters below, rate): AdamW
    "encoder": ((50e6, 1e-4), (200e6, 5e-5), (math.inf, 2e-5)),
    "decoder": ((50e6, 5e-4), (500e6, 5e-5), (3e9, 2e-5), (math.inf, 1e-5)),
    "encoder-decoder": ((math.inf, 1e-4),),
    "vision transformer": ((50e6, 1e-4), (math.inf, 5e-5)),
    "conv net": ((2e6, 1e-3), (50e6, 3e-4), (math.inf, 1e-4)),
    "audio": ((math.inf, 3e-5),),
    "other": ((50e6, 1e-4), (math.inf, 5e-5)),
}
"""Kind of model -> rate of full tuning with AdamW, by number of parameters."""

FAMILIES = {"adam": 1.0, "lion": 0.2, "sgd": 100.0}
"""Family of optimizers -> its rate for full tuning over AdamW's."""

ALSO = 10.0
"""Rate of parameters that train whole (a new head) over that of full tuning."""

_WORDS = (
    ("adam", "adam"), ("lamb", "adam"), ("rmsprop", "adam"), ("adagrad", "adam"),
    ("adafactor", "adam"), ("adopt", "adam"), ("ademamix", "adam"), ("lion", "lion"),
    ("sgd", "sgd"),
)  # fmt: skip
_OWN_RATE = ("prodigy", "dadapt", "dadam", "lbfgs", "rprop", "adadelta")


def family_of(cls: Callable[..., Any], told: bool) -> tuple[str, str]:
    """Family and name of an optimizer class; an unknown one is as Adam where the full rate is told.

    Raises :class:`~frog.errors.UsageError` for an optimizer that finds its own rate, and for an
    unknown one without a told rate of full tuning.
    """
    cls = getattr(cls, "func", cls)  # functools.partial
    name = getattr(cls, "__name__", type(cls).__name__)
    small = name.lower().replace("_", "")
    if any(word in small for word in _OWN_RATE):
        raise UsageError(
            f"lr must be a number for {name}, which finds its own rate or counts it in other "
            "units: give the one that its paper recommends"
        )
    for word, family in _WORDS:
        if word in small:
            return family, name
    if told:
        return "adam", name
    raise UsageError(
        f"lr='auto' knows optimizers like {', '.join(FAMILIES)}, got {name}: give lr as a number, "
        "or the rate of full tuning with it first, tuner.rate(full=...)"
    )


def full_rate(model: nn.Module, family: str) -> tuple[float, str]:
    """Rate of full tuning for this model and family of optimizers, and where it comes from."""
    kind = kind_of(model)
    size = sum(x.numel() for x in model.parameters() if not hasattr(x, BESIDE))
    rate = next(rate for below, rate in FULL[kind] if size < below)
    return rate * FAMILIES[family], f"default for full tuning, {kind} of {size / 1e6:.3g}M"


def kind_of(model: nn.Module) -> str:
    """The kind of a model, a key of :data:`FULL`.

    Of a model of transformers, or one that holds such, by its configuration; else ``conv net``
    where most weights are those of convolutions, or ``other``.
    """
    convolved = _convolved(model)
    parts = [x for x in model.modules() if hasattr(getattr(x, "config", None), "model_type")]
    if not parts:
        return "conv net" if convolved else "other"
    part: Any = parts[0]  # the outermost: its parts have configurations of their own
    given = getattr(part, "main_input_name", "input_ids")
    if given == "pixel_values":
        attends = hasattr(part.config, "num_attention_heads") or hasattr(part.config, "num_heads")
        return "conv net" if convolved and not attends else "vision transformer"
    if given in ("input_values", "input_features"):
        return "audio"
    if getattr(part.config, "is_encoder_decoder", False):
        return "encoder-decoder"
    return "encoder" if part.config.model_type in ENCODERS else "decoder"


def _convolved(model: nn.Module) -> bool:
    """Whether most weights in matrices are those of convolutions."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    inside = sum(x.weight.numel() for x in model.modules() if isinstance(x, kinds))
    return 2 * inside > sum(x.numel() for x in model.parameters() if x.ndim > 1)
