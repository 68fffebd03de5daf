"""The demo from top to bottom: which story, on a stage of real processes, and what becomes of it at the end."""

import logging
import shutil
import signal
from pathlib import Path

from rich.console import Console

from hub.demo import bad, better
from hub.demo.children import Children
from hub.demo.stage import EndError, Stage, Story, StoryError
from shared.errors import ConfigError

MARKER = ".hone-demo"
STORIES = {"better": better.tell, "bad-release": bad.tell}
"""By name: what tells the story on a stage and returns everything in which it did not end as it should."""


def run(story: Story) -> int:
    """Tell the story; returns 0, or raises a HoneError that says what went wrong. Ctrl-C ends it within seconds."""
    # Looked at between two steps: an exception that comes out of nowhere, as KeyboardInterrupt does, leaves a
    # transaction or a lock half done, and SQLAlchemy's pool tells of it with a traceback.
    asked: list[object] = []
    for one in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background job starts with it ignored
        signal.signal(one, lambda *_: asked.append(True))
    logging.getLogger().setLevel(logging.WARNING)  # the processes' logs are files; here is the story
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has no width of its own
    state = story.state.resolve()
    _clear(state)
    children = Children(state / "logs")
    try:
        stage = Stage(story, state, children, console, asked)
        stage.say(f"[bold]Hone demo[/]  the page: [underline]{stage.url}[/]")
        try:
            found = STORIES[story.name](stage)
        finally:
            stage.close()
        if found and story.once:
            raise StoryError("; ".join(found), subject="the demo", remedy=f"Logs are in {state / 'logs'}")
        for problem in found:
            stage.say(f"[red]not as it should be: {problem}[/]")
        if not story.once:
            stage.linger()
        return 0
    except EndError:
        console.print("\nended; everything that was started is being stopped")
        return 0 if not story.once else 130
    finally:
        for one in (signal.SIGINT, signal.SIGTERM):  # an impatient second Ctrl-C must not leave anything behind
            signal.signal(one, signal.SIG_IGN)
        children.stop()


def _clear(state: Path) -> None:
    """Make room for a fresh story: only in a folder that a demo made; converted backbones stay."""
    others = {one.name for one in state.iterdir()} - {"cache"} if state.exists() else set()
    if others and MARKER not in others:
        raise ConfigError(
            "is not empty and not of an earlier demo", subject=str(state), remedy="Give another one with --state"
        )
    state.mkdir(parents=True, exist_ok=True)
    (state / MARKER).touch()
    for one in state.iterdir():
        if one.name in ("cache", MARKER):
            continue
        if one.is_dir():
            shutil.rmtree(one)
        else:
            one.unlink()
