"""Policies: what is allowed is read, what is not is refused with its line."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frog.errors import UsageError
from frog.serial.policy import DEFAULT_POLICY, default_policy, policy_from_yaml
from frog.types import KINDS, Limit, Policy
from tests.metrics.policies import METRICS, SUMMARY, policy_of

FULL = """\
fail_on: warning
unmatched: error
settings:
  estimator: ks
  bootstrap: 0
  farms: {side: 100}
findings:
  untrained: {severity: warning, certain: true, share: 0.1}
  drift: ignore
limits:
  alpha:
    - {min: 2, max: 6, role: [q, k], share: 0.2, of: params, severity: warning}
    - max: 8
      layers: 'mlp\\.'
  stable_rank: {min: 1e-3, role: v}
changes:
  drift: {max: 0.5}
  alpha: {max: 1, relative: 0.2, direction: up}
summary:
  alpha: {min: 1.5}
summary_changes:
  alpha_weighted: {max: 0.5}
ignore:
  - {layers: '^head', reason: tied}
"""


def test_everything_that_a_policy_can_say() -> None:
    policy = policy_of(FULL)
    assert (policy.fail_on, policy.unmatched) == ("warning", "error")
    assert dict(policy.settings)["estimator"] == "ks"
    assert policy.settings["farms"].side == 100
    kinds = {rule.kind: rule for rule in policy.findings}
    assert set(kinds) == set(KINDS)
    assert (kinds["untrained"].severity, kinds["untrained"].share) == ("warning", 0.1)
    assert kinds["drift"].severity == "ignore"
    assert kinds["nonfinite"].severity == "error", "by default"
    by_name = {limit.rule: limit for limit in policy.limits}
    assert list(by_name) == [
        "limits.alpha[1]", "limits.alpha[2]", "limits.stable_rank", "changes.drift",
        "changes.alpha", "summary.alpha", "summary_changes.alpha_weighted",
    ]  # fmt: skip
    first = by_name["limits.alpha[1]"]
    assert repr(first) == repr(
        Limit(rule="limits.alpha[1]", section="limits", metric="alpha", severity="warning",
              minimum=2.0, maximum=6.0, roles=("q", "k"), share=0.2, of="params", line=13)
    )  # fmt: skip
    second = by_name["limits.alpha[2]"]
    assert (second.layers, second.severity, second.line) == ("mlp\\.", "error", 14)
    assert math.isnan(second.minimum)
    assert by_name["limits.stable_rank"].minimum == 0.001, "1e-3 is a number"
    assert by_name["limits.stable_rank"].roles == ("v",)
    assert by_name["changes.alpha"].direction == "up"
    assert policy.exemptions[0].line == 25


def test_every_rule_knows_its_line() -> None:
    lines = f"version: 1\n{FULL}".splitlines()
    for limit in policy_of(FULL).limits:
        words = limit.metric if "[" not in limit.rule else "max"
        assert words in lines[limit.line - 1], limit


def test_the_default_policy() -> None:
    policy = default_policy()
    errors = {rule.kind for rule in policy.findings if rule.severity == "error"}
    assert errors == {"nonfinite", "untrained", "scale-collapse"}
    assert {rule.kind for rule in policy.findings} == set(KINDS)
    assert policy.limits == ()
    assert repr(policy_of("")) == repr(Policy(origin="policy.yaml", findings=policy.findings))


BAD = {
    "not a number": (
        "limits:\n  alpha:\n    min: 2\n    max: six\n",
        "policy.yaml:5: limits.alpha.max: must be a number, got 'six'",
    ),
    "truth for a number": (
        "limits: {alpha: {max: yes}}",
        "policy.yaml:2: limits.alpha.max: must be a number, got True",
    ),
    "no number": (
        "limits:\n  alpha: {max: .nan}",
        "policy.yaml:3: limits.alpha.max: must be a finite number, got nan",
    ),
    "no bound": (
        "limits:\n  alpha: {role: q}",
        "policy.yaml:3: limits.alpha: must have min or max",
    ),
    "crossed": (
        "limits:\n  alpha: {min: 6, max: 2}",
        "policy.yaml:3: limits.alpha: must have min <= max, 6 is above 2",
    ),
    "second rule": (
        "limits:\n  alpha:\n    - max: 6\n    - max: x\n",
        "policy.yaml:5: limits.alpha[2].max: must be a number, got 'x'",
    ),
    "no mapping": ("limits:\n  alpha: 6", "policy.yaml:3: limits.alpha: must be a mapping, got 6"),
    "no mapping at all": ("limits: [alpha]", "policy.yaml:2: limits: must be a mapping"),
    "metric": (
        "limits:\n  alhpa: {max: 6}",
        "policy.yaml:3: limits.alhpa: no metric 'alhpa'. Did you mean 'alpha'?",
    ),
    "mean": (
        "summary:\n  alpha_weigted: {max: 6}",
        "policy.yaml:3: summary.alpha_weigted: no mean 'alpha_weigted'. Did you mean 'alpha_weigh",
    ),
    "kind": (
        "findings:\n  untraind: error",
        "policy.yaml:3: findings.untraind: no kind of finding 'untraind'. Did you mean 'untrained'",
    ),
    "key": ("limitz: {}", "policy.yaml:2: limitz: no key 'limitz'. Did you mean 'limits'?"),
    "inner key": (
        "limits:\n  alpha:\n    maxi: 6\n",
        "policy.yaml:4: limits.alpha.maxi: no key 'maxi'. Did you mean 'max'?",
    ),
    "key of a finding": (
        "findings:\n  drift: {severity: error, certian: true}",
        "policy.yaml:3: findings.drift.certian: no key 'certian'. Did you mean 'certain'?",
    ),
    "severity": (
        "findings:\n  drift: fatal",
        "policy.yaml:3: findings.drift: must be 'error', 'warning', 'info' or 'ignore', got 'fata",
    ),
    "off is no word": ("findings:\n  drift: off", "policy.yaml:3: findings.drift: must be 'error'"),
    "fail_on": (
        "fail_on: info",
        "policy.yaml:2: fail_on: must be 'error' or 'warning', got 'info'",
    ),
    "regex": (
        "limits:\n  alpha: {max: 6, layers: '('}",
        "policy.yaml:3: limits.alpha.layers: must be a regular expression",
    ),
    "regex of ignore": (
        "ignore:\n  - layers: a\n    reason: b\n  - layers: '*'\n    reason: c",
        "policy.yaml:5: ignore[2].layers: must be a regular expression",
    ),
    "no reason": ("ignore:\n  - layers: a", "policy.yaml:3: ignore[1].reason: is required"),
    "empty reason": (
        "ignore:\n  - {layers: a, reason: ' '}",
        "policy.yaml:3: ignore[1].reason: must say why, got ' '",
    ),
    "share": (
        "limits:\n  alpha: {max: 6, share: 1.5}",
        "policy.yaml:3: limits.alpha.share: must be below 1, got 1.5",
    ),
    "negative change": (
        "changes:\n  drift: {max: -1}",
        "policy.yaml:3: changes.drift.max: must be at least 0, got -1",
    ),
    "change without bound": (
        "changes:\n  alpha: {direction: up}",
        "policy.yaml:3: changes.alpha: must have max or relative",
    ),
    "change of a change": (
        "changes:\n  drift: {relative: 0.1}",
        "policy.yaml:3: changes.drift: must have max alone",
    ),
    "change of all that has no sign": (
        "summary_changes:\n  drift_total: {max: 1, direction: up}",
        "policy.yaml:3: summary_changes.drift_total: must have max alone",
    ),
    "setting": (
        "settings:\n  estimater: ks",
        "policy.yaml:3: settings.estimater: no setting 'estimater'. Did you mean 'estimator'?",
    ),
    "setting's type": (
        "settings:\n  bootstrap: many",
        "policy.yaml:3: settings.bootstrap: must be a valid integer",
    ),
    "twice": (
        "limits: {alpha: {max: 6}}\nlimits: {}",
        "policy.yaml:3: limits: stands twice: keep one",
    ),
    "references": (
        "limits:\n  alpha: &a {max: 6}\n  stable_rank: *a",
        "policy.yaml:3: a policy has no references",
    ),
    "no YAML": ("limits: {alpha: [", "policy.yaml:2: must be YAML"),
    "code": ("limits: !!python/object/apply:os.getcwd []", "policy.yaml:2: must be YAML"),
    "control": ("limits: \x00", "policy.yaml: must be YAML, as UTF-8 text"),
    "impossible date": ("limits: 2020-13-45", "policy.yaml: must be a policy in YAML"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_told_with_its_line(kind: str) -> None:
    text, words = BAD[kind]
    with pytest.raises(UsageError) as caught:
        policy_of(text)
    assert str(caught.value).startswith(words), caught.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "policy.yaml: must be a mapping that begins with version: 1, got None"),
        ("- a", "policy.yaml: must be a mapping that begins with version: 1, got a list of 1"),
        ("fail_on: error", "policy.yaml:1: version: is required"),
        ("version: 2", "policy.yaml:1: version: must be 1, got 2: a policy for a later frog"),
        ("version: true", "policy.yaml:1: version: must be 1, got True"),
        (b"\xff\xfe\xff", "policy.yaml: must be YAML"),
        ("a: " + "[" * 5000 + "]" * 5000, "policy.yaml: must be a policy in YAML"),
    ],
)
def test_what_is_no_policy_is_refused(text: str | bytes, words: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(words)}"):
        policy_from_yaml(text, "policy.yaml", metrics=METRICS, summary=SUMMARY)


def test_sections_without_content_are_as_if_absent() -> None:
    assert repr(policy_of("limits:\nfindings:\nignore:\nsettings:\n")) == repr(policy_of(""))


# -------------------------------------------------------------------- damaged in any way

_WORDS = """version limits changes summary findings ignore settings alpha drift min max layers
role share severity error warning 1 6 -1 .5 six true null .inf [ ] { } : - , & * ! | > ' "
untrained certain reason <<"""


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """A sound policy in which some words are others."""
    lines = f"version: 1\n{FULL}".splitlines()
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, len(lines) - 1))
        words = re.split(r"(\W)", lines[i])
        words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(_WORDS.split()))
        lines[i] = "".join(words)
    return "\n".join(lines)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(mangled() | st.text(max_size=30) | st.just(DEFAULT_POLICY))
def test_any_text_is_a_policy_or_refused_by_name(text: str) -> None:
    try:
        policy = policy_from_yaml(text, "policy.yaml", metrics=METRICS, summary=SUMMARY)
    except UsageError as error:
        assert str(error).startswith("policy.yaml")
        assert len(str(error)) < 1000
    else:
        assert isinstance(policy, Policy)
