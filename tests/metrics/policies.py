"""Policies for tests, by their text."""

from __future__ import annotations

from frog.serial.policy import policy_from_yaml
from frog.types import Policy

METRICS = ("alpha", "stable_rank", "log_norm")
SUMMARY = ("alpha", "alpha_weighted", "layers_fitted")


def policy_of(text: str, origin: str = "policy.yaml") -> Policy:
    """A policy whose first line is ``version: 1``."""
    return policy_from_yaml(f"version: 1\n{text}", origin, metrics=METRICS, summary=SUMMARY)
