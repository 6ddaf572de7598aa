"""How long the stages of a scan's way take: reading, preparing, the network, resampling, writing."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

logger = logging.getLogger(__name__)

STAGES = ("read", "preprocess", "network", "resample", "postprocess", "write")
"""In the order in which a scan passes them."""

_taken = threading.local()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the time of the body to a stage of this thread's scan; what stages within it take counts to them alone."""
    outer = dict(_seconds())
    start = time.perf_counter()
    try:
        yield
    finally:
        within = sum(_seconds().values()) - sum(outer.values())
        add(name, time.perf_counter() - start - within)


def add(name: str, seconds: float) -> None:
    """Count seconds to a stage of this thread's scan."""
    _seconds()[name] = _seconds().get(name, 0.0) + max(seconds, 0.0)


def finish(device: torch.device) -> None:
    """Wait for what a device was given to do, before a clock is read: CUDA takes work and does it later."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(name: str) -> float:
    """What a stage of this thread's scan has taken so far."""
    return _seconds().get(name, 0.0)


def begin() -> None:
    """A new scan that the caller follows to its end: forget what the one before took."""
    _seconds().clear()
    _taken.followed = True


def end() -> None:
    """The end of a scan, well or not: nobody follows this thread's next one until it begins."""
    _seconds().clear()
    _taken.followed = False


def log(scans: int = 1) -> None:
    """The end of a scan with one line, JSON behind the words: the seconds of each stage of this thread's scan.

    Args:
        scans: how many were done together.
    """
    taken = _seconds()
    order = sorted(taken, key=lambda name: STAGES.index(name) if name in STAGES else len(STAGES))
    together = f" of {scans} scans together" if scans > 1 else ""
    logger.info("seconds a stage%s: %s", together, json.dumps({name: round(taken[name], 2) for name in order}))
    end()


@contextmanager
def scan() -> Iterator[None]:
    """Follow a scan from its beginning to its end; one that fails is not logged."""
    begin()
    try:
        yield
        log()
    finally:
        end()


def log_if_alone() -> None:
    """The line for a scan that nobody follows to its end, such as a host's that calls the inferer itself."""
    if not getattr(_taken, "followed", False):
        log()


def _seconds() -> dict[str, float]:
    if not hasattr(_taken, "seconds"):
        _taken.seconds = {}
    seconds: dict[str, float] = _taken.seconds
    return seconds
