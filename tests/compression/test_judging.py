"""Judging: bad plans are refused, equal ones are equal, every bit comes back."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from frog.compression.baselines import dealt, shuffled, size_of, uniform
from frog.compression.curves import Bits, Level, Sparsity, digest_of, sweep
from frog.compression.inputs import input_norms
from frog.compression.judging import Metric, Trial, judge
from frog.compression.live import matrix_units
from frog.compression.planned import Pattern
from frog.compression.task_metrics import accuracy, perplexity, spearman
from frog.errors import FrogError, PlanRefused, ReportError, UsageError
from frog.numerics.rounding import Rounding
from frog.types.judgements import VERDICTS, Difference, Judgement
from tests.compression.toy import Tower, batches, bits_of, located, run


def bits(count: int) -> Bits:
    return Bits(Rounding(bits=count, group=8))


def sparse(share: float) -> Sparsity:
    return Sparsity(share=share)


def trial(**given: object) -> Trial:
    return Trial(**{"batches": batches(count=6, seed=7), "outputs": run, **given})  # type: ignore[arg-type]


def planted(seed: int = 0) -> Tower:
    """A tower whose first block makes most of the output."""
    model = Tower(seed=seed)
    with torch.no_grad():
        for block in model.blocks[1:]:
            block.down.weight.mul_(0.05)
    return model


def names(model: nn.Module) -> list[str]:
    return [x.name for x in located(model)]


# ------------------------------------------------------------------------------- verdicts


def test_a_planted_bad_plan_is_refused() -> None:
    model = planted()
    bad = {name: bits(8) for name in names(model)} | {"blocks.0.up.weight": bits(2)}
    found = judge(model, bad, matrices=located(model), trial=trial(), randoms=2)
    assert found.verdict == "worse"
    assert [x.name for x in found.plans] == ["plan", "uniform", "random 1", "random 2"]
    assert all(x.size >= found.plans[0].size for x in found.plans)
    assert found.decisive.low > 0.5 and found.plans[0].error > found.plans[1].error
    with pytest.raises(PlanRefused, match="worse than a uniform one") as refused:
        found.require()
    assert refused.value.exit_code == 3 and isinstance(refused.value, FrogError)


def test_a_planted_good_plan_is_better_and_not_refused() -> None:
    model = planted()
    good = {name: bits(8 if "blocks.0" in name else 3) for name in names(model)}
    found = judge(model, good, matrices=located(model), trial=trial())
    assert found.verdict == "better" and found.decisive.high < -0.3
    found.require()
    assert "better than a uniform one" in found.sentence and "30 examples" in found.sentence


@pytest.mark.parametrize("level", [bits(4), sparse(0.5), sparse(0.37)])
def test_the_uniform_plan_is_no_different_from_itself(level: Bits | Sparsity) -> None:
    model = Tower()
    plan = {x.name: level for x in located(model)}
    found = judge(model, plan, matrices=located(model), trial=trial())
    for difference in found.differences:
        assert (difference.change, difference.low, difference.high) == (0, 0, 0)
        assert difference.verdict == "no different"
    assert len({x.error for x in found.plans}) == 1 and found.plans[0].error > 0
    found.require()


def test_a_plan_that_changes_nothing_has_no_error() -> None:
    model = Tower()
    plan = {x.name: sparse(0.0) for x in located(model)}
    found = judge(model, plan, matrices=located(model), trial=trial())
    assert {(x.error, x.angle) for x in found.plans} == {(0.0, 0.0)}
    assert found.verdict == "no different"


def test_the_error_is_that_of_all_changes_together() -> None:
    model, data = Tower(), trial()
    plan = dict(zip(names(model), [bits(b) for b in (2, 3, 4, 5, 6, 7)], strict=True))
    found = judge(model, plan, matrices=located(model), trial=data)
    other = Tower().eval()
    with torch.no_grad():
        then = torch.cat([other(x) for x in data.batches]).double()
        for name, parameter in other.named_parameters():
            if name in plan:
                plan[name].apply(name, parameter.data)
        now = torch.cat([other(x) for x in data.batches]).double()
    error, angle = found.plans[0].error, found.plans[0].angle
    assert error == pytest.approx(float((now - then).norm() / then.norm()), rel=1e-9)
    assert angle == pytest.approx(
        float(1 - torch.cosine_similarity(now, then, dim=1).mean()), rel=1e-6
    )


def test_the_interval_is_a_paired_bootstrap() -> None:
    model, data = planted(), trial()
    plan = dict(zip(names(model), [bits(b) for b in (5, 3, 4, 4, 4, 4)], strict=True))
    errors = {}
    for name, levels in (("plan", plan), ("uniform", {x: bits(4) for x in plan})):
        other = planted().eval()
        with torch.no_grad():
            then = torch.cat([other(x) for x in data.batches]).double()
            for key, parameter in other.named_parameters():
                if key in levels:
                    levels[key].apply(key, parameter.data)
            now = torch.cat([other(x) for x in data.batches]).double()
        errors[name] = (now - then).square().sum(1).numpy()
    found = judge(model, plan, matrices=located(model), trial=data).decisive
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(4000):
        picked = rng.integers(0, 30, 30)
        drawn.append(math.sqrt(errors["plan"][picked].sum() / errors["uniform"][picked].sum()) - 1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.15 * (high - low))
    assert found.high == pytest.approx(high, abs=0.15 * (high - low))


def test_outputs_that_are_not_finite_are_worse_than_finite_ones(tmp_path: Path) -> None:
    model = Tower()
    plan = {name: bits(8) for name in names(model)} | {"blocks.1.up.weight": bits(2)}
    before = model.blocks[1].up.weight.detach().clone()

    def breaks(model: Tower, batch: Tensor) -> Tensor:
        weight = model.blocks[1].up.weight
        at_two = (weight == 0).float().mean() > 0.15
        same = torch.equal(weight, before)
        return model(batch) * (math.nan if at_two and not same else 1.0)

    found = judge(model, plan, matrices=located(model), trial=trial(outputs=breaks), randoms=0)
    assert found.plans[0].error == math.inf and math.isfinite(found.plans[1].error)
    assert found.verdict == "worse"
    found.to_json(tmp_path / "a.json")
    assert Judgement.from_json(tmp_path / "a.json") == found


def test_one_example_that_overflows_is_enough() -> None:
    model = Tower()

    def overflows(model: Tower, batch: Tensor) -> Tensor:
        out = model(batch)
        if (model.blocks[0].up.weight == 0).float().mean() > 0.15:  # as at two bits
            out[0] = math.inf
        return out

    bad = {name: bits(8) for name in names(model)} | {"blocks.0.up.weight": bits(2)}
    same = {name: bits(2) for name in names(model)}
    for plan, verdict in ((bad, "worse"), (same, "no different")):
        given = trial(outputs=overflows)
        found = judge(model, plan, matrices=located(model), trial=given, randoms=0)
        assert found.plans[0].error == math.inf and found.verdict == verdict
        assert math.isinf(found.plans[1].error) == (plan is same)


# ---------------------------------------------------------------------------------- data


def test_data_that_the_plan_was_made_on_are_refused(tmp_path: Path) -> None:
    model, seen, fresh = Tower(), batches(count=2, seed=3), batches(count=2, seed=4)
    units = matrix_units(located(model))
    cells = sweep(model, units, levels=[bits(4)], batches=seen, outputs=run, log=tmp_path / "log")
    plan, digests = {x.name: bits(4) for x in located(model)}, {x.data for x in cells}
    with pytest.raises(UsageError, match="these very batches"):
        judge(model, plan, matrices=located(model), trial=trial(batches=seen, seen=digests))
    with pytest.raises(UsageError, match="made on batch 1"):
        mixed = trial(batches=[*fresh, seen[0]][1:], seen=[digest_of(x) for x in seen])
        judge(model, plan, matrices=located(model), trial=mixed)
    found = judge(model, plan, matrices=located(model), trial=trial(batches=fresh, seen=digests))
    assert found.unseen and found.data == digest_of(fresh)
    assert not judge(model, plan, matrices=located(model), trial=trial()).unseen


def test_weights_and_mode_come_back_bit_for_bit_also_after_an_error() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = Tower().to(dtype)
        with torch.no_grad():
            model.blocks[0].up.weight[0, 0] = -0.0
        data = [x.to(dtype) for x in batches(count=2)]
        before = {k: x.view(torch.uint8) for k, x in bits_of(model).items()}
        plan = {x.name: bits(3) for x in located(model)}
        judge(model, plan, matrices=located(model), trial=trial(batches=data))
        assert all(torch.equal(x.view(torch.uint8), before[k]) for k, x in bits_of(model).items())
        calls = iter(range(5))

        def fails(model: nn.Module, batch: Tensor, calls: Iterator[int] = calls) -> Tensor:
            if next(calls) == 3:
                raise RuntimeError("the light went out")
            return model(batch)

        with pytest.raises(RuntimeError, match="light"):
            judge(model, plan, matrices=located(model), trial=trial(batches=data, outputs=fails))
        assert all(torch.equal(x.view(torch.uint8), before[k]) for k, x in bits_of(model).items())
        assert model.training


def test_what_a_plan_does_not_name_stays_as_it_is_in_all_plans() -> None:
    model = Tower()
    seen = []

    def outputs(model: Tower, batch: Tensor) -> Tensor:
        seen.append(model.blocks[2].down.weight.detach().clone())
        return model(batch)

    plan = {"blocks.0.up.weight": bits(2), "blocks.1.up.weight": bits(4)}
    judge(model, plan, matrices=located(model), trial=trial(outputs=outputs))
    assert len(seen) == 6 * 6 and all(torch.equal(x, seen[0]) for x in seen)


def test_memory_is_a_copy_of_the_matrices_and_the_outputs() -> None:
    from benchmarks.measuring import allocator_peak

    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(8))).eval()
    plan = {x.name: bits(4) for x in located(model)}
    data = [torch.randn(8, 256) for _ in range(2)]
    with allocator_peak() as peak:
        judge(model, plan, matrices=located(model), trial=trial(batches=data), randoms=4)
    copy = 8 * 256 * 256 * 4 / 2**20
    # beside the copy: what the rounding of one matrix takes, and the digest of the weights
    assert copy < peak() < 2 * copy


# ------------------------------------------------------------------------------- patterns


def patterned(model: nn.Module, block: int) -> dict[str, Level]:
    pattern, whole = Pattern(keep=2, of=4), Sparsity(share=0.0)
    return {x: pattern if f"blocks.{block}." in x else whole for x in names(model)}


@pytest.mark.parametrize(("block", "verdict"), [(0, "worse"), (2, "better")])
def test_plans_of_a_pattern_are_held_against_random_ones(
    block: int, verdict: str, tmp_path: Path
) -> None:
    model = planted()
    plan = patterned(model, block)
    found = judge(model, plan, matrices=located(model), trial=trial(), randoms=0)
    assert [x.name for x in found.plans] == ["plan", *(f"random {i}" for i in range(1, 6))]
    assert found.verdict == verdict and found.against == "random"
    assert "the mean of 5 random ones of its pattern" in found.sentence
    plans, mean = found.plans, float(np.mean([x.error for x in found.plans[1:]]))
    assert {x.size for x in plans} == {plans[0].size}
    assert found.decisive.change == pytest.approx(plans[0].error / mean - 1)
    angle = next(x for x in found.differences if x.measure == "angle")
    mean = float(np.mean([x.angle for x in plans[1:]]))
    assert angle.change == pytest.approx(plans[0].angle / mean - 1)
    if verdict == "worse":
        with pytest.raises(PlanRefused, match="Take another"):
            found.require()
    found.to_json(tmp_path / "judged.json")
    assert Judgement.from_json(tmp_path / "judged.json") == found
    more = judge(model, plan, matrices=located(model), trial=trial(), randoms=7)
    assert len(more.plans) == 8


def test_random_plans_of_a_pattern_never_prune_more() -> None:
    rng = np.random.default_rng(0)
    for seed in range(40):
        params = {f"m{i}": int(4 * rng.integers(1, 200)) for i in range(9)}
        able = [x for i, x in enumerate(params) if i != 4]
        pattern = Pattern(keep=2, of=4)
        chosen = set(rng.permutation(able)[: rng.integers(1, 9)].tolist())
        plan = {x: pattern if x in chosen else Sparsity(share=0.0) for x in params}
        made = dealt(plan, params, able=able, seed=seed)
        assert list(made) == list(plan) and made == dealt(plan, params, able=able, seed=seed)
        assert size_of(made, params) >= size_of(plan, params)
        assert {x.key for x in made.values()} <= {pattern.key, Sparsity(share=0.0).key}
        assert made["m4"].value == 0
        # none that stays whole would still have fitted
        spare = size_of(made, params) - size_of(plan, params)
        assert all(params[x] // 2 > spare for x in able if made[x].value == 0)


def test_patterns_are_not_mixed() -> None:
    model = Tower()
    plan = {**patterned(model, 0), names(model)[2]: Pattern(keep=1, of=4)}
    for wrong in (plan, {**patterned(model, 0), names(model)[2]: sparse(0.5)}):
        with pytest.raises(UsageError, match="whole matrices"):
            judge(model, wrong, matrices=located(model), trial=trial())


# ------------------------------------------------------------------------------- metrics


def labels(batch: Tensor) -> Tensor:
    return batch.argmax(-1)


def test_metrics_have_a_paired_interval_and_may_decide() -> None:
    model = planted()
    plan = {name: bits(8) for name in names(model)} | {"blocks.0.up.weight": bits(1)}
    data = batches(count=40, seed=2)
    given = trial(batches=data, metrics=(accuracy(labels),), by="accuracy")
    found = judge(model, plan, matrices=located(model), trial=given)
    model.eval()
    with torch.no_grad():
        right = torch.cat([model(x).argmax(-1) == labels(x) for x in data]).float().mean()
    assert found.metrics["accuracy"] == pytest.approx(float(right), rel=1e-6)
    last = found.decisive
    assert last.measure == found.by == "accuracy" and last.higher and not last.relative
    ours, theirs = (x.metrics["accuracy"] for x in found.plans[:2])
    assert last.change == pytest.approx(ours - theirs) and last.low < last.change < last.high


def test_ready_metrics_are_what_their_names_say() -> None:
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 7, (3, 5), generator=draw)
    tokens[1, 3:] = -100
    logits = torch.randn(3, 5, 7, generator=draw)
    metric = perplexity(lambda batch: batch)
    own = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert metric.value(metric.examples(logits, tokens)) == pytest.approx(float(own.exp()), 1e-6)
    one, two, scores = torch.randn(9, 4), torch.randn(9, 4), torch.randn(9).round()
    metric = spearman(lambda batch: batch)
    cosine = torch.cosine_similarity(one, two)
    rho = stats.spearmanr(cosine.numpy(), scores.numpy()).statistic
    assert metric.value(metric.examples(torch.cat([one, two]), scores)) == pytest.approx(rho)
    assert math.isnan(metric.value(np.ones((4, 2))))
    with pytest.raises(UsageError, match="9 pairs must have 18"):
        metric.examples(one, scores)


def test_a_metric_that_is_no_number_is_worse_than_one() -> None:
    model = planted()
    plan = {name: bits(8) for name in names(model)} | {"blocks.0.up.weight": bits(2)}
    parts = iter([np.ones((30, 1)), np.full((30, 1), math.nan), np.ones((30, 1))])
    odd = Metric(name="odd", examples=lambda y, x: next(parts), value=np.mean, higher=True)
    data = [torch.cat(list(batches(count=6)))]
    given = trial(batches=data, metrics=(odd,), by="odd")
    found = judge(model, plan, matrices=located(model), trial=given, randoms=0)
    assert found.verdict == "worse" and found.decisive.high == -math.inf
    assert math.isnan(found.plans[0].metrics["odd"])
    assert '"-inf"' in found.to_json() and '"nan"' in found.to_json()


# ----------------------------------------------------------------------------- baselines


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 500)), min_size=1, max_size=9),
    st.integers(0, 99),
)
def test_bits_of_baselines_are_just_as_many_or_a_step_more(
    units: list[tuple[int, int]], seed: int
) -> None:
    plan = {str(i): bits(b) for i, (b, _) in enumerate(units)}
    params = {str(i): n for i, (_, n) in enumerate(units)}
    size = size_of(plan, params)
    even, dealt = uniform(plan, params), shuffled(plan, params, seed=seed)
    assert list(even) == list(dealt) == list(plan)
    widths = {x.rounding.bits for x in even.values()}  # type: ignore[union-attr]
    average = size / sum(params.values())
    assert widths <= {math.floor(average), math.floor(average) + 1}
    for other in (even, dealt):
        assert 0 <= size_of(other, params) - size < 8 * max(params.values())
    if average == int(average):
        assert widths == {int(average)} and size_of(even, params) == size
    menu = {b for b, _ in units}
    assert {x.rounding.bits for x in dealt.values()} <= menu  # type: ignore[union-attr]
    for i, name in enumerate(dealt):  # no step down is left
        lower = [b for b in menu if b < dealt[name].rounding.bits]  # type: ignore[union-attr]
        if lower:
            less = {**dealt, name: bits(max(lower))}
            assert size_of(less, params) < size, i


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 500)), min_size=1, max_size=9),
    st.integers(0, 99),
)
def test_kept_weights_of_baselines_are_just_as_many_or_one_a_matrix_more(
    units: list[tuple[float, int]], seed: int
) -> None:
    plan = {str(i): sparse(s) for i, (s, _) in enumerate(units)}
    params = {str(i): n for i, (_, n) in enumerate(units)}
    size = size_of(plan, params)
    for other in (uniform(plan, params), shuffled(plan, params, seed=seed)):
        assert 0 <= size_of(other, params) - size <= len(plan)


def test_baselines_keep_what_else_a_level_says() -> None:
    norms = {"a": torch.ones(4), "b": torch.ones(4)}
    plan = {
        "a": Sparsity(share=0.25, importance="wanda", within="row", norms=norms),
        "b": Sparsity(share=0.75),
    }
    even = uniform(plan, {"a": 100, "b": 100})
    assert even["a"] == Sparsity(share=0.5, importance="wanda", within="row")
    assert even["a"].norms is norms and even["b"] == sparse(0.5)  # type: ignore[union-attr]
    coarse = {"a": Bits(Rounding(bits=2, group=None)), "b": bits(4)}
    dealt = shuffled(coarse, {"a": 9, "b": 9}, seed=1)
    assert dealt["a"].rounding.group is None and dealt["b"].rounding.group == 8  # type: ignore[union-attr]


def test_wanda_plans_are_judged_with_norms_of_the_scoring_data() -> None:
    model, scored = Tower(), batches(count=2)
    norms = input_norms(model, located(model), batches=scored, outputs=run)
    plan = {
        x.name: Sparsity(share=share, importance="wanda", within="row", norms=norms)
        for x, share in zip(located(model), (0.2, 0.8, 0.5, 0.5, 0.5, 0.5), strict=True)
    }
    found = judge(model, plan, matrices=located(model), trial=trial())
    assert found.verdict in VERDICTS and "wanda" in found.levels["blocks.0.up.weight"]


# --------------------------------------------------------------------- results, mistakes


def test_a_judgement_is_a_value_that_is_saved_and_read(tmp_path: Path) -> None:
    model = planted()
    plan = dict(zip(names(model), [bits(b) for b in (6, 3, 3, 4, 4, 4)], strict=True))
    given = trial(metrics=(accuracy(labels),))
    found = judge(model, plan, matrices=located(model), trial=given, seed=3)
    assert found == judge(model, plan, matrices=located(model), trial=given, seed=3)
    text = found.to_json(tmp_path / "a.json")
    assert Judgement.from_json(tmp_path / "a.json") == found and "\n" in text
    for old, new, match in (
        ('"frog-judgement"', '"frog-plan"', '"format": "frog-judgement"'),
        ('"by": "error"', '"by": "eror"', "by must name a measure"),
        ('"version": 1', '"version": 9', "version must be at most 1"),
        ('"examples": 30', '"examples": "many"', "examples"),
    ):
        assert old in text
        (tmp_path / "b.json").write_text(text.replace(old, new))
        with pytest.raises(ReportError, match=match):
            Judgement.from_json(tmp_path / "b.json")


def test_the_verdict_follows_the_interval() -> None:
    for higher, low, high, verdict in (
        (False, -0.2, -0.1, "better"),
        (False, -0.2, 0.1, "no different"),
        (False, 0.1, 0.2, "worse"),
        (True, 0.1, 0.2, "better"),
        (True, -0.2, -0.1, "worse"),
        (True, math.nan, math.nan, "no different"),
    ):
        found = Difference(
            measure="x", change=0.0, low=low, high=high, higher=higher, relative=False
        )
        assert found.verdict == verdict


def test_mistakes_are_told() -> None:
    model = Tower()
    plan = {x.name: bits(4) for x in located(model)}

    def of(plan: dict, **given: object) -> Judgement:
        return judge(model, plan, matrices=located(model), trial=trial(**given))

    with pytest.raises(UsageError, match="must name a matrix"):
        of({})
    with pytest.raises(UsageError, match=r"got blocks\.9"):
        of({**plan, "blocks.9.up.weight": bits(4)})
    with pytest.raises(UsageError, match="got both"):
        of({**plan, "blocks.0.up.weight": sparse(0.5)})
    with pytest.raises(UsageError, match="8 examples or more"):
        of(plan, batches=batches(count=1))
    with pytest.raises(UsageError, match="one batch or more"):
        of(plan, batches=[])
    with pytest.raises(UsageError, match="by must be one of error, angle"):
        of(plan, by="accuracy")
    with pytest.raises(UsageError, match="different names"):
        of(plan, metrics=(accuracy(labels), accuracy(labels)))
    flat = Metric(name="flat", examples=lambda y, x: np.ones(5), value=np.mean, higher=True)
    with pytest.raises(UsageError, match="an array"):
        of(plan, metrics=(flat,))
    before = Tower().state_dict()
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_trifle_is_no_difference_however_sure() -> None:
    """A few weights more or less change the error by thousandths: neither plan is worse."""
    for change, verdict in ((0.001, "no different"), (-0.001, "no different"), (0.01, "worse"),
                            (-0.01, "better")):  # fmt: skip
        found = Difference(measure="error", higher=False, relative=True, change=change,
                           low=change - 1e-4, high=change + 1e-4)  # fmt: skip
        assert found.verdict == verdict
    absolute = Difference(measure="rho", change=0.001, low=0.0009, high=0.0011, higher=True,
                          relative=False)  # fmt: skip
    assert absolute.verdict == "better"
