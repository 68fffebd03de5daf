"""Fakes that implement the real ports and behave: they retain, drop, repeat. Tests assert on state, not on calls."""
