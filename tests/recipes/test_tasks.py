"""Each task by itself: rows become batches whose loss and metrics are what they should be."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from frog.api import read_recipe
from frog.api.recipes import prepare
from frog.errors import FrogError, MissingPackage, UsageError
from frog.recipes import Prepared
from frog.recipes.causal_lm import token_losses
from frog.recipes.memory import activations, loss_of
from frog.recipes.pixels import Pixels, array_of
from frog.recipes.rows import need
from frog.recipes.sentence_embedding import pooled
from frog.recipes.training import calm
from tests.recipes.small import (
    CHAT,
    byte_tokenizer,
    recipe_of,
    reviews,
    save_bert,
    save_llama,
    save_vit,
    write_jsonl,
)


def ready(model: Path, data: dict[str, Any], task: str, tmp_path: Path, **more: Any) -> Prepared:
    plain = recipe_of(model, tmp_path, tmp_path / "out") | {"task": task, "data": data} | more
    with calm():
        return prepare(read_recipe(plain))


# -------------------------------------------------------------------------------- rows


def test_every_kind_of_file_gives_the_same_rows(bert: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = reviews(6)
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps(rows))
    with (tmp_path / "c.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "d.tsv").write_text("".join(f"{x['text']}\t{x['label']}\n" for x in rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "e.parquet")
    found = []
    for name in ("a.jsonl", "b.json", "c.csv", "d.tsv", "e.parquet"):
        data = {"train": str(tmp_path / name)}
        if name == "d.tsv":
            data["header"] = ["text", "label"]
        found.append(ready(bert, data, "text-classification", tmp_path).splits["train"][:])
    assert all(x == found[0] for x in found)
    assert found[0]["labels"] == [0, 1, 0, 1, 0, 1]


def test_limits_and_shares_draw_by_the_seed(bert: Path, rows: Path, tmp_path: Path) -> None:
    def lengths(seed: int, **data: Any) -> tuple[dict[str, int], list[list[int]]]:
        made = ready(bert, {"train": str(rows), **data}, "text-classification", tmp_path,
                     training={"seed": seed})  # fmt: skip
        return {k: len(v) for k, v in made.splits.items()}, made.splits["train"]["input_ids"][:]

    sizes, first = lengths(0, validation_share=0.25, limit={"train": 10})
    assert sizes == {"train": 10, "validation": 8}
    assert lengths(0, validation_share=0.25, limit={"train": 10})[1] == first
    assert lengths(1, validation_share=0.25, limit={"train": 10})[1] != first


def test_labels_get_their_names_and_order(tmp_path: Path, bert: Path) -> None:
    words = [{"text": "a", "label": x} for x in ("no", "yes", "maybe")]
    path = write_jsonl(tmp_path / "w.jsonl", words)

    def names(model: Path = bert, **data: Any) -> tuple[dict[int, str], tuple[str, ...]]:
        made = ready(model, {"train": str(path), **data}, "text-classification", tmp_path)
        return made.model.config.id2label, made.new

    assert names()[0] == {0: "maybe", 1: "no", 2: "yes"}
    own, new = names(labels=["yes", "no", "maybe", "never"])
    assert own == {0: "yes", 1: "no", 2: "maybe", 3: "never"}
    assert set(new) == {"classifier.weight", "classifier.bias"}
    head = tmp_path / "head"
    save_bert(head, kind="BertForSequenceClassification", id2label={0: "yes", 1: "no", 2: "maybe"})
    own, new = names(head)
    assert own == {0: "yes", 1: "no", 2: "maybe"} and new == (), "the model's own head fits"
    own, new = names(head, labels=["maybe", "no", "yes"])
    assert set(new) == {"classifier.weight", "classifier.bias"}, "another order: trained anew"
    write_jsonl(path, [{"text": "a", "label": x} for x in (True, False)])
    assert names()[0] == {0: "false", 1: "true"}


def test_two_texts_are_read_together(bert: Path, tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "p.jsonl", [{"a": "one", "b": "two", "label": i % 2} for i in range(4)]
    )
    data = {"train": str(path), "text": ["a", "b"]}
    made = ready(bert, data, "text-classification", tmp_path)
    tokenizer = byte_tokenizer()
    assert made.splits["train"][0]["input_ids"] == tokenizer("one", "two")["input_ids"]


# ---------------------------------------------------------------------- language models


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"), CHAT)


def decoded(made: Prepared, number: int = 0) -> tuple[str, str]:
    """A row as text, and the part of it that counts."""
    row = made.splits["train"][number]
    counted = [x for x in row["labels"] if x != -100]
    return made.processor.decode(row["input_ids"]), made.processor.decode(counted)


def test_plain_text_is_packed_without_losing_a_token(llama: Path, tmp_path: Path) -> None:
    texts = ["once upon a time", "the end", "x" * 100]
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": x} for x in texts])
    data = {"train": str(path), "max_length": 32}
    made = ready(llama, data, "causal-lm", tmp_path)
    line = "".join(f"{x}</s>" for x in texts)
    assert "".join(decoded(made, i)[0] for i in range(len(made.splits["train"]))) == line
    lengths = [len(x) for x in made.splits["train"]["input_ids"]]
    assert lengths[:-1] == [32] * (len(lengths) - 1)
    apart = ready(llama, data | {"pack": False}, "causal-lm", tmp_path)
    assert len(apart.splits["train"]) == 3 and decoded(apart, 1)[0] == "the end</s>"
    assert apart.notes == ("1 of 3 train rows are cut at 32 tokens",)


def test_only_answers_count_in_a_chat(llama: Path, tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"},
        {"role": "user", "content": "5?"}, {"role": "assistant", "content": "yes"},
    ]  # fmt: skip
    path = write_jsonl(tmp_path / "c.jsonl", [{"messages": talk}, {"messages": talk[:1]}])
    data = {"train": str(path), "messages": "messages"}
    made = ready(llama, data, "causal-lm", tmp_path)
    assert decoded(made) == (
        "<s>user 2+2?</s><s>assistant 4</s><s>user 5?</s><s>assistant yes</s>",
        "4</s>yes</s>",
    )
    assert made.notes == ("1 train rows without a token that counts are left out",)
    every = ready(llama, data | {"loss_on": "all"}, "causal-lm", tmp_path)
    assert decoded(every)[0] == decoded(every)[1] and len(every.splits["train"]) == 2


def test_a_template_that_marks_its_answers_is_believed(tmp_path: Path) -> None:
    marked = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}A:{% generation %}"
        "{{ m['content'] }}{% endgeneration %}{% else %}U:{{ m['content'] }}{% endif %};"
        "{% endfor %}"
    )
    model = save_llama(tmp_path / "marked", marked)
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    path = write_jsonl(tmp_path / "c.jsonl", [{"messages": talk}])
    data = {"train": str(path), "messages": "messages"}
    made = ready(model, data, "causal-lm", tmp_path)
    assert decoded(made) == ("U:hi;A:yo;", "yo")


def test_a_template_that_rewrites_the_past_is_refused(tmp_path: Path) -> None:
    odd = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model = save_llama(tmp_path / "odd", odd)
    talk = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    path = write_jsonl(tmp_path / "c.jsonl", [{"messages": talk}])
    data = {"train": str(path), "messages": "messages"}
    with pytest.raises(UsageError, match="row 1: the chat template does not build up"):
        ready(model, data, "causal-lm", tmp_path)
    strict = save_llama(tmp_path / "strict", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(UsageError, match="row 1: the chat template refuses it: roles must alt"):
        ready(strict, data, "causal-lm", tmp_path)


def test_only_completions_count(llama: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [{"q": "2+2=", "a": "4"}])
    data = {"train": str(path), "prompt": "q", "completion": "a"}
    assert decoded(ready(llama, data, "causal-lm", tmp_path)) == ("2+2=4</s>", "4</s>")
    every = ready(llama, data | {"loss_on": "all"}, "causal-lm", tmp_path)
    assert decoded(every)[1] == "2+2=4</s>"


@pytest.mark.parametrize(("data", "told"), [
    ({"prompt": "q"}, "data.prompt: needs data.completion beside it"),
    ({"text": "q", "messages": "m"}, "data.messages: must not stand beside data.text"),
    ({"text": "q", "loss_on": "assistant"}, "data.loss_on: must be one of auto, all"),
    ({"text": ["q", "a"]}, "data.text: must be one column"),
    ({"messages": "q"}, "must hold lists of messages with role and content"),
    ({"text": "q", "max_length": 1}, "max_length: must be at least 2"),
    ({"prompt": "q", "completion": "a", "max_length": 2}, "no row has a token that counts"),
])  # fmt: skip
def test_rows_that_are_no_language(
    llama: Path, tmp_path: Path, data: dict[str, Any], told: str
) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [{"q": "2+2=", "a": "4"}])
    with pytest.raises(UsageError, match="the recipe: ") as error:
        ready(llama, {"train": str(path), **data}, "causal-lm", tmp_path)
    assert told in str(error.value)


def test_a_model_without_a_chat_template(tmp_path: Path) -> None:
    model = save_llama(tmp_path / "plain")
    path = write_jsonl(tmp_path / "c.jsonl", [{"messages": [{"role": "user", "content": "x"}]}])
    with pytest.raises(UsageError, match="has no chat template"):
        ready(model, {"train": str(path), "messages": "messages"}, "causal-lm", tmp_path)


def test_losses_of_tokens_add_up_to_the_models_loss(llama: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [{"q": "2+2=", "a": "4"}, {"q": "1=", "a": "one"}])
    data = {"train": str(path), "prompt": "q", "completion": "a"}
    made = ready(llama, data, "causal-lm", tmp_path)
    (batch,) = made.batches("train", 2, 1)
    with torch.no_grad():
        out = made.model(**batch)
        losses = token_losses(out.logits, batch["labels"])

    class Given:
        predictions, label_ids = losses.numpy(), batch["labels"].numpy()

    told = made.metrics(Given)
    assert told["token_loss"] == pytest.approx(float(out.loss), rel=1e-6)
    assert told["perplexity"] == pytest.approx(float(out.loss.exp()), rel=1e-6)


# -------------------------------------------------------------------------------- images


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vit(tmp_path_factory.mktemp("vit"), labels=7)


def images(folder: Path, count: int = 8) -> Path:
    """Dark and bright images as .npy files, listed in a CSV beside them."""
    draw = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    lines = ["image,label"]
    for i in range(count):
        level = 60 + 130 * (i % 2)
        picture = draw.integers(level - 40, level + 40, (20, 24, 3)).astype(np.uint8)
        np.save(folder / "pictures" / f"{i}.npy", picture)
        lines.append(f"pictures/{i}.npy,{'bright' if i % 2 else 'dark'}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    return folder / "images.csv"


def test_images_become_pixels_of_the_models_size(vit: Path, tmp_path: Path) -> None:
    path = images(tmp_path / "set")
    made = ready(vit, {"train": str(path)}, "image-classification", tmp_path)
    assert made.model.config.id2label == {0: "bright", 1: "dark"}
    assert set(made.new) == {"classifier.weight", "classifier.bias"}, "7 labels became 2"
    rows = made.splits["train"]
    batch = made.collate([rows[0], rows[1]])
    assert batch["pixel_values"].shape == (2, 3, 16, 16) and batch["labels"].tolist() == [1, 0]
    dark, bright = batch["pixel_values"].mean((1, 2, 3)).tolist()
    assert dark == pytest.approx((60 / 255 - 0.5) / 0.5, abs=0.05)
    assert bright == pytest.approx((190 / 255 - 0.5) / 0.5, abs=0.05)
    assert loss_of(made, made.collate([rows[0]])).isfinite()


def test_values_that_are_images_and_those_that_are_not(tmp_path: Path) -> None:
    grey = [[0, 255], [128, 3]]
    assert array_of(grey, tmp_path, 3).shape == (2, 2, 3)
    assert array_of(grey, tmp_path, 1)[0, 1, 0] == 255
    for bad, told in (
        ([[0, 300]], "must lie in 0..255"),
        ([1, 2, 3], "must be (height, width)"),
        ([[[1, 2], [3, 4]]], "must have 3 channels, got 2"),
        ([[1], [2, 3]], ""),
    ):
        with pytest.raises(ValueError) as error:
            array_of(bad, tmp_path, 3)
        assert told in str(error.value)


def test_stored_steps_of_a_processor_are_done() -> None:
    settings = {
        "size": {"shortest_edge": 8}, "crop_size": {"height": 4, "width": 6},
        "do_center_crop": True,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.0] * 3, "image_std": [1.0] * 3,
    }  # fmt: skip
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, 16:] = 255
    made = Pixels(settings)([image])
    assert made.shape == (1, 3, 4, 6)
    assert made[0, 0, 0].tolist()[0] == 0.0 and made[0, 0, 0].tolist()[-1] == 1.0


def test_image_files_that_are_not_there(vit: Path, tmp_path: Path) -> None:
    path = images(tmp_path / "set")
    (tmp_path / "set" / "pictures" / "3.npy").unlink()
    with pytest.raises(UsageError, match="row 4: no such image file"):
        ready(vit, {"train": str(path)}, "image-classification", tmp_path)
    path.write_text("image,label\nimages.csv,a\nimages.csv,b\n")
    with pytest.raises(FrogError) as error:
        ready(vit, {"train": str(path)}, "image-classification", tmp_path)
    assert "row 1" in str(error.value) or "pillow" in str(error.value)


def test_pictures_of_common_formats(vit: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'frog[tune]'")
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255)}
    lines = ["image,label"]
    for name, colour in colours.items():
        image.new("RGB", (30, 20), colour).save(tmp_path / f"{name}.png")
        lines.append(f"{name}.png,{name}")
    (tmp_path / "i.csv").write_text("\n".join(lines))
    made = ready(vit, {"train": str(tmp_path / "i.csv")}, "image-classification", tmp_path)
    batch = made.collate([made.splits["train"][0]])
    assert batch["pixel_values"][0, :, 0, 0].tolist() == [1.0, -1.0, -1.0]


# ---------------------------------------------------------------------------- embeddings


def test_pairs_are_read_as_one_batch(bert: Path, tmp_path: Path) -> None:
    rows = [{"a": f"text {i}", "b": f"other {i}", "s": float(i)} for i in range(4)]
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    data = {"train": str(path), "pair": ["a", "b"]}
    made = ready(bert, data, "sentence-embedding", tmp_path)
    assert made.metric == "accuracy@1" and made.unused
    (batch,) = made.batches("train", 4, 1)
    assert len(batch["input_ids"]) == 8
    with torch.no_grad():
        loss, vectors, _ = made.predict(made.model, batch)
    logits = 20 * vectors[:, 0] @ vectors[:, 1].T
    assert float(loss) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, torch.arange(4))), rel=1e-5
    )
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(4, 2), atol=1e-5)
    with pytest.raises(
        UsageError, match=r"scores must lie in 0..1, row 3 of train has 2: set data"
    ):
        ready(bert, data | {"score": "s"}, "sentence-embedding", tmp_path)
    scored = ready(
        bert, data | {"score": "s", "score_range": [0, 3]}, "sentence-embedding", tmp_path
    )
    assert scored.metric == "spearman"
    assert scored.splits["train"]["score"][:] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    (batch,) = scored.batches("train", 4, 1)
    with torch.no_grad():
        loss, vectors, scores = scored.predict(scored.model, batch)
    cosine = (vectors[:, 0] * vectors[:, 1]).sum(-1)
    assert float(loss) == pytest.approx(float(((cosine - scores) ** 2).mean()), rel=1e-5)


def test_pooling_is_that_of_the_models_folder(tmp_path: Path) -> None:
    hidden, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    unit = torch.nn.functional.normalize
    assert torch.allclose(pooled(hidden, mask, "mean")[0], unit(hidden[0, :3].mean(0), dim=0))
    assert torch.allclose(pooled(hidden, mask, "max")[0], unit(hidden[0, :3].amax(0), dim=0))
    assert torch.allclose(pooled(hidden, mask, "cls")[1], unit(hidden[1, 0], dim=0))
    folder = save_bert(tmp_path / "b")
    (folder / "1_Pooling").mkdir()
    config = folder / "1_Pooling" / "config.json"
    path = write_jsonl(tmp_path / "p.jsonl", [{"first": "a", "second": "b"}] * 2)
    config.write_text('{"pooling_mode_weightedmean_tokens": true}')
    with pytest.raises(UsageError, match="must pool by one of cls, mean, max"):
        ready(folder, {"train": str(path)}, "sentence-embedding", tmp_path)
    config.write_text('{"pooling_mode_cls_token": true}')
    made = ready(folder, {"train": str(path)}, "sentence-embedding", tmp_path)
    (batch,) = made.batches("train", 2, 1)
    made.model.eval()
    with torch.no_grad():
        _, vectors, _ = made.predict(made.model, batch)
        inputs = {k: v for k, v in batch.items() if k != "score"}
        first = made.model(**inputs)[0][0, 0]
    assert torch.allclose(vectors[0, 0], unit(first, dim=0), atol=1e-6)


# -------------------------------------------------------------------------------- others


def test_activations_are_those_that_autograd_keeps(bert: Path, rows: Path, tmp_path: Path) -> None:
    made = ready(bert, {"train": str(rows)}, "text-classification", tmp_path)
    before = torch.get_rng_state()
    first = activations(made)
    assert torch.equal(before, torch.get_rng_state()) and first == activations(made)
    tokens = max(len(x) for x in made.splits["train"]["input_ids"])
    # at least the inputs of every linear layer, float32
    assert first > tokens * 4 * 2 * (4 * 64 + 64 + 96)
    for parameter in made.model.parameters():
        parameter.requires_grad_(False)
    assert activations(made) < first / 10


def test_a_missing_package_is_named() -> None:
    with pytest.raises(MissingPackage, match=r"pip install 'frog\[tune\]'"):
        need("no_such_package_of_the_extra")


def test_splits_give_the_same_batches_by_seed(bert: Path, rows: Path, tmp_path: Path) -> None:
    made = ready(bert, {"train": str(rows)}, "text-classification", tmp_path)

    def ids(seed: int) -> Sequence[Any]:
        return [x["input_ids"].tolist() for x in made.batches("train", 4, 3, seed)]

    assert len(ids(0)) == 3 and ids(0) == ids(0) != ids(1)
