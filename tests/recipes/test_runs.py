"""Whole runs: what they write, that plain libraries load it, that they go on exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import frog
from frog.api import Watch, checkpoint_step, preview
from frog.errors import UsageError
from frog.recipes.training import last_checkpoint
from tests.conftest import shared
from tests.recipes.small import byte_tokenizer, recipe_of, write_jsonl

transformers = pytest.importorskip("transformers")

WARNINGS = ["ignore::DeprecationWarning", "ignore::FutureWarning"]
pytestmark = [pytest.mark.filterwarnings(x) for x in WARNINGS]

CPU = {"use_cpu": True}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def only_the_chosen_moved(base: dict[str, torch.Tensor], out: Path, prefix: str) -> None:
    """Every weight that is neither chosen nor new has the bits of the base."""
    chosen = frog.Selection.load(out / "selection.safetensors")
    index = {x.name: x.index for x in chosen.chosen}
    moved = 0
    for name, value in weights(out).items():
        old = base.get(name.removeprefix(prefix))
        if old is None:
            continue
        free = np.zeros(old.numel(), bool)
        free[index.get(name, [])] = True
        changed = (value.view(torch.int32) != old.view(torch.int32)).view(-1).numpy()
        assert not (changed & ~free).any(), name
        moved += int(changed.sum())
    assert 0.9 * chosen.count < moved <= chosen.count


def stop_at(step: int) -> Watch:
    """A watch that asks for the end after so many steps."""
    done: list[int] = []
    return Watch(
        on_step=lambda number, *_: done.append(number),
        asked_to_stop=lambda: bool(done) and done[-1] >= step,
    )


def test_a_run_writes_what_plain_transformers_loads(bert: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = {"train": str(rows), "validation_share": 0.25, "old": str(rows)}
    result = frog.tune(recipe_of(bert, rows, out, data=data))
    assert result.steps == 4 and result.after.keys() == result.before.keys() == {
        "validation", "old"
    }  # fmt: skip
    assert result.changed <= result.trainable and result.output == str(out)
    only_the_chosen_moved(weights(bert), out, "bert.")
    kind = transformers.AutoModelForSequenceClassification
    loaded, info = kind.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    metrics = told(out)
    assert metrics["after"]["validation"]["accuracy"] == result.after["validation"]["accuracy"]
    text = (out / "README.md").read_text()
    assert "Sparse fine-tuning" in text and "| validation | accuracy |" in text
    # undoing the delta gives the model of the start: the base, and the head as it was drawn
    frog.apply_delta(loaded, frog.SparseDelta.load(out / "delta.safetensors"), revert=True)
    base = weights(bert)
    for name, value in loaded.state_dict().items():
        if name.startswith("bert."):
            assert torch.equal(value, base[name.removeprefix("bert.")]), name
    assert not torch.equal(loaded.classifier.weight, weights(out)["classifier.weight"])
    # what was written as its recipe runs again, to the same weights
    again = yaml.safe_load((out / "recipe.yaml").read_text())
    assert again["made_with"].keys() >= {"frog", "torch", "transformers"}
    frog.tune(out / "recipe.yaml", overrides=[f"output={tmp_path / 'again'}"])
    first, second = weights(out), weights(tmp_path / "again")
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    assert tokenizer("a")["input_ids"] == byte_tokenizer()("a")["input_ids"]


def test_an_interrupted_run_goes_on_exactly(bert: Path, rows: Path, tmp_path: Path) -> None:
    training = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "save_strategy": "epoch"}
    plain = recipe_of(bert, rows, tmp_path / "cut", training=training | CPU)
    with pytest.raises(KeyboardInterrupt):
        frog.tune(plain, watch=stop_at(8))  # in the second epoch
    cut = tmp_path / "cut"
    assert [x.name for x in cut.iterdir()] == ["checkpoints"]
    assert checkpoint_step(frog.api.read_recipe(plain)) == 8
    # a checkpoint that was cut off while it was written is none
    broken = cut / "checkpoints" / "checkpoint-9"
    shutil.copytree(cut / "checkpoints" / "checkpoint-8", broken)
    (broken / "trainer_state.json").write_text('{"epoch": 1')
    found = last_checkpoint(cut)
    assert found is not None and found.name == "checkpoint-8"
    shutil.rmtree(broken)
    for change, what in (
        ({"selection": {"budget": "4%"}}, "selection.budget"),
        ({"learning_rate": 0.02}, "learning_rate"),
        ({"training": training | CPU | {"seed": 1}}, "training.seed"),
        ({"noise": 0.1}, "noise: the run"),
    ):
        with pytest.raises(UsageError, match=what):
            frog.tune(plain | change, resume=True)
    result = frog.tune(plain | {"training": training | CPU | {"logging_steps": 1}}, resume=True)
    assert result.resumed_at == 8 and result.steps == 12
    frog.tune(plain | {"output": str(tmp_path / "straight")})
    first, second = weights(cut), weights(tmp_path / "straight")
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    assert told(cut)["after"] == told(tmp_path / "straight")["after"]
    assert told(cut)["before"] == told(tmp_path / "straight")["before"]


@pytest.mark.slow
def test_a_run_that_fails_leaves_the_earlier_result(bert: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plain = recipe_of(bert, rows, out)
    frog.tune(plain)
    before = weights(out)
    with pytest.raises(KeyboardInterrupt):
        frog.tune(plain | {"learning_rate": 0.1}, overwrite=True, watch=stop_at(2))
    assert all(torch.equal(v, before[k]) for k, v in weights(out).items())
    frog.tune(plain | {"learning_rate": 0.1}, resume=True)
    assert not all(torch.equal(v, before[k]) for k, v in weights(out).items())


@pytest.mark.slow
def test_another_base_is_not_resumed(bert: Path, rows: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(bert, model)
    plain = recipe_of(model, rows, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        frog.tune(plain, watch=stop_at(2))
    from safetensors.torch import load_file, save_file

    tensors = {k: v + 1e-3 for k, v in load_file(model / "model.safetensors").items()}
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="does not hold the weights that the selection was made"):
        frog.tune(plain, resume=True)


@pytest.mark.slow
def test_plans_and_selections_of_files_are_trained(bert: Path, rows: Path, tmp_path: Path) -> None:
    """Made on the folder, whose names lack the prefix of the model with a head."""
    report = frog.analyze(str(bert), frog.Settings(bootstrap=0))
    report.to_json(tmp_path / "report.json")
    plan = frog.allocate(report, 0.03, exclude="pooler")
    plan.to_json(tmp_path / "plan.json")
    chosen = frog.select(str(bert), plan, score="magnitude")
    chosen.save(tmp_path / "chosen.safetensors")
    for selection, count in (
        ({"plan": str(tmp_path / "plan.json"), "score": "magnitude"}, chosen.count),
        ({"selection": str(tmp_path / "chosen.safetensors")}, chosen.count),
        ({"report": str(tmp_path / "report.json"), "budget": 500, "granularity": "row"}, 500),
    ):
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        frog.tune(recipe_of(bert, rows, out, selection=selection))
        made = frog.Selection.load(out / "selection.safetensors")
        assert abs(made.count - count) < 96
        if "report" not in selection:
            assert made.digest == chosen.digest


def test_what_trains_whole_is_not_chosen(bert: Path, rows: Path, tmp_path: Path) -> None:
    told = preview(recipe_of(bert, rows, tmp_path / "o", train_also=["classifier", "pooler"]))
    assert set(told.whole) == {"classifier.weight", "classifier.bias",
                               "bert.pooler.dense.weight", "bert.pooler.dense.bias"}  # fmt: skip
    assert not any("pooler" in x.name or "classifier" in x.name for x in told.plan.layers)
    assert told.trainable == told.chosen + sum(told.whole.values())
    none = preview(recipe_of(bert, rows, tmp_path / "o", train_also=[]))
    assert not none.whole and not (tmp_path / "o").exists()


@pytest.mark.slow
def test_the_best_checkpoint_is_what_is_written(bert: Path, rows: Path, tmp_path: Path) -> None:
    training = {
        "max_steps": 6, "per_device_train_batch_size": 4, "eval_strategy": "steps",
        "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "optim": "sgd",
        "load_best_model_at_end": True, "metric_for_best_model": "loss",
    }  # fmt: skip
    out = tmp_path / "out"
    plain = recipe_of(bert, rows, out, learning_rate=30.0, training=training | CPU, keep_change=1)
    result = frog.tune(plain)
    losses = [x["eval_loss"] for x in told(out)["log"] if "eval_loss" in x]
    assert result.after["validation"]["loss"] == pytest.approx(min(losses), rel=1e-6)


# ---------------------------------------------------------------------- real small models


def sst2(folder: Path, split: str, count: int) -> Path:
    lines = shared(f"data/sst2/{split}.tsv").read_text().splitlines()
    draw = np.random.default_rng(0).permutation(len(lines))[:count]
    rows = [lines[i].rsplit("\t", 1) for i in draw]
    return write_jsonl(folder / f"{split}.jsonl", [{"text": t, "label": int(x)} for t, x in rows])


@pytest.mark.slow
def test_minilm_learns_to_classify(minilm: Path, tmp_path: Path) -> None:
    train, test = sst2(tmp_path, "train", 640), sst2(tmp_path, "test", 120)
    out = tmp_path / "out"
    plain = recipe_of(
        minilm, train, out, compare=True,
        data={"train": str(train), "test": str(test), "max_length": 48},
        selection={"budget": "1%"}, full_learning_rate=1e-4, learning_rate="auto",
        training={"num_train_epochs": 1} | CPU,
    )  # fmt: skip
    result = frog.tune(plain)
    before, after = (x["test"]["accuracy"] for x in (result.before, result.after))
    assert before < 0.65 and after > 0.7, (before, after)
    only_the_chosen_moved(weights(minilm), out, "bert.")
    kind = transformers.AutoModelForSequenceClassification
    loaded = kind.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    rows = [json.loads(x) for x in test.read_text().splitlines()]
    with torch.no_grad():
        coded = tokenizer(
            [x["text"] for x in rows], padding=True, truncation=True, max_length=48,
            return_tensors="pt",
        )  # fmt: skip
        guess = loaded(**coded).logits.argmax(-1)
    right = guess == torch.tensor([x["label"] for x in rows])
    assert float(right.float().mean()) == pytest.approx(after, abs=0.02)
    assert "layers changed" in result.verdict and (out / "compare.html").stat().st_size > 10**5


@pytest.mark.slow
def test_stories_learn_another_text(tmp_path: Path) -> None:
    from tests.tuning.real import stories

    text = shared("data/tinyshakespeare/input.txt").read_text()
    model = tmp_path / "model"
    stories().save_pretrained(model)
    ascii_tokenizer().save_pretrained(model)
    base = weights(model)
    pieces = [text[i : i + 2000] for i in range(0, 64000, 2000)]
    write_jsonl(tmp_path / "t.jsonl", [{"text": x} for x in pieces[:28]])
    write_jsonl(tmp_path / "v.jsonl", [{"text": x} for x in pieces[28:]])
    out = tmp_path / "out"
    plain = {
        "version": 1, "model": str(model), "task": "causal-lm", "output": str(out),
        "data": {"train": str(tmp_path / "t.jsonl"), "validation": str(tmp_path / "v.jsonl"),
                 "max_length": 128},
        "selection": {"budget": "2%"}, "learning_rate": 0.02, "compare": False,
        "training": {"num_train_epochs": 1} | CPU,
    }  # fmt: skip
    result = frog.tune(plain)
    before, after = (x["validation"]["perplexity"] for x in (result.before, result.after))
    assert after < 0.8 * before, (before, after)
    only_the_chosen_moved(base, out, "")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ids = torch.tensor([(tokenizer(pieces[28])["input_ids"] + [2])[:128]])
    with torch.no_grad():
        loss = float(loaded(input_ids=ids, labels=ids).loss)
    assert loss == pytest.approx(result.after["validation"]["token_loss"], rel=0.25)
    frog.apply_delta(str(model), frog.SparseDelta.load(out / "delta.safetensors"),
                     out=tmp_path / "same")  # fmt: skip
    assert all(torch.equal(v, weights(out)[k]) for k, v in weights(tmp_path / "same").items())


def ascii_tokenizer() -> Any:
    """Bytes as stories260k numbers them: 3 + byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {level.pre_tokenize_str(chr(b))[0][0]: 3 + b for b in range(128)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer, made.decoder = level, decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def shapes(folder: Path, count: int) -> Path:
    """Images with a bright bar, upright or lying, somewhere."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    lines = ["image,label"]
    for i in range(count):
        picture = draw.integers(0, 90, (16, 16, 3)).astype(np.uint8)
        place = draw.integers(2, 13)
        picture[(slice(None), place) if i % 2 else (place, slice(None))] = 250
        np.save(folder / f"{i}.npy", picture)
        lines.append(f"{i}.npy,{'upright' if i % 2 else 'lying'}")
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    return folder / "images.csv"


def small_resnet() -> Any:
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic",
        num_channels=3, num_labels=2,
    )  # fmt: skip
    return transformers.ResNetForImageClassification(config)


def small_vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=16, patch_size=4, num_labels=2,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


@pytest.mark.slow
@pytest.mark.parametrize("make", [small_resnet, small_vit])
def test_images_are_learned_by_chosen_weights(make: Callable[[], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tmp_path / "model"
    make().save_pretrained(model)
    data = shapes(tmp_path / "set", 320)
    out = tmp_path / "out"
    plain = {
        "version": 1, "model": str(model), "task": "image-classification", "output": str(out),
        "data": {"train": str(data), "validation_share": 0.25, "labels": ["lying", "upright"]},
        "selection": {"budget": "40%"}, "learning_rate": 0.01, "compare": False,
        "keep_change": 1,  # of a model that was never trained nothing is to be kept
        "training": {"num_train_epochs": 12, "per_device_train_batch_size": 16} | CPU,
    }  # fmt: skip
    result = frog.tune(plain)
    before, after = (x["validation"]["accuracy"] for x in (result.before, result.after))
    assert before < 0.7 and after > 0.85, (before, after)
    loaded = transformers.AutoModelForImageClassification.from_pretrained(out).eval()
    settings = json.loads((out / "preprocessor_config.json").read_text())
    assert settings["image_processor_type"] == "ViTImageProcessor"
    picture = np.load(tmp_path / "set" / "1.npy")
    pixels = torch.tensor(picture / 255.0, dtype=torch.float32).permute(2, 0, 1)[None]
    pixels = (pixels - 0.5) / 0.5
    with torch.no_grad():
        logits = loaded(pixel_values=pixels).logits
    assert loaded.config.id2label[int(logits.argmax())] == "upright"


@pytest.mark.slow
def test_minilm_learns_what_is_alike(minilm: Path, tmp_path: Path) -> None:
    import csv

    def split(name: str, count: int) -> Path:
        with shared(f"data/stsb-en/stsb-en-{name}.csv").open(newline="") as file:
            rows = [{"a": x[0], "b": x[1], "s": float(x[2])} for x in csv.reader(file)]
        draw = np.random.default_rng(0).permutation(len(rows))[:count]
        return write_jsonl(tmp_path / f"{name}.jsonl", [rows[i] for i in draw])

    train, test = split("train", 160), split("test", 120)
    out = tmp_path / "out"
    plain = {
        "version": 1, "model": str(minilm), "task": "sentence-embedding", "output": str(out),
        "data": {"train": str(train), "test": str(test), "pair": ["a", "b"], "score": "s",
                 "score_range": [0, 5], "max_length": 48},
        "selection": {"budget": "1%"}, "learning_rate": 1e-3, "compare": False,
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 16} | CPU,
    }  # fmt: skip
    result = frog.tune(plain)
    before, after = (x["test"] for x in (result.before, result.after))
    assert before["spearman"] > 0.75 and after["spearman"] > before["spearman"] - 0.02
    assert after["loss"] < before["loss"]
    only_the_chosen_moved(weights(minilm), out, "")
    rows = [json.loads(x) for x in test.read_text().splitlines()][:8]
    model = transformers.AutoModel.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    coded = tokenizer([x["a"] for x in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**coded)[0]
    mask = coded["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    sentence = pytest.importorskip("sentence_transformers")
    encoder = sentence.SentenceTransformer(str(out), device="cpu")
    made = torch.tensor(np.array(encoder.encode([x["a"] for x in rows])))
    assert torch.allclose(made, vectors, atol=1e-5)
    # undone, it is the base again, bit for bit
    frog.apply_delta(str(out), frog.SparseDelta.load(out / "delta.safetensors"), revert=True,
                     out=tmp_path / "back")  # fmt: skip
    assert all(torch.equal(v, weights(minilm)[k]) for k, v in weights(tmp_path / "back").items())
