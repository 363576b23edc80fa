"""Each row of the table of bad input in the interface, at the command line.

Those of `compare`, `report` and `gate` are in the files of these verbs.

Rows that belong to verbs which this version does not have, to be tested with the verb:

| row | verb |
|---|---|
| budget out of range | `plan`, `select` |
| delta applied to another base | `delta apply` |
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.cli.runs import Done, files_of, weight

ADVICE = {  # what must be what, what was got, what to do: words that the message must hold
    "missing": ("no such file or folder", "model-x", "A model is"),
    "misspelt": ("no such file or folder", "Did you mean", "model"),
    "truncated": ("model.safetensors", "download or save it again"),
    "corrupt": ("model.safetensors", "expected", "download or save it again"),
    "wrong format": ("notes.txt", "not a file that FROG reads"),
    "other format": ("model.gguf",),
    "absent shard": ("model-00002-of-00002.safetensors", "download the missing"),
    "code in a pickle": ("model.pt", "weights"),
    "empty folder": ("empty", "holds no weights"),
    "pipe": ("pipe.safetensors", "must be a file or a folder"),
}


class Payload:
    """A pickle of this runs code when it is loaded."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


def damaged(kind: str, model: Path) -> Path:
    """A model that is bad in one way, made from a sound one."""
    folder, file = model.parent, model / "model.safetensors"
    whole = file.read_bytes()
    if kind == "missing":
        return folder / "nowhere" / "model-x"
    if kind == "misspelt":
        return folder / "modle"
    if kind == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    elif kind == "corrupt":
        length = struct.unpack("<Q", whole[:8])[0]
        file.write_bytes(whole[:8] + whole[8 : 8 + length].replace(b"F32", b"F99") + whole[8:])
    elif kind == "wrong format":
        (folder / "notes.txt").write_text("no weights here")
        return folder / "notes.txt"
    elif kind == "other format":
        (folder / "model.gguf").write_bytes(b"GGUF")
        return folder / "model.gguf"
    elif kind == "absent shard":
        names = list(load_file(file))
        index = {
            name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)
        }
        file.rename(model / "model-00001-of-00002.safetensors")
        text = json.dumps({"metadata": {}, "weight_map": index})
        (model / "model.safetensors.index.json").write_text(text)
    elif kind == "code in a pickle":
        (folder / "model.pt").write_bytes(pickle.dumps({"w": Payload()}))
        return folder / "model.pt"
    elif kind == "empty folder":
        (folder / "empty").mkdir()
        return folder / "empty"
    elif kind == "pipe":
        os.mkfifo(folder / "pipe.safetensors")
        return folder / "pipe.safetensors"
    return model


def refused(done: Done, code: int, *words: str) -> None:
    """The command ended with the code, nothing on stdout, a message, and no traceback."""
    assert done.code == code, done
    assert done.out == ""
    assert "Traceback" not in done.err
    assert done.err.strip(), "an error says what is wrong"
    for word in words:
        assert word in done.err, (word, done.err)


# ------------------------------------------------------------- models that cannot be read: 4


@pytest.mark.parametrize("verb", ["analyze", "inspect"])
@pytest.mark.parametrize("kind", ADVICE)
def test_bad_model_is_refused_and_leaves_nothing(kind, verb, model, in_process, monkeypatch):
    monkeypatch.chdir(model.parent)
    path = damaged(kind, model)
    before = files_of(model.parent)
    outputs = ("-o", model.parent / "out") if verb == "analyze" else ()
    refused(in_process(verb, path, *outputs), 4, *ADVICE[kind])
    assert files_of(model.parent) == before
    assert not (model.parent / "out").exists()


def test_bad_model_in_a_process_of_its_own(model, own_process):
    path = damaged("truncated", model)
    done = own_process("analyze", path, "--json", model.parent / "report.json")
    refused(done, 4, *ADVICE["truncated"])
    assert not (model.parent / "report.json").exists()


def test_bad_model_leaves_the_earlier_report_alone(model, in_process, tmp_path):
    assert in_process("analyze", model, "-o", tmp_path / "out").code == 0
    before = files_of(tmp_path / "out")
    refused(in_process("analyze", damaged("truncated", model), "-o", tmp_path / "out"), 4)
    assert files_of(tmp_path / "out") == before


# ------------------------------------------------ matrices that cannot be measured in full


def save(folder: Path, **tensors: np.ndarray) -> Path:
    """A folder with these matrices as ``layers.NAME.weight``."""
    folder.mkdir(exist_ok=True)
    named = {f"layers.{name}.weight": array for name, array in tensors.items()}
    save_file(named, folder / "model.safetensors")
    return folder


def layers(path: Path) -> dict[str, dict]:
    report = json.loads(path.read_text())
    return {layer["name"].split(".")[1]: layer for layer in report["layers"]}


def test_nan_and_inf_are_counted_and_the_others_measured(tmp_path, own_process):
    bad, good = weight(64, 64), weight(64, 64, seed=1)
    bad[3, 5], bad[7, 0], bad[9, 9] = np.nan, np.inf, -np.inf
    folder = save(tmp_path / "m", bad=bad, good=good)
    done = own_process("analyze", folder, "--json", tmp_path / "r.json", "--format", "json")
    assert done.code == 5
    assert "1 layer could not be measured" in done.err
    found = layers(tmp_path / "r.json")
    assert found["bad"]["fit_status"] == "nonfinite"
    assert all(v is None or k in COUNTS for k, v in found["bad"]["values"].items())
    assert found["good"]["fit_status"] == "ok"
    assert found["good"]["values"]["alpha"] > 1
    report = json.loads(done.out)
    (finding,) = [f for f in report["findings"] if f["kind"] == "nonfinite"]
    assert (finding["severity"], finding["certainty"]) == ("error", "certain")
    assert finding["value"] == 3
    assert "3 NaN or Inf of 4096" in finding["text"]
    assert report["summary"]["alpha"] == found["good"]["values"]["alpha"]
    assert report["summary"]["layers_fitted"] == 1


COUNTS = {"num_evals", "M", "N", "Q", "rf"}
"""Columns that need the shape alone."""


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("estimator", ["ks", "hill", "tpl"])
def test_matrices_without_a_tail_have_no_alpha_and_say_why(
    estimator, precision, tmp_path, in_process
):
    outer = np.outer(np.arange(-31, 33), np.arange(1, 81)).astype(np.float32)  # exact: integers
    folder = save(
        tmp_path / "m",
        zero=np.zeros((64, 80), np.float32),
        rank_one=outer,
        constant=np.full((64, 80), 0.5, np.float32),
        row=weight(1, 300),
        few=weight(12, 300),
        identity=np.eye(64, dtype=np.float32),
        good=weight(64, 80),
    )
    words = ("--estimator", estimator, "--precision", precision)
    done = in_process("analyze", folder, *words, "--json", tmp_path / "r.json")
    assert done.code == 0, done
    found = layers(tmp_path / "r.json")
    expected = {"zero": "degenerate", "rank_one": "too_few", "constant": "too_few",
                "row": "too_few", "few": "too_few", "identity": "degenerate"}  # fmt: skip
    for name, status in expected.items():
        assert found[name]["fit_status"] == status, name
        assert found[name]["values"]["alpha"] is None, name
        if name != "zero":
            assert found[name]["values"]["log_norm"] is not None, name
    assert found["zero"]["values"]["norm"] == 0
    # float32 cannot tell whether the rest is zero, and says so
    ranks = (1,) if precision == "exact" else (1, None)
    assert found["rank_one"]["values"]["matrix_rank"] in ranks
    assert found["good"]["values"]["alpha"] is not None
    summary = json.loads((tmp_path / "r.json").read_text())["summary"]
    assert summary["alpha_layers"] == 1, "a failed fit never enters a mean"
    assert summary["alpha"] == pytest.approx(found["good"]["values"]["alpha"])


def test_a_tensor_that_cannot_be_read_is_named_and_the_others_measured(
    model, in_process, monkeypatch
):
    from frog.errors import ModelError
    from frog.metrics import schedule

    measure = schedule.measure

    def fail_on_one(matrix, *words, **more):
        if "k_proj" in matrix.name:
            raise ModelError("model.safetensors changed since it was listed: run again")
        return measure(matrix, *words, **more)

    monkeypatch.setattr(schedule, "measure", fail_on_one)
    done = in_process("analyze", model, "--json", model.parent / "r.json")
    assert done.code == 5
    assert "1 layer could not be measured; everything else was" in done.err
    shown = " ".join(done.out.split())
    assert "k_proj.weight failed: model.safetensors changed since it was listed: run again" in shown
    report = json.loads((model.parent / "r.json").read_text())
    assert sum(bool(layer["values"]) for layer in report["layers"]) == 3


def test_packed_codes_are_never_weights(tmp_path, in_process):
    """A GPTQ-like layer without the tensors that unpacking needs, beside a plain one."""
    folder = tmp_path / "m"
    folder.mkdir()
    codes = np.random.default_rng(0).integers(-(2**31), 2**31, (32, 64), dtype=np.int32)
    tensors = {"layers.0.mlp.up_proj.qweight": codes, "layers.1.mlp.up_proj.weight": weight(64, 64)}
    save_file(tensors, folder / "model.safetensors")
    done = in_process("analyze", folder, "--json", tmp_path / "r.json")
    assert done.code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    by_name = {layer["name"]: layer for layer in report["layers"]}
    packed = by_name["layers.0.mlp.up_proj.qweight"]
    assert packed["skipped"] and not packed["values"]
    assert by_name["layers.1.mlp.up_proj.weight"]["values"]["alpha"] is not None


def test_fp8_is_dequantised(tmp_path, in_process):
    from safetensors.torch import save_file as save_torch

    plain = torch.from_numpy(weight(64, 64))
    packed = {"layers.0.mlp.up_proj.weight": (plain / 2).to(torch.float8_e4m3fn),
              "layers.0.mlp.up_proj.weight_scale": torch.tensor([2.0])}  # fmt: skip
    (tmp_path / "m").mkdir()
    save_torch(packed, tmp_path / "m" / "model.safetensors")
    done = in_process("analyze", tmp_path / "m", "--json", tmp_path / "r.json")
    assert done.code == 0
    values = layers(tmp_path / "r.json")["0"]["values"]
    assert values["norm"] == pytest.approx(float(plain.double().square().sum()), rel=0.05)


# ------------------------------------------------------------- wrong use: 2

WRONG_USE = {
    "estimator": (["--estimator", "kss"], ("Did you mean 'ks'", "hill", "tpl")),
    "precision": (["--precision", "double"], ("exact", "fast")),
    "compat": (["--compat", "weightwacher"], ("Did you mean 'weightwatcher'",)),
    "compat and estimator": (["--compat", "weightwatcher", "--estimator", "hill"], ("'ks'",)),
    "regex": (["--include", "("], ("--include", "regular expression", "'('")),
    "regex 2": (["--exclude", "*a"], ("--exclude", "regular expression")),
    "regex matching nothing": (["--include", "no_such"], ("no_such", "attn.k_proj", "inspect")),
    "regex excluding all": (["--exclude", "."], ("leaves no matrix",)),
    "shard word": (["--shard", "half"], ("i/n", "1/4", "'half'")),
    "shard range": (["--shard", "3/2"], ("1 <= i <= n", "3/2")),
    "shard zero": (["--shard", "0/2"], ("1 <= i <= n",)),
    "shard of none": (["--shard", "0/0"], ("1 <= i <= n",)),
    "min evals": (["--min-evals", "1"], ("at least 2", "1")),
    "min evals word": (["--min-evals", "many"], ("--min-evals", "integer")),
    "bootstrap": (["--bootstrap", "5"], ("at least 20", "5")),
    "bootstrap negative": (["--bootstrap", "-1"], ("at least 20", "-1")),
    "window": (["--window", "farm"], ("Did you mean 'farms'", "full")),
    "compat and window": (["--compat", "weightwatcher", "--window", "farms"], ("whole matrix",)),
    "randomize": (["--randomize", "-1"], ("at least 0", "-1")),
    "flow of a part": (["--shard", "1/2", "--flow"], ("flow",)),
    "jobs": (["--jobs", "0"], ("at least 1", "0")),
    "jobs negative": (["--jobs", "-3"], ("at least 1", "-3")),
    "device": (["--device", "gpu"], ("cuda", "cpu")),
    "format": (["--format", "xml"], ("auto, human, json, quiet", "xml")),
    "unknown flag": (["--estimater", "ks"], ("--estimater", "--estimator")),
    "second model": (["another"], ("another",)),
    "base of no adapter": (["--base", "m"], ("adapter",)),
}


@pytest.mark.parametrize("kind", WRONG_USE)
def test_wrong_use_names_the_range_and_the_nearest(kind, model, in_process):
    words, expected = WRONG_USE[kind]
    out = model.parent / "out"
    refused(in_process("analyze", model, "-o", out, *words), 2, *expected)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["analyse", "m"], ("analyse", "analyze")),
        (["list", "metric"], ("Did you mean 'metrics'",)),
        (["inspect"], ("MODEL",)),
        (["inspect", "m", "--format", "yaml"], ("auto, human, json, quiet",)),
        (["merge"], ("parts",)),
        (["merge", "absent.json"], ("absent.json", "no such file", "--json FILE")),
        (["merge", "."], (".", "cannot be read")),
    ],
)
def test_wrong_use_of_other_verbs(words, expected, in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(in_process(*words), 2, *expected)


def test_wrong_use_in_a_process_of_its_own(model, own_process):
    done = own_process("analyze", model, "--estimator", "kss")
    refused(done, 2, "Did you mean 'ks'")
    assert "\x1b" not in done.err


@pytest.mark.parametrize("verb", ["analyze", "inspect"])
def test_a_report_where_weights_are_needed(verb, model, in_process, tmp_path):
    path = tmp_path / "r.json"
    assert in_process("analyze", model, "--json", path).code == 0
    refused(in_process(verb, path), 4, "r.json", "holds no weights", "frog report")


def test_unknown_column_of_the_table(model):
    import frog

    report = frog.analyze(model)
    with pytest.raises(frog.UsageError, match="Did you mean 'stable_rank'"):
        report.table(sort="stabel_rank")


def test_a_report_that_is_none(tmp_path, in_process):
    path = tmp_path / "r.json"
    path.write_text('{"format": "frog-report"')
    refused(in_process("merge", path), 2, str(path), "not JSON", "frog analyze")
    path.write_text('{"format": "something"}')
    refused(in_process("merge", path), 2, str(path), "frog-report", "something")
    path.write_text('{"format": "frog-report", "version": 99}')
    refused(in_process("merge", path), 2, str(path), "later frog", "upgrade")
