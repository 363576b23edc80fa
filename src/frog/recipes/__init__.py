"""What a fine-tuning run is made of, by task: rows, model, batches, loss, metrics; the Trainer.

A task is one file with one function ``(recipe) -> Prepared`` under the decorator ``@task``. This
room and :mod:`frog.weights` are the only ones that know transformers; training itself is the
Trainer's.
"""

from frog.recipes import (
    causal_lm,
    image_classification,
    sentence_embedding,
    text_classification,
)
from frog.recipes.task import TASKS, Prepared, Task

__all__ = [
    "TASKS",
    "Prepared",
    "Task",
    "causal_lm",
    "image_classification",
    "sentence_embedding",
    "text_classification",
]
