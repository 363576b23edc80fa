"""Gate: does a model keep to a policy, and does it hold its ground against a baseline?"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from frog.api.comparing import compare
from frog.api.measuring import Run, analyze, check
from frog.errors import UnknownName, UsageError
from frog.metrics import METRICS
from frog.metrics.gate import check_baseline, check_settings, evaluate
from frog.metrics.summary import summarise
from frog.report.files import names_record, read_report
from frog.types import SEVERITIES, Comparison, GateResult, ModelReport, Policy, Series, Settings
from frog.weights.source import list_tensors


def gate(
    model: Any,
    *,
    baseline: Any = None,
    policy: Policy | str | PathLike[str] | None = None,
    fail_on: str | None = None,
    base: Any = None,
    run: Run | None = None,
) -> GateResult:
    """Check a model against a policy: every breach, and whether it passes.

    ``model`` and ``baseline`` are models, reports, or saved reports (``.json``); ``policy`` is a
    YAML file (docs/reference/policy.md), None for the default one; ``fail_on`` overrides what the
    policy says. A model is measured with the policy's settings, else with those of the baseline.
    An adapter stands for its sum with the baseline, where that is a model, as in a comparison.
    Raises :class:`~frog.errors.UsageError` for a policy that is wrong, or that the report does not
    fit, and :class:`~frog.errors.ModelError` when the model cannot be read.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> result = gate(torch.nn.Linear(256, 256, bias=False))
    >>> result.passed, [breach.severity for breach in result.breaches]
    (True, ['warning'])
    """
    rules, run = read_policy(policy), run or Run()
    if fail_on is not None:
        if fail_on not in SEVERITIES[1:]:
            raise UnknownName("severity", fail_on, SEVERITIES[1:])
        rules = replace(rules, fail_on=fail_on)
    if baseline is None:
        check_baseline(rules)  # before hours are spent measuring
    model, baseline = _opened(model), _opened(baseline)
    if base is not None and isinstance(model, ModelReport):
        raise UsageError("base is for an adapter, got a saved report: leave it out")
    settings = _settings(rules, model, baseline)
    comparison: Comparison | Series | None = None
    # after an interruption layers in flight still write there: no error of its removal hides it
    with tempfile.TemporaryDirectory(prefix="frog-", ignore_cleanup_errors=True) as folder:
        # the comparison takes from there what the report has measured
        kept = run if run.cache or baseline is None else replace(run, cache=folder)
        if isinstance(model, ModelReport):
            report = model
            check_settings(rules, report)
        else:
            below = base if base is not None else _base_of(model, baseline)
            report = analyze(model, settings, base=below, run=kept)
        if baseline is not None:
            comparison = compare(baseline, model, settings=settings, base=base, run=kept)
    assert not isinstance(comparison, Series), "two models make a comparison"
    return evaluate(rules, report, comparison)


def read_policy(policy: Policy | str | PathLike[str] | None) -> Policy:
    """Read and validate a policy; the default one for None, a policy is given back."""
    from frog.serial.policy import default_policy, policy_from_yaml

    if policy is None or isinstance(policy, Policy):
        return policy or default_policy()
    path = Path(policy)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no such policy: docs/reference/policy.md says what one holds"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: the policy cannot be read ({error.strerror})") from None
    return policy_from_yaml(text, str(path), metrics=list(METRICS), summary=list(summarise(())))


def _opened(model: Any) -> Any:
    """A saved report as a report; anything else as it is."""
    return read_report(model) if names_record(model) else model


def _base_of(model: Any, baseline: Any) -> Any:
    """An adapter is measured as the comparison sees it: added to the baseline, where it is one."""
    if baseline is None or isinstance(baseline, ModelReport) or not list_tensors(model).adapters:
        return None
    return None if list_tensors(baseline).adapters else baseline


def _settings(policy: Policy, model: Any, baseline: Any) -> Settings:
    """What both sides are measured with: a report on either side has been already."""
    measured = [x.settings for x in (model, baseline) if isinstance(x, ModelReport)]
    settings = replace(measured[0] if measured else Settings(), **policy.settings)
    check(settings)
    return settings
