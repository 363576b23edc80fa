"""Recommendations: what they owe whatever the report says, and what planted truth must give."""

import json
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import frog
from frog.errors import ReportError, UnknownName, UsageError
from frog.report.recommendations import as_text
from frog.serial.recommendation import recommendation_from_dict
from frog.types import ACTIONS, POLICIES, Finding, LayerReport, ModelReport
from tests.cli.runs import weight
from tests.report.reports import REPORTS
from tests.test_fuzz_report import ODD, Placed, places

STORED = Path(__file__).parents[1] / "report" / "report_v1.json"
SHAPES = [(96, 96), (192, 96), (96, 192), (96, 96)]
RANDOM = "blocks.1.mlp.up_proj.weight"


def weights(planted: bool = True) -> dict[str, torch.Tensor]:
    """Three blocks of four heavy-tailed matrices, an embedding; one matrix is pure noise."""
    names = ("attn.q_proj", "mlp.up_proj", "mlp.down_proj", "attn.o_proj")
    tensors = {"embed_tokens.weight": torch.tensor(weight(300, 96, seed=99))}
    for block in range(3):
        for i, (name, shape) in enumerate(zip(names, SHAPES, strict=True)):
            made = weight(*shape, seed=10 * block + i)
            tensors[f"blocks.{block}.{name}.weight"] = torch.tensor(made)
    if planted:
        noise = np.random.default_rng(3).standard_normal((192, 96)) * 0.2
        tensors[RANDOM] = torch.tensor(noise.astype(np.float32))
    return tensors


@pytest.fixture(scope="module")
def report() -> ModelReport:
    return frog.analyze(weights())


@pytest.fixture(scope="module")
def healthy() -> ModelReport:
    return frog.analyze(weights(planted=False))


def kinds(found: frog.Recommendation) -> dict[str, str]:
    return {x.layer: x.kind for x in found.actions}


# --------------------------------------------------------------------------- planted truth


def test_a_healthy_model_is_tuned_evenly(healthy: ModelReport) -> None:
    found = frog.recommend(healthy)
    told = Counter(x.kind for x in found.actions)
    assert told == {"tune": 12, "leave": 1}
    assert found.plan is not None and found.plan.rule == "uniform"
    assert {round(x.share, 3) for x in found.plan.layers} == {0.032}
    assert all(x.measure and math.isfinite(x.value + x.threshold)
               for x in found.actions if x.kind == "tune")  # fmt: skip


def test_a_planted_random_layer_is_an_open_choice(report: ModelReport) -> None:
    found = frog.recommend(report)
    first = found.actions[0]
    assert (first.kind, first.layer, first.certainty) == ("choose", RANDOM, "certain")
    assert first.threshold <= first.value and first.measure == "stable rank"
    assert 0.8 < first.degree <= 1
    assert [x.kind for x in first.options] == ["tune-harder", "prune", "lower-bits"]
    assert kinds(found) | {RANDOM: "choose"} == kinds(found)
    assert Counter(kinds(found).values()) == {"choose": 1, "tune": 11, "leave": 1}
    assert found.plan is not None and RANDOM not in {x.name for x in found.plan.layers}
    assert found.plan.left_out[RANDOM].startswith("choose: ")
    assert any("waits for your choice" in note for note in found.notes)


@pytest.mark.parametrize(("policy", "kind"), [
    ("tune", "tune-harder"), ("prune", "prune"), ("bits", "lower-bits"),
])  # fmt: skip
def test_the_choice_is_carried_out_and_nothing_else(
    report: ModelReport, policy: str, kind: str
) -> None:
    found = frog.recommend(report, over_parameterised=policy)
    acted = {x.layer: x for x in found.actions}[RANDOM]
    assert acted.kind == kind and not acted.options
    assert {k for k in kinds(found).values() if k not in ("tune", "leave")} == {kind}
    assert found.plan is not None
    rows = {x.name: x for x in found.plan.layers}
    if policy == "tune":
        others = [x.share for name, x in rows.items() if name != RANDOM]
        assert rows[RANDOM].share / max(others) == pytest.approx(1 + acted.degree, rel=0.02)
        assert acted.effect.change > 0 and acted.effect.removed == 0 and acted.effect.bits == 0
    else:
        assert RANDOM not in rows and acted.effect.change < 0
        assert (acted.effect.removed > 0) == (policy == "prune")
        assert (acted.effect.bits > 0) == (policy == "bits")


def test_degree_is_monotone(report: ModelReport) -> None:
    seen = []
    for randomness in (0.2, 0.5, 0.9, 1.4, math.nan):
        layers = tuple(
            replace(x, values={**x.values, "randomness": randomness}) if x.name == RANDOM else x
            for x in report.layers
        )
        turned = replace(report, layers=layers)
        effects = {}
        for policy in ("tune", "prune", "bits"):
            found = frog.recommend(turned, over_parameterised=policy)
            effects[policy] = next(x for x in found.actions if x.layer == RANDOM).effect
        seen.append((effects["tune"].trainable, effects["prune"].removed, -effects["bits"].bits))
    assert seen == sorted(seen) and seen[0] < seen[2]
    assert seen[2] < seen[3] == seen[4]


def test_faults_lead_and_are_left_out(tmp_path: Path) -> None:
    broken = weights()
    broken["blocks.2.attn.o_proj.weight"][3, 4] = math.nan
    broken["blocks.0.mlp.down_proj.weight"].zero_()
    measured = frog.analyze(broken, frog.Settings(bootstrap=0))
    found = frog.recommend(measured)
    assert [x.kind for x in found.actions[:3]] == ["mend", "choose", "prune"]
    first = found.actions[0]
    assert (first.layer, first.value, first.threshold) == ("blocks.2.attn.o_proj.weight", 1.0, 0.0)
    assert first.certainty == "certain"
    zero = next(x for x in found.actions if x.kind == "prune")
    assert zero.layer == "blocks.0.mlp.down_proj.weight" and zero.effect.removed == 96 * 192
    assert found.plan is not None
    assert not {first.layer, zero.layer} & {x.name for x in found.plan.layers}
    assert found.notes[-1] == "mend the faults before anything else"


def test_a_possible_scale_outlier_is_told_and_keeps_its_share(healthy: ModelReport) -> None:
    name = "blocks.1.attn.q_proj.weight"
    outlier = Finding(
        kind="scale-outlier", certainty="possible", severity="warning", layer=name, value=2.0,
        threshold=0.7, text=f"{name} stands out",
    )  # fmt: skip
    found = frog.recommend(replace(healthy, findings=(*healthy.findings, outlier)))
    first = found.actions[0]
    assert (first.kind, first.layer, first.value, first.threshold) == ("mend", name, 2.0, 0.7)
    assert first.effect.trainable == pytest.approx(0.032 * 96 * 96, abs=1)


def test_a_certainly_over_trained_layer_is_frozen_and_a_possible_one_is_not(
    healthy: ModelReport,
) -> None:
    certain, possible = "blocks.0.attn.q_proj.weight", "blocks.2.attn.q_proj.weight"
    words = {certain: ("trained", "over-trained"), possible: ("trained", "possibly over-trained")}
    layers = tuple(replace(x, verdicts=words.get(x.name, x.verdicts)) for x in healthy.layers)
    told = tuple(
        Finding(kind="over-trained", certainty="certain" if name == certain else "possible",
                severity="warning", layer=name, value=1.7, threshold=2.0, text=f"{name}: 1.7")
        for name in words
    )  # fmt: skip
    found = frog.recommend(replace(healthy, layers=layers, findings=(*healthy.findings, *told)))
    by_name = {x.layer: x for x in found.actions}
    assert by_name[certain].kind == "freeze" and by_name[certain].effect.trainable == 0
    assert by_name[certain].effect.change < 0
    assert by_name[possible].kind == "tune" and by_name[possible].certainty == "possible"
    for name in words:
        assert (by_name[name].value, by_name[name].threshold) == (1.7, 2.0)


def test_possible_over_parameterised_is_never_pruned(healthy: ModelReport) -> None:
    name = "blocks.1.attn.o_proj.weight"
    layers = tuple(
        replace(x, verdicts=("trained", "possibly over-parameterised")) if x.name == name else x
        for x in healthy.layers
    )
    turned = replace(healthy, layers=layers)
    expected = {"open": "choose", "prune": "tune", "bits": "tune", "tune": "tune-harder"}
    for policy, kind in expected.items():
        found = frog.recommend(turned, over_parameterised=policy)
        action = next(x for x in found.actions if x.layer == name)
        assert (action.kind, action.certainty) == (kind, "possible")
        assert action.effect.trainable > 0 and action.effect.removed == 0


def test_an_untrained_model_is_to_be_trained_whole() -> None:
    torch.manual_seed(0)
    fresh = {f"blocks.{i}.weight": torch.randn(96, 96) for i in range(10)}
    found = frog.recommend(frog.analyze(fresh, frog.Settings(bootstrap=0)))
    assert [x.kind for x in found.actions] == ["train"] + ["tune"] * 10
    assert found.actions[0].layer == "" and found.actions[0].value > found.actions[0].threshold
    assert found.amount.share == 1.0 and found.amount.reason.startswith("the model is untrained")


def test_small_layers_cannot_be_judged_and_say_so() -> None:
    found = frog.recommend({"a.weight": torch.tensor(weight(12, 8)), "b": torch.ones(3)})
    (action,) = found.actions
    assert (action.kind, action.certainty) == ("tune", "possible")
    assert found.plan is not None and found.plan.total >= 1


# -------------------------------------------------------------------------------- laws


def test_it_is_deterministic_and_blind_to_the_order(report: ModelReport) -> None:
    plain = frog.recommend(report, frog.Workload(steps=50, tokens=10_000))
    for seed in range(4):
        layers, told = list(report.layers), list(report.findings)
        random.Random(seed).shuffle(layers)
        random.Random(seed).shuffle(told)
        turned = replace(report, layers=tuple(layers), findings=tuple(told))
        again = frog.recommend(turned, frog.Workload(steps=50, tokens=10_000))
        assert again.to_json() == plain.to_json()


def test_order_is_by_kind_then_certainty_then_degree(report: ModelReport) -> None:
    found = frog.recommend(report)
    keys = [(ACTIONS.index(x.kind), x.certainty != "certain", -x.degree) for x in found.actions]
    assert keys == sorted(keys)


def test_effects_add_up_to_the_plan(report: ModelReport) -> None:
    for policy in POLICIES:
        found = frog.recommend(report, over_parameterised=policy)
        assert found.plan is not None
        assert sum(x.effect.trainable for x in found.actions) == found.plan.total
        assert found.plan.total == found.amount.count
        assert sum(x.effect.delta_bytes for x in found.actions) == found.amount.delta_bytes
        named = {x.name for x in found.plan.layers} | set(found.plan.left_out)
        assert named == {x.name for x in report.layers}


def test_the_plan_runs_through_select_and_the_tuner(report: ModelReport) -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(96, 96, bias=False)})
    model["a"].weight.data.copy_(torch.tensor(weight(96, 96)))
    found = frog.recommend(model)
    assert found.plan is not None
    chosen = frog.select(model, found.plan)
    assert chosen.count == found.amount.count == round(found.amount.share * 96 * 96)
    state = frog.recommend(report, over_parameterised="tune").plan
    assert state is not None
    assert frog.select(weights(), state).count == state.total
    with frog.Tuner(model, chosen) as tuner:
        assert tuner.trainable == chosen.count


def test_include_exclude_and_roles_narrow(report: ModelReport) -> None:
    found = frog.recommend(report, include=r"blocks\.0", exclude="o_proj")
    assert found.plan is not None
    assert [x.name for x in found.plan.layers] == [
        f"blocks.0.{x}.weight" for x in ("attn.q_proj", "mlp.up_proj", "mlp.down_proj")
    ]
    assert kinds(found)["blocks.0.attn.o_proj.weight"] == "leave"
    with_head = frog.recommend(report, include="embed|q_proj")
    assert with_head.plan is not None and "embed_tokens.weight" in {
        x.name for x in with_head.plan.layers
    }
    roles = frog.recommend(report, roles=["down"]).plan
    assert roles is not None and {x.role for x in roles.layers} == {"down"}
    with pytest.raises(UsageError, match="matches none"):
        frog.recommend(report, include="attention")
    with pytest.raises(UnknownName, match="role"):
        frog.recommend(report, roles=["dwon"])
    with pytest.raises(UnknownName, match="prune"):
        frog.recommend(report, over_parameterised="prnue")


def test_an_empty_report_and_a_stored_one(report: ModelReport) -> None:
    empty = frog.recommend(replace(report, layers=(), findings=(), ranking=()))
    assert not empty.actions and empty.plan is None and empty.amount.count == 0
    assert empty.notes == ("the report holds no measured matrix",)
    assert "no matrix" in str(empty)
    only = frog.recommend(replace(report, layers=report.layers[:1], findings=()))
    assert only.plan is None and [x.kind for x in only.actions] == ["leave"]
    old = frog.recommend(STORED)
    assert old.actions and old.plan is not None
    assert frog.recommend(str(STORED)).to_json() == old.to_json()


def test_two_layers_of_one_name_are_refused(report: ModelReport) -> None:
    twice = replace(report, layers=(*report.layers, report.layers[0]))
    with pytest.raises(ReportError, match="a name of its own"):
        frog.recommend(twice)


def _named(report: ModelReport, sides: tuple[int, int], words: list[str]) -> ModelReport:
    """The same report with names of their own and honest shapes: nothing to refuse it for."""
    layers = tuple(
        replace(x, name=f"{i}.{x.name}", shape=sides, params=math.prod(sides),
                verdicts=tuple(words[i : i + 1]))
        for i, x in enumerate(report.layers)
    )  # fmt: skip
    found = tuple(replace(x, layer=f"0.{x.layer}") for x in report.findings)
    return replace(report, layers=layers, findings=found)


VERDICTS = st.sampled_from(
    ["trained", "over-parameterised", "possibly over-parameterised", "over-trained",
     "possibly over-trained", "untrained", ""]
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    report=REPORTS, policy=st.sampled_from(POLICIES), tokens=st.none() | st.integers(1, 10**12),
    sides=st.none() | st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    words=st.lists(VERDICTS, min_size=3, max_size=3),
)  # fmt: skip
def test_whatever_a_report_says_it_is_answered_or_refused(
    report: ModelReport, policy: str, tokens: int | None, sides: tuple[int, int] | None,
    words: list[str],
) -> None:  # fmt: skip
    if sides is not None:
        report = _named(report, sides, words)
    try:
        found = frog.recommend(report, frog.Workload(tokens=tokens), over_parameterised=policy)
    except frog.FrogError:
        assert sides is None
        return
    text = found.to_json()
    again = recommendation_from_dict(json.loads(text), "r.json")
    assert again.to_json() == text
    assert max((len(x) for x in as_text(found).splitlines()), default=0) <= 80


# ------------------------------------------------------------------------------- files


def test_a_file_comes_back_as_it_was(report: ModelReport, tmp_path: Path) -> None:
    for policy in POLICIES:
        found = frog.recommend(report, frog.Workload(steps=9, full_rate=1e-4, examples=70),
                               over_parameterised=policy)  # fmt: skip
        found.to_json(tmp_path / "r.json")
        again = frog.Recommendation.from_json(tmp_path / "r.json")
        assert repr(again) == repr(found)
        assert again.to_json() == (tmp_path / "r.json").read_text()


SOUND = json.loads(
    frog.recommend(
        ModelReport(
            path="m", digest="d", format="module", frog_version="0", settings=frog.Settings(),
            layers=(
                LayerReport(
                    name="a", kind="linear", role="up", block=0, shape=(8, 8), dtype="float32",
                    params=64, values={"norm": 2.0, "alpha_low": 2.0, "alpha_high": 3.0},
                ),
                LayerReport(
                    name="b", kind="linear", role="up", block=1, shape=(8, 8), dtype="float32",
                    params=64, verdicts=("over-parameterised",), position=1,
                ),
            ),
        ),
        frog.Workload(steps=3),
    ).to_json()
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(data=st.data(), odd=ODD)
def test_any_file_is_a_recommendation_or_refused(data: st.DataObject, odd: str) -> None:
    made = json.loads(json.dumps(SOUND))
    holder, key = data.draw(st.sampled_from(places(made)))
    holder[key] = Placed(odd)
    mark = "\ue000"
    text = json.dumps(made, default=lambda _: mark).replace(json.dumps(mark), odd)
    _read(text.encode("utf-8", "backslashreplace"))


@pytest.mark.parametrize("odd", ["1" * 400, "null", "true"])
def test_a_giant_or_nothing_in_any_place_is_read_or_refused(odd: str) -> None:
    mark = "\ue000"
    for number in range(len(places(SOUND))):
        made = json.loads(json.dumps(SOUND))
        holder, key = places(made)[number]
        holder[key] = Placed(odd)
        text = json.dumps(made, default=lambda _: mark).replace(json.dumps(mark), odd)
        assert _read(text.encode()) is None or odd != "1" * 400


@pytest.mark.parametrize("text", [
    b"", b"{", b"[]", b"\xff\xfe", b'{"format": "frog-report", "version": 1}',
    b'{"format": "frog-recommendation", "version": 99}', b"[" * 100_000,
])  # fmt: skip
def test_what_is_no_recommendation_is_refused(text: bytes) -> None:
    assert _read(text) is None


def _read(text: bytes) -> frog.Recommendation | None:
    from frog.serial.plain import parse

    try:
        found = recommendation_from_dict(parse(text, "r.json"), "r.json")
    except ReportError as error:
        assert "r.json" in str(error)
        return None
    assert recommendation_from_dict(json.loads(found.to_json()), "r.json")
    assert max(len(line) for line in as_text(found).splitlines()) <= 80
    return found


def test_options_have_kinds_of_their_own_and_no_options() -> None:
    for change in ({"kind": "burn"}, {"options": [SOUND["actions"][0]]}):
        made = json.loads(json.dumps(SOUND))
        made["actions"][0]["options"][0] |= change
        assert _read(json.dumps(made).encode()) is None


def test_a_missing_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no such file"):
        frog.Recommendation.from_json(tmp_path / "none.json")
    with pytest.raises(ReportError, match="cannot be read"):
        frog.Recommendation.from_json(tmp_path)


@pytest.mark.slow
def test_a_random_layer_planted_in_minilm_is_found_and_the_rest_is_tuned_evenly(
    minilm: Path,
) -> None:
    from safetensors.torch import load_file

    tensors = load_file(minilm / "model.safetensors")
    name = "encoder.layer.2.output.dense.weight"
    torch.manual_seed(5)
    tensors[name] = torch.randn_like(tensors[name]) * tensors[name].std()
    told = kinds(frog.recommend(tensors))
    assert {x for x, kind in told.items() if kind == "choose"} == {name, "pooler.dense.weight"}
    assert Counter(told.values())["tune"] == 35
