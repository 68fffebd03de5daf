"""Threads that must not disturb the frame loop."""

import logging
import os
import threading

log = logging.getLogger(__name__)


def lower_priority(nice: int = 10) -> None:
    """Give the calling thread a lower CPU priority (Linux: nice values are per thread); logs where that fails."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    except OSError as error:
        log.warning("thread %s keeps normal priority (%s)", threading.current_thread().name, error.strerror)
