"""The rules of a policy held against a report, and against its comparison with a baseline."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from frog.errors import UsageError
from frog.types import (
    SEVERITIES,
    Breach,
    Comparison,
    Finding,
    FindingRule,
    GateResult,
    LayerChange,
    LayerReport,
    Limit,
    ModelReport,
    Policy,
)

SAME_SETTINGS = {"estimator": "ks", "window": "full", "compat": None}
"""Settings to which a threshold belongs, and what a policy means that does not name them."""

SIZES = ("drift", "spectral_share", "rotation_left", "rotation_right", "intruders")
"""Numbers of a changed layer that are the size of a change already."""

SIZES_OF_ALL = ("drift_total", "drift_median", "drift_max", "intruders", "scale_collapses")
"""The same of a whole comparison."""

NAN = math.nan
Range = tuple[float, float]


def evaluate(policy: Policy, report: ModelReport, comparison: Comparison | None) -> GateResult:
    """Every breach of the policy, the gravest first.

    ``comparison`` is that of the model with its baseline, None where there is none. Raises
    :class:`~frog.errors.UsageError` when a rule cannot mean this model: it needs a baseline, its
    pattern matches no layer, or the report was measured with other settings than the policy's.
    """
    check_settings(policy, report)
    if comparison is None:
        check_baseline(policy)
    judged = _Judged.of(policy, report, comparison)
    breaches: list[Breach] = []
    for rule in policy.findings:
        breaches += judged.of_finding(rule)
    for limit in policy.limits:
        breaches += judged.of_limit(limit)
    if comparison is not None:
        breaches += judged.of_unmatched()
    breaches.sort(key=lambda breach: -SEVERITIES.index(breach.severity))
    fatal = SEVERITIES[SEVERITIES.index(policy.fail_on) :]
    return GateResult(
        path=report.path,
        passed=not any(breach.severity in fatal for breach in breaches),
        checked=sum(rule.severity != "ignore" for rule in policy.findings)
        + len(policy.limits)
        + (comparison is not None and policy.unmatched != "ignore"),
        fail_on=policy.fail_on,
        breaches=tuple(breaches),
        unmeasured=judged.unmeasured(),
        notes=tuple(judged.notes),
    )


def check_baseline(policy: Policy) -> None:
    """Refuse a policy with rules on changes where there is no baseline to change from."""
    for limit in policy.limits:
        if limit.section in ("changes", "summary_changes"):
            raise UsageError(
                f"{policy.place(limit.line)}: {limit.rule} must have a baseline to compare with, "
                "got none: give --baseline FILE"
            )


def check_settings(policy: Policy, report: ModelReport) -> None:
    """Refuse a report whose numbers the policy does not mean: a threshold has its estimator."""
    wanted = dict(policy.settings)
    if policy.limits:
        wanted = {**SAME_SETTINGS, **wanted}
    for name, value in wanted.items():
        found = getattr(report.settings, name)
        if found != value:
            raise UsageError(
                f"{report.path}: {name} must be {value!r}, which the limits of {policy.origin} are "
                f"meant for, got a report with {found!r}: measure again, or say so under settings"
            )


@dataclass(frozen=True, slots=True)
class _Measure:
    """One number that a rule looks at: where, how much, and by how many parameters it counts."""

    layer: str
    value: float
    params: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Judged:
    """What the rules see of a model: the layers that no exemption takes out."""

    policy: Policy
    report: ModelReport
    comparison: Comparison | None
    layers: tuple[LayerReport, ...]
    exempt: frozenset[str]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, policy: Policy, report: ModelReport, comparison: Comparison | None) -> _Judged:
        """Take out what is exempt; each exemption is told, with its reason."""
        names = {layer.name: None for layer in report.layers}
        if comparison is not None:
            names |= dict.fromkeys((*comparison.only_before, *comparison.only_after))
        exempt: set[str] = set()
        notes = []
        for exemption in policy.exemptions:
            found = {name for name in names if re.search(exemption.layers, name)}
            exempt |= found
            words = f"{len(found)} ignored ({exemption.reason})" if found else "matches no layer"
            notes.append(f"{policy.place(exemption.line)}: {exemption.layers}: {words}")
        layers = tuple(x for x in report.measured if x.name not in exempt)
        return cls(policy, report, comparison, layers, frozenset(exempt), notes)

    # ------------------------------------------------------------------------ findings

    def of_finding(self, rule: FindingRule) -> Iterator[Breach]:
        """A breach a finding; one for all where a share of the layers is allowed."""
        if rule.severity == "ignore":
            return
        found = [
            finding
            for finding in self._findings()
            if finding.kind == rule.kind
            and finding.layer not in self.exempt
            and (finding.certainty == "certain" or not rule.certain)
            and (finding.severity != "info" or rule.info)
        ]
        if not found:
            return
        whole = [finding for finding in found if not finding.layer]  # no share of the layers
        for finding in found if rule.share == 0 else whole:
            yield _found(rule, finding)
        if rule.share == 0 or len(whole) == len(found):
            return
        affected = {finding.layer for finding in found if finding.layer}
        share = len(affected) / max(len(self.layers), len(affected))
        if share > rule.share:
            first = next(finding for finding in found if finding.layer)
            yield replace(
                _found(rule, first),
                layer="",
                value=share,
                limit=rule.share,
                text=f"{len(affected)} of {len(self.layers)} layers ({share:.0%}) are "
                f"{rule.kind}, at most {rule.share:.0%} may be; the first: {first.text}",
            )

    def _findings(self) -> Iterable[Finding]:
        """Those of the report and of the comparison, each once."""
        mine = self.report.findings
        theirs = () if self.comparison is None else self.comparison.findings
        return {(f.kind, f.layer, f.certainty): f for f in (*theirs, *mine)}.values()

    # -------------------------------------------------------------------------- limits

    def of_limit(self, limit: Limit) -> list[Breach]:
        """Breaches of one limit; a warning where it could be checked nowhere."""
        checked, breaches = 0, []
        for what, measures, bounds in self._measures(limit):
            known = [x for x in measures if not math.isnan(x.value)]
            checked += len(known)
            self._tell_unknown(limit, measures, len(known))
            breaches += _outside(limit, what, known, bounds)
        if not checked:
            breaches.append(self._unchecked(limit))
        return breaches

    def _measures(self, limit: Limit) -> Iterator[tuple[str, list[_Measure], Range]]:
        """The numbers to look at: what they are, where, and their range."""
        if limit.section in ("limits", "summary"):
            if limit.section == "limits":
                rows = self._selected(limit, self.layers)
                found = [
                    _Measure(x.name, x.values.get(limit.metric, NAN), x.params, x.fit_status)
                    for x in rows
                ]
            else:
                found = [_Measure("", float(self.report.summary.get(limit.metric, NAN)), 1)]
            low = -math.inf if math.isnan(limit.minimum) else limit.minimum
            high = math.inf if math.isnan(limit.maximum) else limit.maximum
            yield limit.metric, found, (low, high)
            return
        change = "" if limit.metric in (*SIZES, *SIZES_OF_ALL) else "change of "
        for relative, bound in ((False, limit.maximum), (True, limit.relative)):
            if not math.isnan(bound):
                what = f"{'relative ' if relative else ''}{change}{limit.metric}"
                yield what, self._changes(limit, relative), (-math.inf, bound)

    def _changes(self, limit: Limit, relative: bool) -> list[_Measure]:
        """Sizes of changes against the baseline."""
        assert self.comparison is not None
        if limit.section == "summary_changes":
            summary = self.comparison.summary
            if limit.metric in SIZES_OF_ALL:
                size = float(summary.get(limit.metric, NAN))
                both = self.comparison.before.weights and self.comparison.after.weights
                why = "" if both else "needs weights"
                return [_Measure("", NAN if relative else size, 1, why)]
            before = float(summary.get(f"{limit.metric}_before", NAN))
            change = float(summary.get(f"{limit.metric}_change", NAN))
            return [_Measure("", _size(change, before, limit.direction, relative), 1)]
        rows = [x for x in self.comparison.layers if x.name not in self.exempt]
        return [
            _Measure(x.name, _size_of(x, limit, relative), x.params,
                     x.missing.get(limit.metric, ""))
            for x in self._selected(limit, rows)
        ]  # fmt: skip

    def _selected(self, limit: Limit, layers: Sequence[LayerReport | LayerChange]) -> list:
        """The layers that a rule means; a pattern that means none is an error."""
        found = list(layers)
        if limit.layers is not None:
            found = [x for x in found if re.search(limit.layers, x.name)]
            if not found and not any(re.search(limit.layers, name) for name in self.exempt):
                names = ", ".join(x.name for x in layers[:3])
                raise UsageError(
                    f"{self.policy.place(limit.line)}: {limit.rule}.layers: {limit.layers!r} must "
                    f"match a layer of {self.report.path}, got none; the first names are {names}"
                )
        if limit.roles:
            found = [x for x in found if x.role in limit.roles]
        return found

    def _tell_unknown(self, limit: Limit, measures: Sequence[_Measure], known: int) -> None:
        """A number that is missing is no breach, but is told."""
        missing = [x for x in measures if math.isnan(x.value)]
        if missing and known:
            self.notes.append(
                f"{limit.rule}: not checked in {len(missing)} of {len(measures)} layers, which "
                f"have no {limit.metric}{_reasons(missing)}"
            )

    def _unchecked(self, limit: Limit) -> Breach:
        measures = [x for _, found, _ in self._measures(limit) for x in found]
        if measures:
            why = f"no number named {limit.metric}{_reasons(measures)}"
        else:
            why = f"no layer of role {', '.join(limit.roles)}" if limit.roles else "no layer"
        return Breach(
            rule=limit.rule,
            severity="warning",
            layer="",
            value=NAN,
            limit=_first(limit.maximum, limit.minimum, limit.relative),
            text=f"{limit.rule} could not be checked: there is {why}",
        )

    # ------------------------------------------------------------------ what was left out

    def of_unmatched(self) -> Iterator[Breach]:
        """A breach a layer that one of both models lacks."""
        if self.policy.unmatched == "ignore" or self.comparison is None:
            return
        for name, reason in self._alone().items():
            yield Breach(
                rule="unmatched",
                severity=self.policy.unmatched,
                layer=name,
                value=NAN,
                limit=NAN,
                text=f"{name} could not be compared: {reason}",
            )

    def unmeasured(self) -> tuple[str, ...]:
        """Names of what could not be measured, or not be compared."""
        failed = [x.name for x in self.report.failed if x.name not in self.exempt]
        alone = [] if self.policy.unmatched == "ignore" else self._alone()
        return tuple(dict.fromkeys((*failed, *alone)))

    def _alone(self) -> Mapping[str, str]:
        if self.comparison is None:
            return {}
        both = {**self.comparison.only_before, **self.comparison.only_after}
        return {name: reason for name, reason in both.items() if name not in self.exempt}


# ----------------------------------------------------------------------------- arithmetic


def _found(rule: FindingRule, finding: Finding) -> Breach:
    return Breach(
        rule=f"findings.{rule.kind}",
        severity=rule.severity,
        layer=finding.layer,
        value=finding.value,
        limit=finding.threshold,
        text=finding.text,
    )


def _outside(limit: Limit, what: str, known: Sequence[_Measure], bounds: Range) -> Iterator[Breach]:
    """The numbers outside their range, unless so few that the rule allows them."""
    low, high = bounds
    found = [x for x in known if not low <= x.value <= high]
    if not found:
        return
    each = [_breach(limit, what, x, low if x.value < low else high) for x in found]
    if limit.share == 0:
        yield from each
        return
    weights = (lambda x: x.params) if limit.of == "params" else (lambda x: 1)
    share = sum(map(weights, found)) / max(sum(map(weights, known)), 1)
    if share > limit.share:
        worst = max(each, key=lambda breach: abs(breach.value - breach.limit))
        yield replace(
            worst,
            layer="",
            value=share,
            limit=limit.share,
            text=f"{what} lies outside in {len(found)} of {len(known)} layers ({share:.0%} of the "
            f"{'parameters' if limit.of == 'params' else 'layers'}, at most {limit.share:.0%} may);"
            f" the worst: {worst.text}",
        )


def _breach(limit: Limit, what: str, measure: _Measure, bound: float) -> Breach:
    side = "below" if measure.value < bound else "above"
    where = measure.layer or "the model"
    return Breach(
        rule=limit.rule,
        severity=limit.severity,
        layer=measure.layer,
        value=measure.value,
        limit=bound,
        text=f"{where}: {what} {measure.value:.4g} is {side} {bound:.4g}",
    )


def _size_of(layer: LayerChange, limit: Limit, relative: bool) -> float:
    """The size of one layer's change; drift and its like are sizes already."""
    if limit.metric in layer.change or limit.metric in layer.before:
        change, before = (x.get(limit.metric, NAN) for x in (layer.change, layer.before))
        return _size(change, before, limit.direction, relative)
    value = getattr(layer, limit.metric, NAN)
    return NAN if relative or not isinstance(value, float) else value


def _size(change: float, before: float, direction: str, relative: bool) -> float:
    """|change|, or of one direction only (0 the other way); over |before| where relative."""
    if math.isnan(change):
        return NAN
    size = {"up": max(change, 0.0), "down": max(-change, 0.0), "both": abs(change)}[direction]
    if not relative or size == 0:
        return size
    return size / abs(before) if before != 0 else math.inf


def _reasons(measures: Iterable[_Measure]) -> str:
    """Why numbers are missing, the most frequent reasons first."""
    counts = Counter(x.why.replace("_", " ") for x in measures if x.why not in ("", "ok"))
    return f" ({', '.join(reason for reason, _ in counts.most_common(3))})" if counts else ""


def _first(*values: float) -> float:
    return next((x for x in values if not math.isnan(x)), NAN)
