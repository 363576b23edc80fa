"""Policies of the gate: YAML in, rules out; an error names the line."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from frog.errors import UnknownName, UsageError
from frog.serial.plain import null, shown, text_of
from frog.serial.yaml_errors import explained
from frog.serial.yaml_lines import Lines
from frog.serial.yaml_values import Regex, as_list
from frog.types import (
    KINDS,
    Exemption,
    FindingRule,
    GateResult,
    Limit,
    Policy,
    Settings,
)

GATE_FORMAT = "frog-gate"
GATE_VERSION = 1

DEFAULT_POLICY = """\
version: 1
fail_on: error
unmatched: warning
findings:
  nonfinite: error
  untrained: {severity: error, certain: true}
  scale-collapse: {severity: error, certain: true}
  over-parameterised: warning
  over-trained: warning
  correlation-trap: warning
  scale-outlier: warning
  drift: warning
  intruder-dimensions: warning
  pathway-lost: warning
  trained: ignore
"""
"""The policy of a gate that was given none; a policy's own ``findings`` override it by kind."""

CHANGES_ONLY = ("drift", "spectral_share", "rotation_left", "rotation_right", "intruders")
"""Numbers of a changed layer that no report has."""

SUMMARY_ONLY = ("drift_total", "drift_median", "drift_max", "intruders", "scale_collapses")
"""Numbers of a whole comparison that no report has."""

FIXED_SETTINGS = ("curves", "save_spectra")
"""Settings that change no number: a policy has no say in them."""


# ------------------------------------------------------------------ what may stand where


def _words(text: str) -> str:
    if not text.strip():
        raise ValueError("must say why")
    return text


def _as_severity(value: Any) -> Any:
    """A finding may be given by its severity alone."""
    return value if isinstance(value, dict) else {"severity": value}


Number = Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[float, Field(allow_inf_nan=False, ge=0)]
Share = Annotated[float, Field(allow_inf_nan=False, ge=0, lt=1)]
Names = Annotated[list[str], BeforeValidator(as_list), Field(min_length=1)]
Severity = Literal["error", "warning", "info"]
Judgement = Literal["error", "warning", "info", "ignore"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Range(_Section):
    min: Number | None = None
    max: Number | None = None
    severity: Severity = "error"

    @model_validator(mode="after")
    def _bounded(self) -> _Range:
        if self.min is None and self.max is None:
            raise ValueError("must have min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"must have min <= max, {self.min:g} is above {self.max:g}")
        return self


class _Change(_Section):
    max: Size | None = None
    relative: Size | None = None
    direction: Literal["up", "down", "both"] = "both"
    severity: Severity = "error"

    @model_validator(mode="after")
    def _bounded(self) -> _Change:
        if self.max is None and self.relative is None:
            raise ValueError("must have max or relative")
        return self


class _Selected(_Section):
    layers: Regex | None = None
    role: Names | None = None
    share: Share = 0.0
    of: Literal["layers", "params"] = "layers"


class _LayerRange(_Range, _Selected):
    pass


class _LayerChange(_Change, _Selected):
    pass


class _Finding(_Section):
    severity: Judgement
    certain: bool = False
    info: bool = False
    share: Share = 0.0


class _Exemption(_Section):
    layers: Regex
    reason: Annotated[str, AfterValidator(_words)]


class _Policy(_Section):
    version: Annotated[int, Field(ge=1, le=1)]
    fail_on: Literal["error", "warning"] = "error"
    unmatched: Judgement = "warning"
    settings: dict[str, Any] = {}
    findings: dict[str, Annotated[_Finding, BeforeValidator(_as_severity)]] = {}
    limits: dict[str, list[_LayerRange]] = {}
    changes: dict[str, list[_LayerChange]] = {}
    summary: dict[str, list[_Range]] = {}
    summary_changes: dict[str, list[_Change]] = {}
    ignore: list[_Exemption] = []


SECTIONS = ("limits", "changes", "summary", "summary_changes")


# ------------------------------------------------------------------------------- reading


def policy_from_yaml(text: str | bytes, origin: str, *, metrics: Collection[str],
                     summary: Collection[str]) -> Policy:  # fmt: skip
    """Parse and validate a policy; ``metrics`` and ``summary`` are the names that it may limit.

    Raises :class:`~frog.errors.UsageError` with file, line and place of what is wrong:
    ``policy.yaml:7: limits.alpha.max: must be a number, got 'six'``.

    >>> rules = "version: 1\\nlimits:\\n  alpha: {max: 6, share: 0.1}"
    >>> policy = policy_from_yaml(rules, "policy.yaml", metrics=["alpha"], summary=[])
    >>> policy.limits[0].rule, policy.limits[0].maximum, policy.limits[0].line
    ('limits.alpha', 6.0, 3)
    """
    lines = Lines(text, origin)
    data = lines.data
    if not isinstance(data, dict):
        raise UsageError(
            f"{origin}: must be a mapping that begins with version: 1, got {shown(data)}"
        )
    data = {key: value for key, value in data.items() if value is not None}
    for section in SECTIONS:
        if isinstance(data.get(section), dict):  # a metric has one rule, or a list of them
            rules = data[section].items()
            data[section] = {k: v if isinstance(v, list) else [v] for k, v in rules}
    try:
        checked = _Policy.model_validate(data)
    except ValidationError as error:
        raise _explained(error, lines) from None
    known = {
        "findings": ("kind of finding", KINDS),
        "limits": ("metric", metrics),
        "changes": ("metric", (*metrics, *CHANGES_ONLY)),
        "summary": ("mean", summary),
        "summary_changes": ("mean", (*summary, *SUMMARY_ONLY)),
    }
    for section, (kind, names) in known.items():
        for name in getattr(checked, section):
            if name not in names:
                raise UsageError(f"{lines.at(section, name)}: {UnknownName(kind, name, names)}")
    for section, sizes in (("changes", CHANGES_ONLY), ("summary_changes", SUMMARY_ONLY)):
        for name, rules in getattr(checked, section).items():
            plain = all(
                x.max is not None and not x.relative and x.direction == "both" for x in rules
            )
            if name in sizes and not plain:
                place = lines.at(section, name)
                raise UsageError(
                    f"{place}: must have max alone: it is the size of a change already"
                )
    return _record(checked, lines)


def default_policy() -> Policy:
    """The policy of a gate that was given none."""
    return policy_from_yaml(DEFAULT_POLICY, "the default policy", metrics=(), summary=())


def _record(checked: _Policy, lines: Lines) -> Policy:
    return Policy(
        origin=lines.origin,
        fail_on=checked.fail_on,
        unmatched=checked.unmatched,
        settings=_settings(checked.settings, lines),
        findings=tuple(_finding_rules(checked, lines)),
        limits=tuple(limit for section in SECTIONS for limit in _limits(checked, section, lines)),
        exemptions=tuple(
            Exemption(layers=x.layers, reason=x.reason, line=lines.of("ignore", i))
            for i, x in enumerate(checked.ignore)
        ),
    )


def _finding_rules(checked: _Policy, lines: Lines) -> Iterator[FindingRule]:
    """The policy's own rules, and the default ones of the kinds that it does not name."""
    for kind, rule in checked.findings.items():
        yield FindingRule(kind=kind, **rule.model_dump(), line=lines.of("findings", kind))
    if lines.text != DEFAULT_POLICY:
        yield from (x for x in default_policy().findings if x.kind not in checked.findings)


def _limits(checked: _Policy, section: str, lines: Lines) -> Iterator[Limit]:
    for metric, rules in getattr(checked, section).items():
        for i, rule in enumerate(rules):
            given: dict[str, Any] = rule.model_dump(exclude_none=True)
            names = {"min": "minimum", "max": "maximum", "role": "roles"}
            given = {names.get(key, key): value for key, value in given.items()}
            given["roles"] = tuple(given.get("roles", ()))
            number = f"[{i + 1}]" if len(rules) > 1 else ""
            yield Limit(
                rule=f"{section}.{metric}{number}",
                section=section,
                metric=metric,
                line=lines.of(section, metric, i),
                **given,
            )


def _settings(given: dict[str, Any], lines: Lines) -> dict[str, Any]:
    """The settings that the policy names, each of the type that it must have."""
    known = [f.name for f in fields(Settings) if f.name not in FIXED_SETTINGS]
    for name in given:
        if name not in known:
            place = lines.at("settings", name)
            raise UsageError(f"{place}: {UnknownName('setting', str(name), known)}")
    try:
        checked = TypeAdapter(Settings).validate_python(given)
    except ValidationError as error:
        raise _explained(error, lines, "settings") from None
    return {name: getattr(checked, name) for name in given}


def _explained(error: ValidationError, lines: Lines, *above: str) -> UsageError:
    return explained(error, lines, _keys_at, above=above)


def _keys_at(loc: tuple[Any, ...]) -> list[str]:
    """The keys that may stand at a place."""
    models: dict[str, type[BaseModel]] = {
        "findings": _Finding,
        "limits": _LayerRange,
        "changes": _LayerChange,
        "summary": _Range,
        "summary_changes": _Change,
        "ignore": _Exemption,
    }
    model = models[str(loc[0])] if loc else _Policy
    return list(model.model_fields)


# ------------------------------------------------------------------------------- results


def gate_to_json(result: GateResult) -> str:
    """The outcome of a gate as JSON text."""
    plain = asdict(result)
    return text_of({"format": GATE_FORMAT, "version": GATE_VERSION, **null(plain)})
