"""Heap: what a long-running program has built up by its start is looked at by the garbage collector no more."""

import gc

YOUNG = 10_000
"""New objects after which the youngest are looked at; Python's 700 are gone through by a single batch of rows."""


def settle() -> None:
    """Call once when all is imported and set up, before the work begins.

    Libraries leave some hundred thousand objects that live until the end. Each full collection walks through them, and
    messages by the thousand cause many: they took 45 % of a busy hub's time (`py-spy record --native`), with every
    thread standing still meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)
