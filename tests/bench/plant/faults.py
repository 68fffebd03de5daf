"""What goes wrong, in an order that a seed decides alone."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

CAMERAS = ("plant/cam-1", "plant/cam-2", "plant/cam-3")
BROKER, HUB = "broker", "hub"
EVERYONE = (BROKER, HUB, *CAMERAS)
SIDES = {"cameras": "down", "hub": "up"}
"""Whose connections to the broker go through a proxy, and the direction in which the hub's words go there."""


@dataclass(frozen=True)
class Fault:
    """kill: targets are processes, started again after `seconds`. cut: targets are SIDES, whose connections are reset
    after `seconds`, in which nothing that the hub says gets through. fill: the hub's disk is filled up to `room`
    bytes for `seconds`. after: seconds since the fault before. busy: it then waits until images are being stored,
    where that comes soon, to hit them on their way.
    """

    after: float
    kind: Literal["kill", "cut", "fill"]
    targets: tuple[str, ...]
    seconds: float = 0.0
    room: int = 0
    busy: bool = False


def hits(seed: int) -> Iterator[Fault]:
    """Kills and cuts, without end. The third takes the hub away for so long that a small spool overflows."""
    rng = random.Random(f"{seed}/hits")
    for number in range(1 << 30):
        after, busy = round(rng.uniform(0.5, 3.0), 2), rng.random() < 0.7
        if rng.random() < 0.4:
            targets = rng.choice((("cameras",), ("cameras",), ("hub",), tuple(SIDES)))
            fault = Fault(after, "cut", targets, rng.choice((0.0, round(rng.uniform(0.1, 2.0), 2))), busy=busy)
        else:
            fault = Fault(after, "kill", _victims(rng), round(rng.uniform(0.1, 1.5), 2), busy=busy)
        yield Fault(after, "kill", (HUB,), 8.0) if number == 2 else fault


def _victims(rng: random.Random) -> tuple[str, ...]:
    draw = rng.random()
    if draw < 0.70:
        return (rng.choice(EVERYONE),)
    if draw < 0.85:
        return (BROKER, HUB)
    return tuple(rng.sample(EVERYONE, 2 if draw < 0.97 else len(EVERYONE)))


def fills(seed: int) -> Iterator[Fault]:
    """Times when the hub's disk is full, without end; a little room makes writes fail half-way."""
    rng = random.Random(f"{seed}/fills")
    full = 0.0
    while True:
        after = round(full + rng.uniform(6.0, 18.0), 2)
        full = round(rng.uniform(2.0, 6.0), 2)
        yield Fault(after, "fill", (HUB,), full, rng.choice((0, 0, 1 << 16, 1 << 18)), busy=True)
