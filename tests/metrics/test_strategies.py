"""The table of strategies from planted runs and comparisons: every number is where it belongs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from frog.metrics.strategies import Tried, strategies_of, strategy_notes, verdict_of_strategies
from frog.types import Strategy
from frog.types.recipes import LearningRate, TuneResult
from tests.report.comparisons import change, comparison

NAN = math.nan


def run(**more: object) -> TuneResult:
    """A run that went from 50 to 70 % on 100 test rows and lost 10 points of 80 on old ones."""
    made = TuneResult(
        output="out", model="base", task="text-classification", metric="accuracy",
        before={"test": {"accuracy": 0.5}, "old": {"accuracy": 0.8}},
        after={"test": {"accuracy": 0.7}, "old": {"accuracy": 0.7}},
        trainable=10, changed=9, params=1000, steps=5, seconds=3.0,
        rate=LearningRate(value=1e-3, reason=""), rows={"test": 100, "old": 50},
        digests={"test": "t", "old": "o"}, cpu_seconds=6.0, memory=1e6, device="cpu",
        delta_bytes=80,
    )  # fmt: skip
    return replace(made, **more)


def tried(label: str, run: TuneResult | None, drift: float = 0.1) -> Tried:
    rows = (
        change("h.0.q.weight", 0, drift=drift, rotation_left=0.2, rotation_right=0.4,
               change={"alpha": -0.5}),
        change("h.1.q.weight", 1, drift=drift, rotation_left=0.0, rotation_right=0.0,
               change={"alpha": 0.1}),
        change("h.2.q.weight", 2, drift=drift, rotation_left=NAN, rotation_right=NAN,
               change={"alpha": NAN}),
    )  # fmt: skip
    summary = {"drift_total": drift, "intruders": 3}
    kind = "model" if run is None else "run"
    return Tried(label=label, path=label, kind=kind, run=run,
                 comparison=comparison(*rows, summary=summary))  # fmt: skip


def test_every_number_comes_from_where_it_should() -> None:
    (row,) = strategies_of([tried("a", run())])
    assert (row.quality_before, row.quality_after, row.rows, row.split) == (0.5, 0.7, 100, "test")
    assert (row.old_before, row.old_after, row.old_rows) == (0.8, 0.7, 50)
    assert row.gain == pytest.approx(0.2) and row.old_change == pytest.approx(-0.1)
    assert (row.trainable, row.changed, row.params, row.share) == (10, 9, 1000, 0.01)
    assert (row.seconds, row.cpu_seconds, row.memory, row.delta_bytes) == (3, 6, 1e6, 80)
    assert row.alpha_shift == pytest.approx(0.3), "the sign of a change does not cancel another"
    assert row.layers_fitted == 2 and row.drift == 0.1 and row.intruders == 3
    assert row.overlap == pytest.approx((0.7 + 1.0) / 2), "layers without directions are left out"
    assert not row.missing and not row.unlike


def test_test_rows_come_before_validation_rows() -> None:
    both = {"validation": {"accuracy": 0.1}, "test": {"accuracy": 0.9}}
    (row,) = strategies_of([tried("a", run(before=both, after=both))])
    assert row.split == "test" and row.quality_after == 0.9 and row.missing["old_after"]
    held = {"validation": {"accuracy": 0.1}}
    (row,) = strategies_of([tried("a", run(before=held, after=held))])
    assert row.split == "validation"
    (row,) = strategies_of([tried("a", run(before={}, after={}))])
    assert math.isnan(row.quality_after) and "no test or validation" in row.missing["quality_after"]


@pytest.mark.parametrize(("change_of", "told"), [
    ({"task": "causal-lm"}, "by the task causal-lm, that of a by text-classification"),
    ({"digests": {"test": "u", "old": "o"}}, "on other test rows than those of a"),
    ({"digests": {}}, "not recorded"),
])  # fmt: skip
def test_what_was_measured_otherwise_is_no_number(change_of: dict, told: str) -> None:
    rows = strategies_of([tried("a", run()), tried("b", run(**change_of))])
    assert rows[0].quality_after == 0.7
    assert math.isnan(rows[1].quality_after) and told in rows[1].missing["quality_after"]
    assert "quality_after" in rows[1].unlike
    assert any("quality of b" in note and told in note for note in strategy_notes(rows))
    assert rows[1].seconds == 3.0, "what does not rest on the rows stays"


def test_another_metric_is_no_number_either() -> None:
    other = {"test": {"f1": 0.9}}
    rows = strategies_of([tried("a", run()), tried("b", run(metric="f1", before=other,
                                                            after=other))])  # fmt: skip
    assert "by the metric f1" in rows[1].missing["quality_after"]
    assert rows[1].missing["old_after"] == "no old rows in the recipe"


def test_a_model_without_a_run_has_its_spectral_change_alone() -> None:
    rows = strategies_of([tried("a", run()), tried("plain", None)])
    plain = rows[1]
    numbers = ("quality_after", "old_after", "trainable", "memory", "seconds", "learning_rate")
    assert all(math.isnan(getattr(plain, x)) and plain.missing[x] for x in numbers)
    assert plain.drift == 0.1 and plain.alpha_shift == rows[0].alpha_shift and not plain.unlike


def test_every_nan_has_a_reason() -> None:
    """The law of the table: null and a reason go together, for every kind of member."""
    members = [tried("a", run()), tried("b", run(cpu_seconds=NAN, memory=NAN, delta_bytes=0)),
               tried("c", None), tried("d", run(before={}, after={}), drift=NAN)]  # fmt: skip
    for row in strategies_of(members):
        empty = {x for x in Strategy.__dataclass_fields__
                 if isinstance(getattr(row, x), float) and math.isnan(getattr(row, x))}  # fmt: skip
        assert empty == set(row.missing), row.label


def test_the_verdict_goes_by_the_direction_of_the_metric() -> None:
    def perplexity(value: float) -> TuneResult:
        of = {"test": {"perplexity": value}}
        return run(metric="perplexity", higher=False, before=of, after=of)

    members = [tried("worse", perplexity(9.0), 0.3), tried("better", perplexity(4.0), 0.01)]
    rows = strategies_of(members)
    told = verdict_of_strategies("base", rows, [x.comparison for x in members])
    assert "perplexity on test rows from 9 (worse) to 4 (better)" in told
    assert "moved by 1.00% (better) to 30.00% (worse)" in told
    same = [tried(x, run()) for x in "ab"]
    told = verdict_of_strategies("base", strategies_of(same), [x.comparison for x in same])
    assert "accuracy on test rows 0.7 (both)" in told and "by -0.1 (both)" in told


def test_notes_tell_of_chance_and_of_unlike_devices() -> None:
    rows = strategies_of([tried("a", run()), tried("b", run(device="H100"))])
    notes = " ".join(strategy_notes(rows))
    assert "a on cpu, b on H100: not comparable" in notes
    half = 1.96 * math.sqrt(0.7 * 0.3 / 100)
    assert f"accuracy on 100 rows is known to about ±{100 * half:.1f} points" in notes
