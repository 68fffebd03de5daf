"""The demo: the whole story on one machine, through the real programs. A line of mono cells switches to poly."""

from hub.demo.stage import Story
from hub.demo.story import run

__all__ = ["Story", "run"]
