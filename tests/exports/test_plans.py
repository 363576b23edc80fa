"""Plans for other tools: what they read names the right modules and costs what the plan allows."""

import json
import re

import pytest
import torch
import yaml

import frog
from frog.api import export_plan
from frog.errors import UsageError

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=11, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=50,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def report(model: torch.nn.Module) -> frog.ModelReport:
    return frog.analyze(model, frog.Settings(bootstrap=0, curves=False))


@pytest.mark.parametrize("rule", ["uniform", "frobenius", "alpha"])
def test_lora_ranks_cost_what_the_plan_allots(
    model: torch.nn.Module, report: frog.ModelReport, rule: str
) -> None:
    plan = frog.allocate(report, 0.12, rule=rule)
    config = peft.LoraConfig(**json.loads(export_plan(plan, "rank-pattern")))
    tuned = peft.get_peft_model(transformers.LlamaForCausalLM(model.config), config)
    count = sum(x.numel() for x in tuned.parameters() if x.requires_grad)
    largest = max(sum(x.shape) for x in plan.layers)
    assert abs(count - plan.total) <= largest


def test_a_pattern_means_one_layer_only(report: frog.ModelReport) -> None:
    made = json.loads(export_plan(frog.allocate(report, 0.12), "rank-pattern"))
    names = made["target_modules"]
    for pattern in made["rank_pattern"]:
        assert sum(re.search(pattern, name) is not None for name in names) == 1


def test_too_small_a_budget_for_any_rank_is_an_error(report: frog.ModelReport) -> None:
    with pytest.raises(UsageError, match="raise the budget"):
        export_plan(frog.allocate(report, 20), "rank-pattern")


def test_axolotl_unfreezes_the_favoured_half_of_each_role(
    model: torch.nn.Module, report: frog.ModelReport
) -> None:
    plan = frog.allocate(report, 0.1, rule="alpha")
    lines = yaml.safe_load(export_plan(plan, "axolotl", fraction=0.5))["unfrozen_parameters"]
    names = [name for name, _ in model.named_parameters()]
    hit = {name for name in names for line in lines if re.match(line, name)}
    assert len(hit) == len(lines) == 7 * 5
    shares = {x.name: x.share for x in plan.layers}
    for role in ("q_proj", "down_proj"):
        mine = {name: s for name, s in shares.items() if role in name}
        inside = [s for name, s in mine.items() if name in hit]
        outside = [s for name, s in mine.items() if name not in hit]
        assert min(inside) >= max(outside)


def test_a_fraction_out_of_range(report: frog.ModelReport) -> None:
    with pytest.raises(UsageError, match=r"\(0, 1\]"):
        export_plan(frog.allocate(report, 0.1), "axolotl", fraction=1.5)
