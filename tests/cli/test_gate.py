"""`frog gate` at the command line: passes, fails, and every policy that is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import frog
from frog.errors import ModelError, UsageError
from tests.cli.runs import files_of, weight
from tests.cli.test_bad_input import ADVICE, damaged, refused
from tests.test_docs import blocks
from tests.weights.test_adapter import adapter, pair_of

LAYER = "model.layers.0.attn.q_proj.weight"


@pytest.fixture
def policy(tmp_path: Path):
    """``policy(text) -> Path`` of a policy whose first line is ``version: 1``."""

    def write(text: str) -> Path:
        path = tmp_path / "policy.yaml"
        path.write_text(f"version: 1\n{text}\n")
        return path

    return write


@pytest.fixture
def report(model: Path, in_process) -> Path:
    path = model.parent / "last.json"
    assert in_process("analyze", model, "--json", path).code == 0
    return path


def changed(model: Path, factor: float) -> Path:
    """The model with one matrix scaled."""
    folder = model.parent / "changed"
    folder.mkdir()
    tensors = load_file(model / "model.safetensors")
    tensors[LAYER] = tensors[LAYER] * np.float32(factor)
    save_file(tensors, folder / "model.safetensors")
    return folder


# --------------------------------------------------------------------- passes and fails


def test_a_sound_model_passes_the_default_policy(model, in_process):
    done = in_process("gate", model)
    assert done.code == 0, done
    assert done.out.splitlines()[-1].startswith(f"PASS  {model}: 10 rules checked, 0 errors")
    assert "measured 4/4" in done.err


def test_a_breach_fails_with_a_line_that_names_rule_layer_value_and_limit(
    model, policy, in_process
):
    done = in_process("gate", model, "--policy", policy("limits: {alpha: {max: 1.5, role: q}}"))
    assert done.code == 3, done
    lines = done.out.splitlines()
    (line,) = [line for line in lines if "limits.alpha" in line]
    assert re.fullmatch(rf"✖ limits\.alpha  {re.escape(LAYER)}: alpha [\d.]+ is above 1\.5", line)
    assert lines[-1].startswith(f"FAIL  {model}: 11 rules checked, 1 error and")
    assert f"Next  frog analyze {model} -o frog-out" in done.err


def test_a_saved_report_needs_no_weights(model, report, policy, in_process):
    (model / "model.safetensors").unlink()
    assert in_process("gate", report).code == 0
    done = in_process("gate", report, "--policy", policy("limits: {alpha: {max: 1.5}}"))
    assert done.code == 3
    assert "measured" not in done.err


def test_a_scaled_layer_fails_against_model_and_report(model, report, policy, in_process):
    worse = changed(model, 0.05)
    for baseline in (model, report):
        done = in_process("gate", worse, "--baseline", baseline)
        assert done.code == 3, done
        assert "findings.scale-collapse" in done.out
        assert f"Next  frog compare {baseline} {worse}" in done.err
    drift = policy("changes: {drift: {max: 0.5}, log_norm: {max: 0.3, direction: down}}")
    done = in_process("gate", worse, "--baseline", model, "--policy", drift)
    assert f"✖ changes.drift  {LAYER}: drift 0.95 is above 0.5" in done.out
    assert f"✖ changes.log_norm  {LAYER}: change of log_norm 2.602 is above 0.3" in done.out


def test_against_itself_a_model_passes(model, report, in_process):
    assert in_process("gate", model, "--baseline", model).code == 0
    assert in_process("gate", report, "--baseline", report).code == 0


def test_fail_on_overrides_the_policy(report, policy, in_process):
    path = policy("limits: {alpha: {max: 1.5, severity: warning}}")
    assert in_process("gate", report, "--policy", path).code == 0
    assert in_process("gate", report, "--policy", path, "--fail-on", "warning").code == 3
    strict = policy("fail_on: warning\nlimits: {alpha: {max: 1.5, severity: warning}}")
    assert in_process("gate", report, "--policy", strict).code == 3
    assert in_process("gate", report, "--policy", strict, "--fail-on", "error").code == 0


def test_json_is_pure_and_whole(report, policy, in_process, tmp_path):
    path = policy("limits: {alpha: {max: 1.5}}\nsummary: {alpha: {max: 9}}")
    words = ("--policy", path, "--format", "json", "--json", tmp_path / "g.json")
    done = in_process("gate", report, *words)
    assert done.code == 3
    found = json.loads(done.out)
    assert (found["format"], found["version"], found["passed"]) == ("frog-gate", 1, False)
    alphas = [x for x in found["breaches"] if x["rule"] == "limits.alpha"]
    assert len(alphas) == 4
    assert all(x["value"] > 1.5 and x["limit"] == 1.5 and x["layer"] for x in alphas)
    assert (tmp_path / "g.json").read_text() == done.out
    quiet = in_process("gate", report, "--policy", path, "--format", "quiet")
    assert (quiet.code, quiet.out, quiet.err) == (3, "", "")


def test_a_model_is_measured_with_the_settings_of_the_policy(model, policy, in_process):
    """Hill's alpha of every layer is another than the one by ks."""
    path = policy("settings: {estimator: hill, bootstrap: 0}\nlimits: {alpha: {max: 1}}")
    done = in_process("gate", model, "--policy", path, "--format", "json")
    found = {x["layer"]: x["value"] for x in json.loads(done.out)["breaches"] if x["layer"]}
    settings = frog.Settings(estimator="hill", bootstrap=0)
    hill = {x.name: x.values["alpha"] for x in frog.analyze(model, settings).measured}
    assert found == hill


# ----------------------------------------------------------- what could not be checked: 5


def with_nan(folder: Path) -> Path:
    folder.mkdir()
    bad = weight(64, 64)
    bad[0, 0] = np.nan
    tensors = {"layers.0.w.weight": bad, "layers.1.w.weight": weight(64, 64, 1)}
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_failed_layer_is_an_error_and_if_allowed_a_partial_result(tmp_path, policy, in_process):
    folder = with_nan(tmp_path / "m")
    done = in_process("gate", folder)
    assert done.code == 3, "3 before 5"
    assert "findings.nonfinite" in done.out
    done = in_process("gate", folder, "--policy", policy("findings: {nonfinite: warning}"))
    assert done.code == 5
    assert "PASS" in done.out
    assert "1 tensor not checked" in done.out
    known = policy("ignore: [{layers: 'layers.0', reason: known to be broken}]")
    assert in_process("gate", folder, "--policy", known).code == 0


def test_layers_without_a_partner_are_told(model, report, policy, in_process, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    tensors = load_file(model / "model.safetensors")
    del tensors["model.layers.0.attn.k_proj.weight"]
    save_file(tensors, other / "model.safetensors")
    done = in_process("gate", other, "--baseline", report)
    assert done.code == 5, done
    assert "! unmatched  model.layers.0.attn.k_proj.weight could not be compared" in done.out
    strict = policy("unmatched: error")
    assert in_process("gate", other, "--baseline", report, "--policy", strict).code == 3
    lax = policy("unmatched: ignore")
    assert in_process("gate", other, "--baseline", report, "--policy", lax).code == 0


def test_drift_against_a_report_warns(model, report, policy, in_process):
    other = changed(model, 1.1)
    path = policy("changes: {drift: {max: 0.01, role: q}}")
    done = in_process("gate", other, "--baseline", report, "--policy", path)
    assert done.code == 0, done
    assert "changes.drift could not be checked" in done.out
    assert "needs weights" in done.out
    assert in_process("gate", other, "--baseline", model, "--policy", path).code == 3


# ---------------------------------------------------------------- models that are bad: 4


@pytest.mark.parametrize("kind", ADVICE)
def test_a_model_that_cannot_be_read(kind, model, in_process, monkeypatch):
    monkeypatch.chdir(model.parent)
    path = damaged(kind, model)
    before = files_of(model.parent)
    refused(in_process("gate", path, "--json", model.parent / "g.json"), 4, *ADVICE[kind])
    assert files_of(model.parent) == before


def test_a_baseline_that_cannot_be_read(model, report, in_process, tmp_path):
    refused(in_process("gate", report, "--baseline", tmp_path / "no" / "m"), 4, "no such file")


# ------------------------------------------------------------- policies that are wrong: 2

WRONG = {
    "number": ("limits:\n  alpha:\n    max: six", ("yaml:4: limits.alpha.max: must be a number",)),
    "metric": ("limits: {alhpa: {max: 6}}", ("yaml:2", "Did you mean 'alpha'")),
    "key": ("limts: {}", ("yaml:2", "Did you mean 'limits'")),
    "kind": ("findings: {untraind: error}", ("yaml:2", "Did you mean 'untrained'")),
    "mean": ("summary: {alpha_mean: {max: 6}}", ("yaml:2", "no mean 'alpha_mean'")),
    "regex": ("limits: {alpha: {max: 6, layers: '['}}", ("yaml:2", "regular expression")),
    "regex of nothing": ("limits: {alpha: {max: 6, layers: xyz}}", ("yaml:2", "'xyz'", "q_proj")),
    "no baseline": ("changes: {drift: {max: 1}}", ("yaml:2", "--baseline")),
    "no YAML": ("limits: [", ("yaml:3: must be YAML",)),
    "setting": ("settings: {estimator: kss}", ("Did you mean 'ks'",)),
    "setting out of range": ("settings: {bootstrap: 3}", ("at least 20",)),
    "other settings": ("settings: {estimator: hill}", ("estimator must be 'hill'", "'ks'")),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_policies(kind, report, policy, in_process, tmp_path):
    text, words = WRONG[kind]
    path = policy(text)
    before = files_of(tmp_path)
    done = in_process("gate", report, "--policy", path, "--json", tmp_path / "g.json")
    refused(done, 2, *words)
    assert files_of(tmp_path) == before


def test_a_wrong_policy_is_told_before_anything_is_measured(model, policy, in_process):
    done = in_process("gate", model, "--policy", policy("limits: {alpha: {max: six}}"))
    refused(done, 2, "must be a number")
    assert "measured" not in done.err
    done = in_process("gate", model, "--policy", policy("changes: {drift: {max: 1}}"))
    refused(done, 2, "--baseline")
    assert "measured" not in done.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("MODEL",)),
        (["absent.json"], ("absent.json", "no such file")),
        (["last.json", "--policy", "absent.yaml"], ("absent.yaml", "no such policy")),
        (["last.json", "--policy", "."], ("cannot be read",)),
        (["last.json", "--policy", "last.json"], ("last.json:", "no key 'format'")),
        (["last.json", "--fail-on", "info"], ("no severity 'info'", "warning")),
        (["last.json", "--json", "last.json"], ("must not be a file that is read",)),
        (["last.json", "--baseline", "b.json", "--json", "b.json"], ("must not be a file",)),
        (["last.json", "--json", "absent/g.json"], ("must exist",)),
        (["last.json", "--baseline", "other.json"], ("other.json", "frog-report")),
        (["other.json"], ("other.json", "frog-report", "'frog-compare'")),
        (["last.json", "another"], ("another",)),
        (["last.json", "--base", "m"], ("adapter",)),
        (["last.json", "--polici", "x"], ("--policy",)),
    ],
)
def test_wrong_use(words, expected, report, in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text('{"format": "frog-compare", "version": 1}')
    before = files_of(tmp_path)
    refused(in_process("gate", *words), 2, *expected)
    assert files_of(tmp_path) == before


def test_a_baseline_of_other_settings(model, report, in_process, tmp_path):
    hill = tmp_path / "hill.json"
    words = ("--estimator", "hill", "--bootstrap", "0", "--json", hill)
    assert in_process("analyze", model, *words).code == 0
    refused(in_process("gate", report, "--baseline", hill), 2, "estimator", "'hill'", "'ks'")


# ------------------------------------------------------------------------- python, docs


def test_in_python(model, report, policy):
    result = frog.gate(model, policy=policy("limits: {alpha: {max: 1.5}}"))
    assert isinstance(result, frog.GateResult)
    assert not result.passed
    whole = frog.ModelReport.from_json(report)
    assert frog.gate(whole, baseline=whole).passed
    assert repr(frog.gate(str(report))) == repr(frog.gate(whole))
    with pytest.raises(UsageError, match="no severity 'fatal'"):
        frog.gate(whole, fail_on="fatal")
    with pytest.raises(ModelError):
        frog.gate(model / "absent")


def test_the_workflow_of_the_documents(model, report, in_process, tmp_path, monkeypatch):
    """The command that the page shows, with the policy that the page shows."""
    monkeypatch.chdir(tmp_path)
    texts = blocks("docs/reference/policy.md", "yaml")
    Path("policy.yaml").write_text(next(text for text in texts if "version: 1" in text))
    (command,) = re.findall(r"- run: frog (.*)", next(text for text in texts if "runs-on" in text))
    assert model.name == "model" and report.name == "last.json"
    done = in_process(*command.split())
    assert done.code in (0, 3), done
    assert json.loads(Path("gate.json").read_text())["format"] == "frog-gate"
    assert "^pooler: matches no layer" in done.out


def test_an_adapter_stands_for_its_sum_with_the_baseline(model, policy, in_process, tmp_path):
    """As in a comparison; alone, it is judged as the update that it is."""
    pair = pair_of("model.layers.0.attn.q_proj", up=64, down=64, rank=4)
    folder = adapter(tmp_path / "adapter", pair, r=4, lora_alpha=4)
    path = policy("limits: {log_norm: {min: 99}}")
    words = ("--policy", path, "--format", "json")
    against = in_process("gate", folder, "--baseline", model, *words)
    alone = in_process("gate", folder, *words)
    assert (against.code, alone.code) == (3, 3), (against, alone)
    counts = [
        sum(x["rule"] == "limits.log_norm" for x in json.loads(done.out)["breaches"])
        for done in (against, alone)
    ]
    assert counts == [4, 1], "four matrices of the model, one update"
