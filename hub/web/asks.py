"""What the page, or another program, may ask of the API."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from hub import again

MAX_ID = 2**53
"""No row number is larger: it must survive a JavaScript number."""

Id = Annotated[int, Field(ge=1, le=MAX_ID)]
BulkId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{8,64}$")]
Operator = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


class Ask(BaseModel):
    """Base of all requests: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelAsk(Ask):
    """ "This image is `name`." seconds: how long the operator looked at it.

    ask: as the queue gave it.
    """

    image: Id
    name: Annotated[str, Field(min_length=1, max_length=200)]
    operator: Operator
    seconds: Annotated[float, Field(ge=0, le=86400)] | None = None
    ask: again.Ask = ""


class SkipAsk(Ask):
    """ "I cannot tell what this image is.\""""

    image: Id
    operator: Operator
    ask: again.Ask = ""


class BulkAsk(Ask):
    """ "These images are all `name`", or "" for "I cannot tell". bulk: an id of yours, by which it is taken back."""

    images: Annotated[list[Id], Field(min_length=1, max_length=500)]
    name: Annotated[str, Field(max_length=200)]
    operator: Operator
    bulk: BulkId


class BulkUndoAsk(Ask):
    """ "Take back that decision on many images.\""""

    operator: Operator
    bulk: BulkId


class UndoAsk(Ask):
    """ "Take back my last decision." label: which one that is, so that a repeat takes back nothing more."""

    operator: Operator
    label: Id | None = None


class RunAsk(Ask):
    """ "Train now.\""""

    why: Annotated[str, Field(max_length=200)] = "asked for on the page"


class ReleaseAsk(Ask):
    """ "Release what this run made." start: its rollout begins when its turn comes; false: a draft, until resumed."""

    run: Id
    note: Annotated[str, Field(max_length=500)] = ""
    start: bool = True


class AbortAsk(Ask):
    """ "End this rollout", and why."""

    why: Reason


class ExemptionAsk(Ask):
    """ "This camera runs that release whatever the plan says", and why. release: 0 ends that."""

    release: Annotated[int, Field(ge=0, le=MAX_ID)]
    reason: Reason
    operator: Operator
