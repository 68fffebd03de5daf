"""The commands `hone-hub backup` and `hone-hub restore`: what was asked, done, and told in words."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.clock import SystemClock
from shared.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def backup(arguments: argparse.Namespace) -> int:
    """`hone-hub backup`; returns the exit status."""
    from rich.progress import Progress

    from hub.backup import make
    from hub.settings import find_config, read

    config = find_config(arguments.config)
    if arguments.keep is not None and arguments.keep < 1:
        raise ConfigError("--keep must be 1 or more")
    with Progress() as bar:
        made = make(
            read(config),
            config,
            arguments.folder,
            SystemClock(),
            keep=arguments.keep,
            private_keys=not arguments.without_keys,
            progress=_steps(bar),
        )
    manifest = made.manifest
    _say(
        f"{made.generation}: {manifest.images} images, {manifest.blobs} blobs of {manifest.bytes} bytes; "
        f"{made.copied} new ones of {made.copied_bytes} bytes were copied"
    )
    for name in made.dropped:
        _say(f"dropped generation {name}")
    if manifest.private_keys:
        _say("the backup holds private keys: keep it as safe as the hub")
    for sha256 in made.unmarked:
        _say(f"missing: blob {sha256}: the hub has no good one; see: hone-hub fsck --deep")
    return 1 if made.unmarked else 0


def restore(arguments: argparse.Namespace) -> int:
    """`hone-hub restore`; returns the exit status."""
    from rich.progress import Progress

    from hub import restore as restoring
    from hub.settings import find_config, read

    with Progress() as bar:
        done = restoring.restore(
            read(find_config(arguments.config)),
            arguments.folder,
            SystemClock(),
            generation=arguments.generation,
            force=arguments.force,
            incomplete=arguments.incomplete,
            progress=_steps(bar),
        )
    made = f"{done.manifest.time:%Y-%m-%d %H:%M:%S} UTC"
    for name in done.skipped:
        _say(f"generation {name} is newer, but it is not complete: it was left out")
    _say(f"restored generation {done.generation} of {made}: {done.manifest.images} images, {done.copied} blobs copied")
    if done.aside is not None:
        _say(f"the database that was here is now {done.aside}")
    if done.lost:
        _say(f"{done.lost} images are marked lost: their bytes are neither in the backup nor here")
    _say({"restored": "keys: restored", "kept": "keys: those that were here stay", "none": "keys: none"}[done.keys])
    _say(f"epoch {done.epoch} begins: cameras offer again the copies that they keep (spool.keep_hours)")
    _say(f"images stored after {made} are gone from the hub, unless cameras keep them still; they come by themselves")
    _say(f"labels made after {made}, runs and releases too, are gone")
    if done.took_over:
        _say("releases get numbers above those of the database that was here, and above what cameras report")
    else:
        _say("releases get numbers above what cameras report: wait until all have reported before you release")
    return 0


def _steps(bar: "Progress") -> Callable[[str, int, int], None]:
    """A bar for each step."""
    tasks: dict[str, TaskID] = {}

    def show(step: str, done: int, total: int) -> None:
        if step not in tasks:
            tasks[step] = bar.add_task(step, total=total)
        bar.update(tasks[step], completed=done, total=total)

    return show
