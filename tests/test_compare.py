"""frog.compare from end to end: every make of argument, series, types, adapters, compensation."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import frog
from frog.api.comparing import _steps
from tests.weights.test_adapter import adapter, pair_of
from tests.weights.tiny_models import build

QUICK = frog.Settings(bootstrap=20, curves=False)
NAMES = [f"model.layers.{i}.self_attn.{x}_proj.weight" for i in range(3) for x in "qkvo"]


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(64, 64, generator=generator) for name in NAMES} | {
        f"model.layers.{i}.input_layernorm.weight": torch.ones(64) for i in range(3)
    }


def moved(old: dict[str, torch.Tensor], size: float = 0.01) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        name: x + size * torch.randn(x.shape, generator=generator) if x.ndim == 2 else x.clone()
        for name, x in old.items()
    }


def compare(*models: object, **facts: object) -> frog.Comparison:
    facts = {"settings": QUICK, **facts}
    made = frog.compare(*models, **facts)  # type: ignore[arg-type]
    assert isinstance(made, frog.Comparison)
    return made


def test_two_states_give_everything() -> None:
    old = state()
    new = moved(old)
    made = compare(old, new)
    assert [x.name for x in made.layers] == NAMES
    assert made.before.weights and made.after.weights
    for row in made.layers:
        exact = float((new[row.name] - old[row.name]).norm() / old[row.name].norm())
        assert row.drift == pytest.approx(exact, rel=1e-4)
        assert row.missing == {} and not row.identical
        assert row.alpha_change_low <= row.change["alpha"] <= row.alpha_change_high
    assert "looks healthy" in made.verdict


def test_files_modules_and_states_are_the_same_model(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 80), torch.nn.Linear(80, 64))
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    made = compare(tmp_path / "m.safetensors", model)
    assert all(x.identical and x.drift == 0.0 for x in made.layers)
    assert made.verdict == "Nothing changed: all 2 layers are identical."


def test_equal_layers_are_measured_once() -> None:
    old = state()
    new = {**old, NAMES[4]: old[NAMES[4]] * 1.01}
    cached: list[bool] = []
    run = frog.Run(jobs=1, on_layer=lambda m: cached.append(m.cached))
    made = compare(old, new, run=run)
    assert [x.name for x in made.layers if not x.identical] == [NAMES[4]]
    # twelve, twelve of which eleven are known, and the one pair that was weighed
    assert len(cached) == 25 and sum(cached) == 11


def test_saved_reports_give_what_needs_no_weights(tmp_path: Path) -> None:
    old, new = state(), moved(state())
    for name, model in (("old", old), ("new", new)):
        frog.analyze(model, QUICK).to_json(tmp_path / f"{name}.json")
    made = compare(tmp_path / "old.json", str(tmp_path / "new.json"), settings=None)
    assert not made.before.weights and not made.after.weights
    assert all(x.missing["drift"] == "needs weights" for x in made.layers)
    full = compare(old, new)
    for row, whole in zip(made.layers, full.layers, strict=True):
        assert row.change == pytest.approx(whole.change, nan_ok=True, abs=0)
        assert row.scale_z == whole.scale_z


def test_a_model_is_measured_as_the_report_beside_it_was() -> None:
    settings = replace(QUICK, estimator="hill", min_evals=20)
    made = compare(frog.analyze(state(), settings), moved(state()), settings=None)
    assert made.after.settings == settings


def test_settings_that_contradict_a_report_are_refused() -> None:
    report = frog.analyze(state(), replace(QUICK, estimator="hill"))
    with pytest.raises(frog.UsageError, match="same estimator"):
        compare(report, state())
    with pytest.raises(frog.UsageError, match="same estimator"):
        compare(report, frog.analyze(state(), QUICK), settings=None)


def test_a_collapse_is_found_and_named() -> None:
    old = state()
    new = moved(old)
    new[NAMES[5]] = 0.1 * new[NAMES[5]]
    made = compare(old, new)
    assert [x.name for x in made.layers if x.scale] == [NAMES[5]]
    first = made.findings[0]
    assert (first.kind, first.severity, first.layer) == ("scale-collapse", "error", NAMES[5])
    assert "scale collapse in " + NAMES[5] in made.verdict
    assert "(limit 4 times or its inverse; z " in first.text, "the limit is that of the factor"
    # nothing but scale changed there
    row = next(x for x in made.layers if x.name == NAMES[5])
    assert row.drift == pytest.approx(0.9, abs=0.01) and row.rotation_left < 0.05


def test_a_change_that_the_gain_undoes_is_compensated() -> None:
    old = state()
    new = moved(old)
    readers = NAMES[4:7]
    for name in readers:
        new[name] = 10 * new[name]
    norm = "model.layers.1.input_layernorm.weight"
    made = compare(old, {**new, norm: new[norm] / 10})
    assert {x.name: x.scale for x in made.layers if x.scale} == dict.fromkeys(
        readers, "compensated"
    )
    told = [x for x in made.findings if x.kind == "scale-collapse"]
    assert {x.severity for x in told} == {"info"} and all(norm in x.text for x in told)
    assert {x.severity for x in made.findings if x.kind == "drift"} == {"info"}  # no alarm either
    assert "3 changes of scale, undone by their neighbours" in made.verdict
    # the wrong way round, or not at all, it is none
    for gain in (new[norm], new[norm] * 10):
        made = compare(old, {**new, norm: gain})
        assert {x.scale for x in made.layers if x.scale} == {"collapse"}


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_a_gain_that_rescales_its_readers_is_a_collapse_of_them(scale: float) -> None:
    old = state()
    norm = "model.layers.1.input_layernorm.weight"
    made = compare(old, {**old, norm: old[norm] * scale})
    assert {x.name: x.scale for x in made.layers if x.scale} == dict.fromkeys(
        NAMES[4:7], "collapse"
    )
    assert all(norm in x.text for x in made.findings if x.kind == "scale-collapse")
    assert made.verdict.startswith("No layer changed, but a normalisation before some did")
    assert "scale collapse in" in made.verdict
    # one of the readers makes up for it: that one is compensated, the others are not
    made = compare(old, {**old, norm: old[norm] * scale, NAMES[5]: old[NAMES[5]] / scale})
    found = {x.name: x.scale for x in made.layers if x.scale}
    assert found == {NAMES[4]: "collapse", NAMES[5]: "compensated", NAMES[6]: "collapse"}


@pytest.mark.parametrize(
    ("one", "other", "joined"),
    [
        ("self_attn.q_proj", "self_attn.k_proj", True),
        ("self_attn.v_proj", "self_attn.o_proj", True),
        ("mlp.up_proj", "mlp.down_proj", True),
        ("mlp.gate_proj", "mlp.down_proj", False),  # a function stands between them
        ("self_attn.q_proj", "self_attn.o_proj", False),
    ],
)
def test_scale_moved_between_two_matrices(one: str, other: str, joined: bool) -> None:
    old = build("llama")
    names = [f"model.layers.1.{x}.weight" for x in (one, other)]

    def scaled(factors: tuple[float, float]) -> torch.nn.Module:
        new = copy.deepcopy(old)
        with torch.no_grad():
            for name, factor in zip(names, factors, strict=True):
                new.get_parameter(name).mul_(factor)
        return new

    tokens = torch.arange(3, 9)[None]
    with torch.no_grad():
        same = torch.allclose(old(tokens).logits, scaled((8, 1 / 8))(tokens).logits, rtol=1e-3)
    assert same == joined  # the model itself says which pairs undo each other
    made = compare(old, scaled((8, 1 / 8)))
    found = {x.name: x.scale for x in made.layers if x.scale}
    assert found == dict.fromkeys(names, "compensated" if joined else "collapse")
    for factors in ((8, 8), (8, 1 / 80)):
        made = compare(old, scaled(factors))
        assert {x.scale for x in made.layers if x.name in names} == {"collapse"}


def test_gains_that_change_a_little_or_all_together_are_no_collapse() -> None:
    old = state()
    norms = [name for name in old if "norm" in name]
    made = compare(old, {**moved(old), **{name: old[name] * 1.6 for name in norms}})
    assert not any(x.scale for x in made.layers)
    # nor is a layer's own large change laid on a gain that hardly takes part in it
    wild = old[norms[1]].clone()
    wild[3] = 2.2
    made = compare(old, {**old, norms[1]: wild, NAMES[5]: old[NAMES[5]] * 1.98})
    assert not any(x.scale for x in made.layers)


def test_most_layers_rescaled_together_do_not_look_healthy() -> None:
    old = state()
    made = compare(old, {name: x * 0.4 for name, x in old.items()})
    assert not any(x.scale for x in made.layers)
    assert "12 layers changed in scale" in made.verdict and "healthy" not in made.verdict


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_types_alone_make_no_change(dtype: torch.dtype) -> None:
    old = state()
    coarse = {name: x.to(dtype) for name, x in old.items()}
    for made in (compare(old, coarse), compare(coarse, old)):
        assert all(x.drift == 0.0 and x.change["alpha"] == 0.0 for x in made.layers)
        assert "Nothing changed but the type" in made.verdict
        assert any(f"compared as {str(dtype)[6:]}" in note for note in made.notes)


def test_types_of_reports_cannot_be_brought_together_and_that_is_told() -> None:
    coarse = {name: x.bfloat16() for name, x in state().items()}
    made = compare(frog.analyze(state(), QUICK), frog.analyze(coarse, QUICK))
    assert any("float32 before and bfloat16 after, compared as measured" in x for x in made.notes)


def test_an_adapter_stands_for_its_base_with_the_update_added(tmp_path: Path) -> None:
    base = state()
    module = NAMES[0].removesuffix(".weight")
    folder = adapter(tmp_path / "a", pair_of(module, 64, 64))
    made = compare(base, folder)
    rows = {x.name: x for x in made.layers}
    assert list(rows) == NAMES and [n for n in rows if not rows[n].identical] == [NAMES[0]]
    factors = pair_of(module, 64, 64)
    update = (
        4.0
        * factors[f"base_model.model.{module}.lora_B.weight"]
        @ (factors[f"base_model.model.{module}.lora_A.weight"])
    )
    expected = float(update.norm() / base[NAMES[0]].norm())
    assert rows[NAMES[0]].drift == pytest.approx(expected, rel=1e-4)
    assert any("is an adapter" in note for note in made.notes)
    named = compare(base, folder, base=base)
    assert [x.drift for x in named.layers] == [x.drift for x in made.layers]


def test_two_adapters_without_a_base_are_compared_as_updates(tmp_path: Path) -> None:
    module = NAMES[0].removesuffix(".weight")
    a = adapter(tmp_path / "a", pair_of(module, 64, 64))
    b = adapter(tmp_path / "b", pair_of(module, 64, 64, seed=1))
    made = compare(a, b)
    assert [x.name for x in made.layers] == [f"{module}.lora"]
    assert made.layers[0].drift > 1
    assert "its update alone is compared" in " ".join(made.notes)


def test_an_interruption_is_not_hidden_by_a_folder_that_cannot_be_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Layers in flight still write into the folder for equal layers while it is taken away."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def not_empty(*_: object, **__: object) -> None:
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr("frog.api.comparing._measured", interrupted)
    monkeypatch.setattr("os.rmdir", not_empty)
    with pytest.raises(KeyboardInterrupt):
        frog.compare(state(), state(1))


def test_an_adapter_beside_a_report_needs_its_base(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", pair_of(NAMES[0].removesuffix(".weight"), 64, 64))
    with pytest.raises(frog.UsageError, match="base="):
        compare(frog.analyze(state(), QUICK), folder)


def test_what_has_no_partner_is_listed_and_the_rest_compared() -> None:
    old, new = state(), moved(state())
    del new[NAMES[0]]
    new[NAMES[1]] = torch.randn(64, 70)
    made = compare(old, new)
    assert set(made.only_before) == set(NAMES[:2]) and set(made.only_after) == {NAMES[1]}
    assert "64 x 64 before, 64 x 70 after" in made.only_after[NAMES[1]]
    assert "without a partner" in made.verdict and len(made.layers) == 10


def test_nan_in_one_model() -> None:
    new = moved(state())
    new[NAMES[2]][3, 3] = math.nan
    made = compare(state(), new)
    row = next(x for x in made.layers if x.name == NAMES[2])
    assert math.isnan(row.drift) and row.missing["drift"] == "NaN or Inf in the weights"
    assert made.findings[0].kind == "nonfinite"


def test_include_and_exclude_hold_for_models_and_reports() -> None:
    old = state()
    report = frog.analyze(old, QUICK)
    for before in (old, report):
        made = compare(before, moved(old), include=r"q_proj", exclude=r"layers\.2")
        assert [x.name for x in made.layers] == [NAMES[0], NAMES[4]]
        assert not made.only_before and not made.only_after
    with pytest.raises(frog.UsageError, match="leaves no matrix"):
        compare(old, old, include="nothing")


def test_more_than_two_become_a_series(tmp_path: Path) -> None:
    places = []
    for step in (0, 100, 50):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file(moved(state(), 1e-4 * step), folder / "model.safetensors")
        places.append(folder)
    made = frog.compare(*places, settings=QUICK)
    assert isinstance(made, frog.Series)
    assert made.labels == ("checkpoint-0", "checkpoint-100", "checkpoint-50")
    assert made.steps == (0.0, 100.0, 50.0)
    assert len(made.reports) == 3 and len(made.comparisons) == 2
    drifts = [x.summary["drift_total"] for x in made.comparisons]
    assert drifts[0] == pytest.approx(2 * drifts[1], rel=1e-3)
    assert made.verdict.startswith("3 models, each against checkpoint-0")
    assert json.loads(made.to_json())["format"] == "frog-series"


def test_a_pathway_that_is_no_longer_read_is_lost() -> None:
    """Layer 1 reads the channel that layer 0 writes; afterwards it reads others as strongly."""
    generator = torch.Generator().manual_seed(3)
    noise = [torch.randn(64, 64, generator=generator) for _ in range(3)]
    channel, other = torch.linalg.qr(noise[2])[0].split([32, 32], dim=1)
    writer = noise[0] + 30 * channel[:, :16] @ noise[2][:16]
    reads = [noise[1] + 30 * noise[2][:, :16] @ x[:, :16].T for x in (channel, other)]
    old, new = ({"0.weight": writer, "1.weight": x} for x in reads)
    settings = replace(QUICK, flow=True)
    found = compare(old, new, settings=settings).findings
    assert [(x.layer, x.certainty) for x in found if x.kind == "pathway-lost"] == [
        ("1.weight", "possible")
    ]
    assert not [x for x in compare(old, old, settings=settings).findings]
    assert not [x for x in compare(old, new).findings if x.kind == "pathway-lost"]


def test_labels_of_a_series_are_all_different() -> None:
    made = frog.compare(state(), state(), state(), settings=QUICK)
    assert isinstance(made, frog.Series)
    assert len(set(made.labels)) == 3 and made.steps == (0.0, 1.0, 2.0)


@pytest.mark.parametrize(
    "labels, steps",
    [
        (["MiniLM-L6-v2", "checkpoint-49", "checkpoint-98"], (0, 49, 98)),
        (["step_10.pt", "step_20.pt", "step_5.pt"], (10, 20, 5)),
        (["epoch1", "other", "epoch3"], (0, 1, 2)),
    ],
)
def test_steps_are_read_from_names(labels: list[str], steps: tuple[int, ...]) -> None:
    assert _steps(labels) == steps


def test_a_comparison_survives_its_file(tmp_path: Path) -> None:
    from frog.serial import comparison_from_json

    made = compare(state(), moved(state()))
    back = comparison_from_json(made.to_json(tmp_path / "c.json"), "c.json")
    assert back.verdict == made.verdict and back.to_json() == made.to_json()


@pytest.mark.parametrize("bad", ["no/such/model", 3])
def test_a_model_that_cannot_be_read_is_a_model_error(bad: object) -> None:
    with pytest.raises(frog.ModelError):
        compare(state(), bad)


def test_a_json_that_is_no_report_is_a_report_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"format": "other"}')
    with pytest.raises(frog.ReportError):
        compare(state(), tmp_path / "x.json")


def test_a_shard_cannot_be_compared() -> None:
    with pytest.raises(frog.UsageError, match="whole models"):
        compare(state(), state(), run=frog.Run(shard=(1, 2)))


def test_jobs_change_no_number() -> None:
    old, new = state(), moved(state())
    one = compare(old, new, run=frog.Run(jobs=1))
    two = compare(old, new, run=frog.Run(jobs=2))
    for a, b in zip(one.layers, two.layers, strict=True):
        for name in ("drift", "rotation_left", "rotation_right", "spectral_share"):
            assert np.isclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-12)
