"""Policy: what the project says of triage in its plan, as far as this agent can follow it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.policy import TriageSettings, from_wire


@dataclass(frozen=True, slots=True)
class Policy:
    """What the project says of triage. triage: the last that this agent could follow; None: nothing is said.

    refused: why what the last plan says is not followed; empty: it is.
    """

    triage: TriageSettings | None = None
    refused: str = ""


def policy_of(told: Mapping[str, Any] | None) -> Policy:
    """What a plan says; SettingError where this agent cannot follow it."""
    return Policy(None if told is None else from_wire(told))
