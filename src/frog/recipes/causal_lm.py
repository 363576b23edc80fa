"""Causal language models: plain text, prompts with completions, chats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from frog.errors import ModelError, UsageError
from frog.recipes.models import length_of, load_config, load_model, load_tokenizer
from frog.recipes.rows import load_splits, need, texts
from frog.recipes.scoring import perplexity
from frog.recipes.task import Prepared, task
from frog.types.recipes import Recipe

LONGEST = 1024
IGNORED = -100
"""The label of a token whose loss does not count."""

Coded = tuple[list[int], list[bool]]
"""Token ids of a row, and which of them count."""


@task(
    "causal-lm",
    keys=("text", "messages", "prompt", "completion", "loss_on", "pack", "max_length"),
    metrics=("perplexity", "token_loss"),
    defaults={
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_train_epochs": 1.0,
    },
)
def causal_lm(recipe: Recipe) -> Prepared:
    """The next token of plain text, of completions of prompts, or of a chat's answers."""
    form = _form(recipe)
    columns = {
        "text": {"text": (recipe.data.text or ("text",))[0]},
        "messages": {"messages": recipe.data.messages},
        "prompt": {"prompt": recipe.data.prompt, "completion": recipe.data.completion},
    }[form]
    rows = load_splits(recipe, columns)
    config, tokenizer = load_config(recipe), load_tokenizer(recipe)
    length = length_of(recipe, tokenizer, config, LONGEST)
    if length < 2:
        raise UsageError(f"{recipe.where('data', 'max_length')}: must be at least 2, got {length}")
    read = {"text": _plain, "messages": _chats, "prompt": _completions}[form]
    splits, notes = {}, []
    for split, given in rows.items():
        coded = list(read(given, tokenizer, recipe, split))
        if form == "text" and recipe.data.pack:
            coded = _packed(coded, length)
        kept = [(ids[:length], mask[:length]) for ids, mask in coded if any(mask[1:length])]
        cut = sum(len(ids) > length for ids, _ in coded)
        if not kept:
            place = recipe.where("data", split)
            raise UsageError(f"{place}: no row has a token that counts within {length} tokens")
        if cut:
            notes.append(f"{cut:,} of {len(coded):,} {split} rows are cut at {length} tokens")
        if len(kept) < len(coded):
            left = len(coded) - len(kept)
            notes.append(f"{left:,} {split} rows without a token that counts are left out")
        splits[split] = _rows(kept)
    model, new = load_model(recipe, "AutoModelForCausalLM")
    if new:
        raise ModelError(
            f"{recipe.where('model')}: {recipe.model} lacks {new[0]}: it was not saved as a "
            "language model"
        )
    transformers = need("transformers")
    return Prepared(
        model=model,
        processor=tokenizer,
        splits=splits,
        collate=transformers.DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        metrics=lambda x: perplexity(x.predictions, np.asarray(x.label_ids)[:, 1:] != IGNORED),
        reduce=token_losses,
        metric="perplexity",
        higher=False,
        notes=tuple(notes),
    )


def token_losses(logits: Any, labels: Tensor) -> Tensor:
    """Loss of every token but the first, (N, T - 1); 0 where the label does not count."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    return nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2),
        labels[:, 1:],
        reduction="none",
        ignore_index=IGNORED,
    )


def _form(recipe: Recipe) -> str:
    """``text``, ``messages`` or ``prompt``: by the columns that the recipe names."""
    spec = recipe.data
    named = [key for key in ("text", "messages", "prompt") if getattr(spec, key)]
    if len(named) > 1:
        raise UsageError(
            f"{recipe.where('data', named[1])}: must not stand beside data.{named[0]}: keep one"
        )
    if bool(spec.prompt) != bool(spec.completion):
        there, missing = ("prompt", "completion") if spec.prompt else ("completion", "prompt")
        raise UsageError(f"{recipe.where('data', there)}: needs data.{missing} beside it")
    if len(spec.text) > 1:
        raise UsageError(f"{recipe.where('data', 'text')}: must be one column, got {spec.text}")
    form = named[0] if named else "text"
    fits = {"text": ("auto", "all"), "messages": ("auto", "all", "assistant"),
            "prompt": ("auto", "all", "completion")}[form]  # fmt: skip
    if spec.loss_on not in fits:
        raise UsageError(
            f"{recipe.where('data', 'loss_on')}: must be one of {', '.join(fits)} for rows of "
            f"{form}, got '{spec.loss_on}'"
        )
    return form


def _plain(rows: Any, tokenizer: Any, recipe: Recipe, split: str) -> Iterator[Coded]:
    column = (recipe.data.text or ("text",))[0]
    coded = tokenizer(texts(rows, column, recipe, split), truncation=False, verbose=False)
    for ids in coded["input_ids"]:
        ended = _ended(ids, tokenizer)
        yield ended, [True] * len(ended)


def _completions(rows: Any, tokenizer: Any, recipe: Recipe, split: str) -> Iterator[Coded]:
    spec = recipe.data
    prompts = texts(rows, spec.prompt, recipe, split)
    answers = texts(rows, spec.completion, recipe, split)
    for prompt, answer in zip(prompts, answers, strict=True):
        before = _without_end(tokenizer(prompt, verbose=False)["input_ids"], tokenizer)
        after = tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
        after = _ended(after, tokenizer)
        yield before + after, [spec.loss_on == "all"] * len(before) + [True] * len(after)


def _chats(rows: Any, tokenizer: Any, recipe: Recipe, split: str) -> Iterator[Coded]:
    spec = recipe.data
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            f"{recipe.where('data', 'messages')}: the tokenizer of {recipe.model} has no chat "
            "template: use a chat model, or rows of prompt and completion"
        )
    for number, messages in enumerate(rows[spec.messages]):
        place = f"{recipe.where('data', split)}: row {number + 1}"
        _check_messages(messages, spec.messages, place)
        # a table fills keys that a message lacks with null
        plain = [{k: v for k, v in x.items() if v is not None} for x in messages]
        try:
            if spec.loss_on == "all":
                ids = _templated(tokenizer, plain)
                yield ids, [True] * len(ids)
            else:
                yield _answers(tokenizer, plain, place)
        except UsageError:
            raise
        except Exception as error:  # a template is code of the model's, with errors of its own
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"{place}: the chat template refuses it: {reason}") from None


def _answers(tokenizer: Any, messages: list[dict[str, Any]], place: str) -> Coded:
    """Ids of a chat, and which of them the assistant says.

    A template that marks its answers ({% generation %}) is asked; else a chat is built up message
    by message, and what each answer adds after its opening counts.
    """
    if "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template:
        coded = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return list(coded["input_ids"]), [bool(x) for x in coded["assistant_masks"]]
    ids = _templated(tokenizer, messages)
    mask = [False] * len(ids)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        # of a chat that the assistant opens, the opening counts too: nothing tells it apart
        start = _templated(tokenizer, messages[:i], add_generation_prompt=True) if i else []
        end = _templated(tokenizer, messages[: i + 1])
        if ids[: len(end)] != end or end[: len(start)] != start:
            raise UsageError(
                f"{place}: the chat template does not build up message by message, so that the "
                "answers cannot be told: mark them in the template with {% generation %}, or set "
                "loss_on: all"
            )
        mask[len(start) : len(end)] = [True] * (len(end) - len(start))
    return ids, mask


def _templated(tokenizer: Any, messages: list[dict[str, Any]], **settings: Any) -> list[int]:
    coded = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **settings)
    return list(coded["input_ids"])


def _check_messages(messages: Any, column: str, place: str) -> None:
    sound = isinstance(messages, list) and messages
    if not sound or not all(
        isinstance(x, dict) and isinstance(x.get("role"), str) and x.get("content") is not None
        for x in messages
    ):
        raise UsageError(
            f"{place}: column '{column}' must hold lists of messages with role and content"
        )


def _ended(ids: list[int], tokenizer: Any) -> list[int]:
    end = tokenizer.eos_token_id
    return list(ids) if end is None or (ids and ids[-1] == end) else [*ids, end]


def _without_end(ids: list[int], tokenizer: Any) -> list[int]:
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else list(ids)


def _packed(coded: Sequence[Coded], length: int) -> list[Coded]:
    """All rows in one line, cut into pieces of ``length``; a rest of one token is dropped."""
    line = [token for ids, _ in coded for token in ids]
    pieces = [line[start : start + length] for start in range(0, len(line), length)]
    return [(piece, [True] * len(piece)) for piece in pieces if len(piece) > 1]


def _rows(coded: Sequence[Coded]) -> Any:
    import datasets

    return datasets.Dataset.from_dict(
        {
            "input_ids": [ids for ids, _ in coded],
            "attention_mask": [[1] * len(ids) for ids, _ in coded],
            "labels": [
                [token if counts else IGNORED for token, counts in zip(ids, mask, strict=True)]
                for ids, mask in coded
            ],
        }
    )
