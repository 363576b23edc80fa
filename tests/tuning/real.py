"""Real small models and their data, from beside the checkout."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.conftest import shared

TEMPLATE = (
    "{% for m in messages %}{{ '<s>' if loop.first else '' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '</s>' }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
"""A chat of bare turns; only those of the assistant are to be learnt."""


def stories() -> Any:
    """The Llama of 260k parameters."""
    import transformers

    raw = shared("data/stories260k/stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv, vocabulary, length = struct.unpack("7i", raw[:28])
    config = transformers.LlamaConfig(
        hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, vocab_size=abs(vocabulary),
        max_position_embeddings=length, tie_word_embeddings=True, rms_norm_eps=1e-5,
    )  # fmt: skip
    values, place = np.frombuffer(raw, np.float32, offset=28), 0
    wide = dim // heads * kv

    def take(*shape: int) -> torch.Tensor:
        nonlocal place
        size = int(np.prod(shape))
        place += size
        return torch.from_numpy(values[place - size : place].reshape(shape).copy())

    def halves(weight: torch.Tensor, count: int) -> torch.Tensor:
        """Rotary pairs that lie side by side there lie half a head apart here."""
        rows, columns = weight.shape
        apart = weight.view(count, rows // count // 2, 2, columns).transpose(1, 2)
        return apart.reshape(rows, columns)

    names = {"model.embed_tokens.weight": take(abs(vocabulary), dim)}
    parts = [
        ("input_layernorm", (dim,)), ("self_attn.q_proj", (dim, dim)),
        ("self_attn.k_proj", (wide, dim)), ("self_attn.v_proj", (wide, dim)),
        ("self_attn.o_proj", (dim, dim)), ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (hidden, dim)), ("mlp.down_proj", (dim, hidden)),
        ("mlp.up_proj", (hidden, dim)),
    ]  # fmt: skip
    for part, shape in parts:
        for number, weight in enumerate(take(layers, *shape)):
            if "q_proj" in part or "k_proj" in part:
                weight = halves(weight, heads if "q_proj" in part else kv)
            names[f"model.layers.{number}.{part}.weight"] = weight
    names["model.norm.weight"] = take(dim)
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(names, strict=False)
    model.tie_weights()
    return model


def story_tokenizer() -> Any:
    """Its own vocabulary of 512 pieces; a merge for every pair of pieces that is a piece."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers

    raw, pieces, at = shared("data/stories260k/tok512.bin").read_bytes(), [], 4
    while at < len(raw):
        score, size = struct.unpack_from("fi", raw, at)
        pieces.append((raw[at + 8 : at + 8 + size].decode(), score))
        at += 8 + size
    names = ["<unk>", "<s>", "</s>", *(name for name, _ in pieces[3:])]
    known = {name: i for i, name in reversed(list(enumerate(names)))}
    scores = {name: score for name, score in pieces[259:]}
    merges = [
        (name[:cut], name[cut:])
        for name in sorted(scores, key=lambda x: -scores[x])
        for cut in range(1, len(name))
        if name[:cut] in scores and name[cut:] in scores
    ]
    made = Tokenizer(models.BPE(known, merges, byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Prepend(" ")
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token="<unk>", chat_template=TEMPLATE,
    )  # fmt: skip


def plays(count: int) -> list[tuple[str, str]]:
    """The first speeches of Shakespeare's: who speaks, and what is said, on one line."""
    text = shared("data/tinyshakespeare/input.txt").read_text(encoding="utf-8")
    parts = [x.partition(":\n") for x in itertools.islice(text.split("\n\n"), count)]
    return [(who, " ".join(said.split())) for who, _, said in parts]


def sentences(count: int) -> tuple[list[str], list[int]]:
    """The first sentences of SST-2 and whether they praise."""
    lines = shared("data/sst2/train.tsv").read_text(encoding="utf-8").splitlines()[:count]
    pairs = [line.rsplit("\t", 1) for line in lines]
    return [text for text, _ in pairs], [int(label) for _, label in pairs]


def story_batches(count: int, size: int, length: int = 48) -> list[dict[str, torch.Tensor]]:
    """Shakespeare in the pieces of the small Llama."""
    text = " ".join(said for _, said in plays(count * size))
    ids = story_tokenizer()(text, return_tensors="pt")["input_ids"][0]
    ids = ids[: count * size * length].view(count, size, length)
    return [{"input_ids": x, "labels": x.clone()} for x in ids]


def sentence_batches(folder: Path, count: int, size: int) -> list[dict[str, torch.Tensor]]:
    """SST-2 in the pieces of MiniLM."""
    import transformers

    texts, labels = sentences(count * size)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    made = []
    for start in range(0, len(texts), size):
        coded = tokenizer(
            texts[start : start + size], padding=True, truncation=True, max_length=24,
            return_tensors="pt",
        )  # fmt: skip
        made.append({**coded, "labels": torch.tensor(labels[start : start + size])})
    return made


def classifier(folder: Path) -> Any:
    """MiniLM with a fresh head for two classes, without dropout.

    The head is large enough for the encoder to be taught through it while it stays.
    """
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model.classifier.weight.data *= 20
    return model
