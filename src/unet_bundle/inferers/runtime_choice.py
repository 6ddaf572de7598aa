"""Which runtime is the fastest for a network on this machine: measured once, remembered, and said."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unet_bundle import stages
from unet_bundle.inferers.backends import RUNTIMES, HandoverError, Run, prepare, unfit
from unet_bundle.inferers.network_call import first_output
from unet_bundle.io.files import write_text
from unet_bundle.precision import autocast
from unet_bundle.runtime import our_error

logger = logging.getLogger(__name__)

WINDOWS = 100
"""Of a scan, among which the time that a runtime takes to get ready is shared out."""
CHOICES = "runtimes.json"
LARGEST_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Of scores to PyTorch's, as a share of the largest score: a runtime that differs by more is not chosen."""


def fastest_runtime(
    network: nn.Module, windows: torch.Tensor, dtype: torch.dtype, chosen: dict[str, str]
) -> Run | None:
    """The network in the runtime that takes the least time for a scan, getting ready included; None: PyTorch itself.

    What was measured is kept in the user's cache folder, by network, shape of a window, number format, machine and
    versions, and holds from then on, however many windows there are at once. Each time that a network is handed over,
    its scores are compared with PyTorch's; where they differ, or it fails, all are measured again.

    Args:
        network: in evaluation mode.
        windows: an example [windows, channels, *spatial].
        dtype: what to compute in.
        chosen: what was chosen in this process; noted here.
    """
    path, key = cache_folder() / CHOICES, _key(network, windows, dtype)
    known = chosen.get(key) or _read(path).get(key)
    if known == "torch":
        logger.info("runtime: torch, as measured here before")
        return None
    measurement = _Measurement(network, windows, dtype)
    if not measurement.is_comparable():
        logger.info("runtime: torch: its own scores are not finite, so that no other can be compared with it")
        return None
    if known in measurement.candidates:
        tried = measurement.tried(known)
        if tried is not None:
            logger.info("runtime: %s, as measured here before", known)
            chosen[key] = known
            return tried[0]
    name, run, seconds = measurement.fastest()
    table = ", ".join(f"{each} {value:.3g} s" for each, value in sorted(seconds.items(), key=lambda pair: pair[1]))
    logger.info("runtime: %s, the fastest here for a scan of %d windows: %s a window", name, WINDOWS, table)
    chosen[key] = name
    try:
        write_text(path, json.dumps({**_read(path), key: name}, indent=1) + "\n")
    except OSError as error:
        logger.info("the choice is not kept: the cache folder cannot be written (%s)", type(error).__name__)
    return run


def cache_folder() -> Path:
    """The user's folder for what can be made again."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    else:
        base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "unet-bundle"


class _Measurement:
    """What other runtimes give and take beside PyTorch, for windows of noise as bright as the example.

    The example itself may be air, of which a wrong runtime may make the same scores.
    """

    def __init__(self, network: nn.Module, example: torch.Tensor, dtype: torch.dtype) -> None:
        self.network, self.dtype = network, dtype
        self.windows = _noise(example)
        self.candidates = [
            name for name in RUNTIMES if name not in ("torch", "auto") and unfit(name, example.device, dtype) is None
        ]
        start = time.perf_counter()
        self.expected = _scores(network, self.windows, dtype).clone()
        self.first = time.perf_counter() - start

    def is_comparable(self) -> bool:
        """Whether PyTorch's own scores are numbers."""
        return bool(self.expected.isfinite().all())

    def tried(self, name: str) -> tuple[Run, float] | None:
        """A runtime's run and its seconds for these windows, a share of getting ready included.

        None if it fails, or gives other scores.
        """
        start = time.perf_counter()
        try:
            run = prepare(name, self.network, self.windows, self.dtype)
            scores = _scores(run, self.windows, self.dtype)
            ready = time.perf_counter() - start
            largest = self.expected.abs().max().clamp(min=1e-6)
            difference = float((scores - self.expected).abs().max() / largest)
            if not difference <= LARGEST_DIFFERENCE[self.dtype]:
                logger.info("runtime %s is left out: scores differ by %.2g of the largest", name, difference)
                return None
            return run, self._seconds(run, ready)
        except Exception as error:  # runtimes fail in their own ways; PyTorch itself is left
            cause = error.__cause__ if isinstance(error, HandoverError) else error
            if our_error(cause) is not None:
                raise
            logger.info("runtime %s is left out: it fails here (%s)", name, type(cause).__name__)
            return None

    def fastest(self) -> tuple[str, Run | None, dict[str, float]]:
        """Name and run of the fastest, and the seconds of all. One at a time is held, beside the fastest so far."""
        best: tuple[str, Run | None] = ("torch", None)
        seconds = {"torch": self._seconds(self.network, self.first)}
        for name in self.candidates:
            tried = self.tried(name)
            if tried is None:
                continue
            run, seconds[name] = tried
            if seconds[name] < seconds[best[0]]:
                best = name, run
            del tried, run
        return *best, seconds

    def _seconds(self, run: Run, ready: float) -> float:
        start = time.perf_counter()
        _scores(run, self.windows, self.dtype)
        each = time.perf_counter() - start
        return each + max(ready - each, 0) / WINDOWS


def _noise(example: torch.Tensor) -> torch.Tensor:
    """Windows of noise, always the same, with the mean and the spread of the example in each channel."""
    axes = [0, *range(2, example.ndim)]
    values = example.float()
    spread, mean = torch.std_mean(values, dim=axes, correction=0, keepdim=True)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0)).to(example.device)
    return (mean + spread * noise).to(example.dtype)


def _scores(run: Run, windows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    with torch.no_grad(), autocast(windows.device, dtype):
        scores = first_output(run(windows)).float()
    stages.finish(windows.device)
    return scores


def _key(network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> str:
    """Of all that decides how fast runtimes are."""
    device = windows.device
    hardware: list[Any] = [platform.node(), torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()]
    if device.type == "cuda":
        hardware = [torch.cuda.get_device_name(device)]
    layers = [(name, list(each.shape)) for name, each in network.state_dict().items()]
    content = [layers, list(windows.shape[1:]), str(dtype), hardware, _versions()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


@functools.cache
def _versions() -> dict[str, str]:
    """Of the libraries; another version may be faster or slower."""
    wanted = {"torch", "openvino", "onnxruntime"}
    return {each.name: each.version for each in distributions() if each.name in wanted}


def _read(path: Path) -> dict[str, str]:
    """What is known; nothing if the file is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
