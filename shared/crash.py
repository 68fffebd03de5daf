"""A thread that dies of an error nobody foresaw ends the program: half a hub or camera is worse than a restart."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Watch:
    """Once installed, logs the death of any thread and calls `stop`; `happened` tells the exit status to be."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self.happened = False

    def install(self) -> None:
        """Watch every thread of this process from now on."""
        threading.excepthook = self._died

    def _died(self, what: threading.ExceptHookArgs) -> None:
        name = what.thread.name if what.thread is not None else "?"
        trace = (what.exc_type, what.exc_value or what.exc_type(), what.exc_traceback)
        log.critical("thread %s died; the program ends, so that it can be started anew", name, exc_info=trace)
        self.happened = True
        self._stop()
