"""Small models, tokenizers and files of rows for tests of recipes; all made here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

WORDS = {0: ["dreadful", "boring", "awful"], 1: ["wonderful", "moving", "superb"]}
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}"
)


def byte_tokenizer(template: str | None = None) -> Any:
    """A tokenizer of bytes with 259 tokens."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer


def save_bert(folder: Path, *, kind: str = "BertModel", **more: Any) -> Path:
    """A BERT of two layers with its tokenizer; no head unless ``kind`` has one."""
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=259, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=96, max_position_embeddings=64, pad_token_id=0,
        hidden_dropout_prob=0.1, **more,
    )  # fmt: skip
    getattr(transformers, kind)(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def save_llama(folder: Path, template: str | None = None) -> Path:
    """A Llama of two layers with its tokenizer."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=259, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, intermediate_size=96, max_position_embeddings=64,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer(template).save_pretrained(folder)
    return folder


def save_vit(folder: Path, *, labels: int = 2) -> Path:
    """A ViT of two layers for images of 16 x 16, without an image processor."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        image_size=16, patch_size=8, num_labels=labels,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def reviews(count: int) -> list[dict[str, Any]]:
    """Texts whose label is in a word."""
    draw = np.random.default_rng(0)
    rows = []
    for i in range(count):
        label = i % 2
        word = WORDS[label][draw.integers(3)]
        rows.append({"text": f"a {word} film {draw.integers(100)}", "label": label})
    return rows


def recipe_of(model: Path, data: Path, output: Path, /, **more: Any) -> dict[str, Any]:
    """A recipe for text classification, as a mapping; ``more`` replaces sections."""
    plain = {
        "version": 1,
        "model": str(model),
        "task": "text-classification",
        "data": {"train": str(data), "validation_share": 0.25},
        "output": str(output),
        "selection": {"budget": "5%"},
        "learning_rate": 0.01,
        "training": {"max_steps": 4, "per_device_train_batch_size": 4, "use_cpu": True},
        "compare": False,
    }
    return plain | more
