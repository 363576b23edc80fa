"""frog plan bits, plan prune, apply and verify through the real command line, with bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import frog
from frog.compression.curves import read_log
from frog.numerics.rounding import Rounding, rounded_values
from tests.cli.runs import Done, files_of

pytest.importorskip("transformers")
pytest.importorskip("datasets")

from tests.recipes.small import save_bert, save_llama, save_vit, write_jsonl

Run = Callable[..., Done]

WORDS = ("leg", "eye", "song", "life", "jump", "tongue", "skin", "egg")
TEXTS = [
    f"line {i}: the {word} of a frog is {'short' if i % 2 else 'long'}"
    for i, word in enumerate(WORDS * 3)
]
QUICK = ("--rows", "8", "--length", "16", "--levels", "2,4,8")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama") / "llama")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "rows.txt"
    path.write_text("\n".join(TEXTS[:12]) + "\n")
    return path


@pytest.fixture(scope="module")
def others(texts: Path) -> Path:
    return write_jsonl(texts.parent / "others.jsonl", [{"text": x[::-1]} for x in TEXTS[12:]])


def test_from_plan_to_model(
    in_process: Run, bert: Path, texts: Path, others: Path, tmp_path: Path
) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    words = ("plan", "bits", bert, "--calibration", texts, *QUICK, "--budget", "4", "-o", plan)
    done = in_process(*words)
    assert done.code == 0, done.err
    assert "4.000 bits a weight" in done.out and "frog verify" in done.err
    assert max(len(line) for line in done.out.splitlines()) <= 80
    made = frog.LevelPlan.from_json(plan)
    assert made.rule.allocator == "dynamic" and made.reached <= 4 and made.damage is not None
    assert made.to_json() == plan.read_text()
    log = tmp_path / "plan.sweep.jsonl"
    assert len(read_log(log)) == 3 * len(made.units) == 36
    # the same command measures nothing again
    before = log.read_bytes()
    assert in_process(*words).code == 0 and log.read_bytes() == before
    done = in_process(*words, "--dry-run")
    assert "36 of them in the log" in done.out and done.err.splitlines()[-1].startswith("Next")

    done = in_process("verify", plan, "--calibration", others, "--rows", "12", "--by", "angle")
    assert done.code in (0, 3), done.err
    assert "uniform" in done.out and max(len(line) for line in done.out.splitlines()) <= 80
    verified = frog.LevelPlan.from_json(plan)
    assert verified.verification is not None and verified.verification.unseen
    assert verified.verification.by == "angle" and verified.units == made.units

    done = in_process("apply", plan, "-o", out, "--force")
    assert done.code == 0, done.err
    assert {x for x in files_of(out)} == {x for x in files_of(bert)}
    old, new = load_file(bert / "model.safetensors"), load_file(out / "model.safetensors")
    planned = {x.name: unit.level for unit in made.units for x in unit.matrices}
    for name, tensor in old.items():
        wanted = tensor
        if name in planned:
            wanted = rounded_values(tensor, Rounding(bits=int(planned[name])))
        assert torch.equal(new[name], wanted), name
    assert set(planned) <= set(old) and not any("embeddings" in x for x in planned)
    # what is carried out cannot be carried out again
    done = in_process("apply", plan, "--model", out, "-o", tmp_path / "again", "--force")
    assert done.code == 2 and "not those that the plan was made for" in done.err


def test_rounds_are_told_estimated_and_kept(
    in_process: Run, bert: Path, texts: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    words = ("plan", "prune", bert, "--calibration", texts, "--levels", "0,0.3,0.5,0.7",
             "--rounds", "2", "-o", plan)  # fmt: skip
    done = in_process(*words, "--dry-run")
    cells = 12 * (3 + 2 * 3)  # matrices; 0.3, 0.5 and 0.7 alone, and the same in both rounds
    assert done.code == 0 and f"{cells} cells" in " ".join(done.out.split()), done.out
    done = in_process(*words)
    assert done.code == 0, done.err
    assert json.loads(plan.read_text())["rounds"] == frog.LevelPlan.from_json(plan).rounds == 2
    log = read_log(tmp_path / "plan.sweep.jsonl")
    assert len(log) == cells and len({x.around for x in log}) == 3
    # a plan of a version that knew no rounds
    old = {k: v for k, v in json.loads(plan.read_text()).items() if k != "rounds"}
    plan.write_text(json.dumps(old))
    assert frog.LevelPlan.from_json(plan).rounds == 0


def test_an_interrupted_sweep_goes_on(
    in_process: Run, bert: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, log = tmp_path / "plan.json", tmp_path / "plan.sweep.jsonl"
    words = ("plan", "bits", bert, "--calibration", texts, *QUICK, "-o", plan)
    with monkeypatch.context() as patch:
        from frog.compression import curves

        add = curves._Log.add

        def third(self: curves._Log, cell: curves.Cell) -> None:
            add(self, cell)
            if len(read_log(self.path)) == 3:
                raise KeyboardInterrupt

        patch.setattr(curves._Log, "add", third)
        done = in_process(*words)
    assert done.code == 130 and not plan.exists()
    assert "kept in" in done.err and done.err.splitlines()[-1].startswith("Next  frog plan bits")
    kept = log.read_bytes()
    assert kept.count(b"\n") == 3
    assert in_process(*words).code == 0 and log.read_bytes().startswith(kept)
    whole = plan.read_bytes()
    log.unlink()
    assert in_process(*words).code == 0 and plan.read_bytes() == whole


def test_a_language_model_pruned_exactly(
    in_process: Run, llama: Path, texts: Path, others: Path, tmp_path: Path
) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    done = in_process(
        "plan", "prune", llama, "--calibration", texts, "--rows", "4", "--length", "16",
        "--budget", "37%", "--levels", "0,0.3,0.6", "--importance", "wanda", "--tie", "serving",
        "-o", plan,
    )  # fmt: skip
    assert done.code == 0, done.err
    made = frog.LevelPlan.from_json(plan)
    assert made.size == round(0.63 * made.params) and "37.0 % pruned" in done.out
    assert sorted(len(x.matrices) for x in made.units) == [1, 1, 1, 1, 2, 2, 3, 3]
    same = ("--rows", "4", "--length", "16")
    done = in_process("apply", plan, "-o", out)
    assert done.code == 2 and "--calibration" in done.err
    done = in_process("apply", plan, "-o", out, "--calibration", texts)
    assert done.code == 2 and "data that it was made with" in done.err
    done = in_process("apply", plan, "-o", out, "--calibration", texts, *same)
    assert done.code == 0, done.err
    new = load_file(out / "model.safetensors")
    for matrix in made.matrices:
        assert int((new[matrix.name] != 0).sum()) == matrix.size
    done = in_process("verify", plan, "--calibration", others, "--planned-on", texts,
                      "--rows", "8", "--length", "16", "--by", "perplexity")  # fmt: skip
    assert done.code == 2 and "data that it was made with" in done.err  # other rows than 4
    done = in_process("plan", "prune", llama, "-o", plan)
    done = in_process("verify", plan, "--calibration", others, "--rows", "16", "--length", "16",
                      "--by", "perplexity", "--format", "json")  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["verdict"] == "no different"  # uniform against itself


def test_patterns_take_whole_matrices(in_process: Run, llama: Path, texts: Path, others: Path,
                                      tmp_path: Path) -> None:  # fmt: skip
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    done = in_process("plan", "prune", llama, "--calibration", texts, "--rows", "2", "--length",
                      "8", "--pattern", "2:4", "--budget", "0.25", "-o", plan)  # fmt: skip
    assert done.code == 0, done.err
    assert in_process("apply", plan, "-o", out).code == 0
    made, new = frog.LevelPlan.from_json(plan), load_file(out / "model.safetensors")
    assert made.reached >= 0.25 and {x.level for x in made.units} == {0.0, 0.5}
    for unit in made.units:
        for matrix in unit.matrices:
            kept = (new[matrix.name].view(-1, 4) != 0).sum(1)
            assert (kept == (2 if unit.level else 4)).all()
    done = in_process("verify", plan, "--calibration", texts)
    assert done.code == 2 and "verify it on others" in done.err
    done = in_process("verify", plan, "--calibration", others, "--rows", "16", "--length", "8")
    assert done.code in (0, 3) and "5 random ones" in done.err, done.err
    assert "the mean of 5 random ones of its pattern and size" in " ".join(done.out.split())
    assert "random 5" in done.out and "uniform" not in done.out
    judged = frog.LevelPlan.from_json(plan).verification
    assert judged is not None and judged.against == "random"


@pytest.mark.parametrize("rule", ["uniform", "water_filling", "two_level:-alpha",
                                  "two_level:zd"])  # fmt: skip
def test_bits_without_data(in_process: Run, bert: Path, tmp_path: Path, rule: str) -> None:
    done = in_process("plan", "bits", bert, "--rule", rule, "--budget", "3.5", "--format", "json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["reached"] <= 3.5 and plan["purpose"] == "bits"
    assert "nothing was measured on data" in plan["notes"][0]


@pytest.mark.parametrize("rule", ["auto", "linear_map", "linear_map:over-parameterised",
                                  "proportional:rounding-error"])  # fmt: skip
def test_sparsities_without_data(in_process: Run, bert: Path, rule: str) -> None:
    done = in_process("plan", "prune", bert, "--rule", rule, "--format", "json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert plan["size"] == round(0.6 * plan["params"])


def test_scores_with_data(in_process: Run, llama: Path, texts: Path) -> None:
    small = ("--calibration", texts, "--rows", "2", "--length", "8", "--format", "json")
    done = in_process("plan", "bits", llama, "--rule", "two_level:lim", "--tie", "block", *small)
    assert done.code == 0, done.err
    units = json.loads(done.out)["units"]
    assert [x["name"] for x in units] == ["model.layers.0", "model.layers.1"]
    assert sorted(x["level"] for x in units) == [3, 5]
    done = in_process("plan", "prune", llama, "--rule", "proportional", *small)
    assert done.code == 0, done.err
    assert json.loads(done.out)["rule"]["score"] == "zeroth-order"


def test_pins_and_patterns_of_names(in_process: Run, bert: Path) -> None:
    done = in_process("plan", "bits", bert, "--pin", "output.dense=8", "--exclude", r"layer\.1",
                      "--budget", "6", "--format", "json")  # fmt: skip
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert all(x["pinned"] and x["level"] == 8 for x in plan["units"] if "output" in x["name"])
    assert not any("layer.1" in x["name"] for x in plan["units"])
    assert any("--exclude" in why for why in plan["left_out"].values())


def test_tensors_ready_for_the_model(in_process: Run, llama: Path, tmp_path: Path) -> None:
    ids = np.arange(64).reshape(4, 16)
    np.savez(tmp_path / "ids.npz", input_ids=ids)
    save_file({"input_ids": torch.from_numpy(ids)}, tmp_path / "ids.safetensors")
    plans = []
    for name in ("ids.npz", "ids.safetensors"):
        done = in_process("plan", "bits", llama, "--calibration", tmp_path / name, "--levels",
                          "4,8", "--budget", "5", "--format", "json")  # fmt: skip
        assert done.code == 0, done.err
        plans.append(json.loads(done.out) | {"calibration": ""})
    assert plans[0] == plans[1]
    for name, value, told in (
        ("floats", ids.astype(float), "whole (rows, tokens)"),
        ("beyond", ids + 900, "0..258"),
        ("flat", ids[0], "whole (rows, tokens)"),
    ):
        np.savez(tmp_path / f"{name}.npz", input_ids=value)
        done = in_process("plan", "bits", llama, "--calibration", tmp_path / f"{name}.npz")
        assert done.code == 2 and told in done.err, done.err


def test_images_as_arrays_and_as_tensors(in_process: Run, tmp_path: Path) -> None:
    vit = save_vit(tmp_path / "vit")
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3))
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"image": x.tolist()} for x in pixels])
    np.savez(tmp_path / "t.npz", pixel_values=(pixels.transpose(0, 3, 1, 2) / 255).astype("f4"))
    plan = tmp_path / "plan.json"
    done = in_process("plan", "prune", vit, "--calibration", rows, "--levels", "0,0.2,0.5",
                      "--budget", "0.3", "-o", plan)  # fmt: skip
    assert done.code == 0, done.err
    done = in_process("verify", plan, "--calibration", tmp_path / "t.npz")
    assert done.code in (0, 3), done.err
    ids = tmp_path / "ids.npz"
    np.savez(ids, input_ids=np.ones((2, 4), int))
    done = in_process("verify", plan, "--calibration", ids)
    assert done.code == 2 and "takes pixel_values" in done.err
    done = in_process("plan", "prune", vit, "--calibration", rows, "--column", "picture")
    assert done.code == 2 and "no column 'picture'" in done.err


@pytest.mark.parametrize(("words", "told"), [
    (["bits", "--budget", "9"], "2..8"),
    (["bits", "--budget", "1"], "2..8"),
    (["bits", "--budget", "4%"], "bits a weight"),
    (["bits", "--budget", "many"], "bits a weight"),
    (["prune", "--budget", "100%"], "0..1"),
    (["prune", "--budget", "-1"], "0..1"),
    (["prune", "--budget", "half"], "a share"),
    (["bits", "--rule", "dinamic"], "Did you mean 'dynamic'"),
    (["bits", "--rule", "dynamic"], "--calibration FILE"),
    (["bits", "--rule", "linear_map"], "Known: auto"),
    (["bits", "--rule", "uniform:zd"], "takes no score"),
    (["bits", "--rule", "two_level:zdd"], "Did you mean 'zd'"),
    (["bits", "--rule", "two_level:lim"], "--calibration FILE"),
    (["bits", "--rule", "two_level:zd", "--knob", "spread=1"], "it has: low, high"),
    (["bits", "--levels", "2,x"], "--levels"),
    (["bits", "--levels", "2,9"], "1..8"),
    (["bits", "--levels", "2.5,4"], "whole numbers"),
    (["bits", "--group", "-3"], "group"),
    (["bits", "--pin", "query"], "REGEX=LEVEL"),
    (["bits", "--pin", "query=40"], "1 to 8"),
    (["bits", "--pin", "nothing=4"], "matches none"),
    (["bits", "--pin", "(=4"], "regular expression"),
    (["bits", "--include", "nothing"], "nothing"),
    (["bits", "--tie", "bloc"], "Did you mean 'block'"),
    (["bits", "--calibration", "none.txt"], "there is none"),
    (["bits", "--column", "text"], "--calibration FILE"),
    (["prune", "--rounds", "2"], "--calibration FILE"),
    (["prune", "--rounds", "-1"], "greater than or equal to 0"),
    (["tune", "--rounds", "1"], "it is for bits and prune"),
    (["bits", "--floor", "0.1"], "it is for tune"),
    (["bits", "--importance", "wanda"], "it is for prune"),
    (["prune", "--group", "32"], "it is for bits"),
    (["prune", "--asymmetric"], "--asymmetric means nothing"),
    (["prune", "--role", "q"], "it is for tune"),
    (["prune", "--importance", "wnada"], "Did you mean 'wanda'"),
    (["prune", "--importance", "wanda"], "--calibration FILE"),
    (["prune", "--within", "column"], "matrix, row"),
    (["prune", "--levels", "0,2"], "[0, 1]"),
    (["prune", "--pattern", "2of4"], "N:M"),
    (["prune", "--pattern", "4:4"], "keep 1 to 3"),
    (["prune", "--pattern", "2:4"], "rule by curves"),
    (["prune", "--pattern", "2:4", "--levels", "0.5"], "beside --pattern"),
    (["prune", "--rule", "proportional:zd"], "0 or more"),
    (["tune", "--calibration", "x.txt"], "it is for bits and prune"),
    (["tune", "--dry-run"], "it is for bits and prune"),
    (["tuen"], "Did you mean 'tune'"),
])  # fmt: skip
def test_bad_plans_are_told(
    in_process: Run, bert: Path, tmp_path: Path, words: list[str], told: str
) -> None:
    plan = tmp_path / "plan.json"
    done = in_process("plan", words[0], bert, *words[1:], "-o", plan)
    assert done.code == 2 and told in done.err, done.err
    assert not plan.exists() and not done.out


@pytest.mark.parametrize(("name", "content", "told"), [
    ("empty.txt", "", "no rows"),
    ("blank.txt", "\n \n", "no rows"),
    ("rows.jsonl", '{"sentence": "a b"}\n', "no column 'text'"),
    ("rows.jsonl", '{"text": 3}\n', "row 1 must hold a text"),
    ("rows.jsonl", "{text}\n", "line 1 is not JSON"),
    ("rows.csv", "text\n", "no rows"),
    ("rows.pdf", "text", "must end in one of"),
    ("rows.npz", "no zip", "cannot be read"),
    ("rows.safetensors", "none", "cannot be read"),
])  # fmt: skip
def test_bad_rows_are_told(
    in_process: Run, bert: Path, tmp_path: Path, name: str, content: str, told: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    done = in_process("plan", "bits", bert, "--calibration", file, "-o", tmp_path / "p.json")
    assert done.code == 2 and told in done.err, done.err
    assert not (tmp_path / "p.json").exists()


def test_models_that_cannot_be_compressed(in_process: Run, bert: Path, texts: Path,
                                          tmp_path: Path) -> None:  # fmt: skip
    assert in_process("plan", "bits", tmp_path / "none").code == 4
    assert in_process("plan", "bits", tmp_path / "none", "--calibration", texts).code == 4
    tensors = load_file(bert / "model.safetensors")
    tensors["encoder.layer.0.intermediate.dense.weight"][3, 4] = float("nan")
    bad = tmp_path / "bad.safetensors"
    save_file(tensors, bad)
    done = in_process("plan", "prune", bad, "-o", tmp_path / "p.json")
    assert done.code == 4 and "layer.0.intermediate" in done.err
    save_file({"embeddings.word_embeddings.weight": torch.randn(8, 4)}, bad)
    assert in_process("plan", "prune", bad).code == 2


def test_one_plan_file_never_both(in_process: Run, bert: Path, texts: Path,
                                  tmp_path: Path) -> None:  # fmt: skip
    tune, bits = tmp_path / "tune.json", tmp_path / "bits.json"
    assert in_process("plan", "tune", bert, "-o", tune).code == 0
    assert in_process("plan", "bits", bert, "--rule", "uniform", "-o", bits).code == 0
    done = in_process("select", bert, "--plan", bits)
    assert done.code == 2 and "frog apply carries that out" in done.err
    with pytest.raises(frog.UsageError, match="never both"):
        frog.select(str(bert), frog.LevelPlan.from_json(bits))  # type: ignore[arg-type]
    for words in (("apply", tune, "-o", tmp_path / "x"), ("verify", tune, "--calibration", texts)):
        done = in_process(*words)
        assert done.code == 2 and "frog select" in done.err, done.err


def test_outputs_that_cannot_be_written(in_process: Run, bert: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "out"
    assert in_process("plan", "bits", bert, "-o", tmp_path / "no" / "p.json").code == 2
    assert in_process("plan", "bits", bert, "-o", bert / "config.json").code == 2
    assert in_process("plan", "bits", bert, "--rule", "uniform", "-o", plan).code == 0
    out.mkdir()
    for words, told in (
        (["-o", out], "must not exist"),
        (["-o", tmp_path / "no" / "x"], "its folder must exist"),
        (["-o", bert / "inside"], "outside the model"),
        (["-o", tmp_path / "x", "--to", "gguf"], "plain"),
        (["-o", tmp_path / "x", "--model", tmp_path / "none"], "no such file"),
    ):
        done = in_process("apply", plan, *words)
        assert done.code in (2, 4) and told in done.err, done.err
    assert not (tmp_path / "x").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("to", ["torchao", "compressed-tensors"])
def test_checkpoints_of_other_libraries(in_process: Run, bert: Path, tmp_path: Path,
                                        to: str) -> None:  # fmt: skip
    pytest.importorskip(to.replace("-", "_"))
    plan = tmp_path / "plan.json"
    done = in_process("plan", "bits", bert, "--group", "32", "--levels", "4,8", "--budget", "5",
                      "-o", plan)  # fmt: skip
    assert done.code == 0, done.err
    done = in_process("apply", plan, "--to", to, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "quantization_config" in json.loads((tmp_path / "out" / "config.json").read_text())
    prune = tmp_path / "prune.json"
    in_process("plan", "prune", bert, "-o", prune)
    done = in_process("apply", prune, "--to", to, "-o", tmp_path / "x")
    assert done.code == 2 and "is for bits" in done.err


def test_the_plan_for_other_tools(in_process: Run, bert: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    in_process("plan", "bits", bert, "--rule", "uniform", "-o", plan)
    for to, word in (("llm-compressor", "quant_stage"), ("auto-round", '"bits": 4')):
        assert in_process("apply", plan, "--to", to, "-o", tmp_path / to).code == 0
        assert word in (tmp_path / to).read_text()


def test_a_plan_that_is_worse_is_refused(
    in_process: Run, llama: Path, others: Path, tmp_path: Path
) -> None:
    """One block at one bit, the other at seven: planted to lose."""
    plan = tmp_path / "plan.json"
    done = in_process(
        "plan", "bits", llama, "--levels", "1,8", "--budget", "4", "--rule", "uniform",
        "--pin", "layers.0=1", "--pin", "layers.1=7", "-o", plan,
    )  # fmt: skip
    assert done.code == 0, done.err
    words = ("verify", plan, "--calibration", others, "--length", "8", "--rows", "32")
    done = in_process(*words)
    assert done.code == 3 and "worse" in done.out and "uniform" in done.err, done.err
    assert in_process(*words, "--force").code == 0
    done = in_process("apply", plan, "-o", tmp_path / "out")
    assert done.code == 3 and not (tmp_path / "out").exists()
    assert in_process("apply", plan, "-o", tmp_path / "out", "--force").code == 0
    assert in_process(*words, "--format", "quiet").code == 3


def test_rows_that_judge_are_others(in_process: Run, bert: Path, texts: Path, others: Path,
                                    tmp_path: Path) -> None:  # fmt: skip
    plan = tmp_path / "plan.json"
    quick = ("--rows", "8", "--length", "8", "--levels", "3,4")
    done = in_process("plan", "bits", bert, "--calibration", texts, *quick, "-o", plan)
    assert done.code == 0, done.err
    done = in_process("verify", plan, "--calibration", texts, "--rows", "9")
    assert done.code == 2 and "verify it on others" in done.err
    done = in_process("verify", plan, "--calibration", others, "--rows", "3")
    assert done.code == 2 and "8 examples" in done.err
    done = in_process("verify", plan, "--calibration", others, "--by", "perplexity")
    assert done.code == 2 and "error, angle" in done.err
