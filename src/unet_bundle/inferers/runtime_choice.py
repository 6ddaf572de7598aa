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

from unet_bundle.inferers.network_call import first_output
from unet_bundle.inferers.runtimes import RUNTIMES, Run, prepare, unfit
from unet_bundle.io.files import write_text
from unet_bundle.precision import autocast
from unet_bundle.runtime import our_error

logger = logging.getLogger(__name__)

WINDOWS = 100
"""Of a scan, among which the time that a runtime takes to get ready is shared out."""
CHOICES = "runtimes.json"
LARGEST_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Of scores to PyTorch's, as a share of the largest score: a runtime that differs by more is not chosen."""


def fastest_runtime(network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> Run:
    """The network in the runtime that takes the least time for a scan, getting ready included.

    What was measured is kept in the user's cache folder, by network, shape of windows, number format, machine and
    versions, and holds from then on.

    Args:
        network: in evaluation mode.
        windows: an example [windows, channels, *spatial].
        dtype: what to compute in.
    """
    path, key = cache_folder() / CHOICES, _key(network, windows, dtype)
    known = _read(path)
    name = known.get(key)
    if name in _candidates(windows.device, dtype):
        logger.info("runtime: %s, as measured here before", name)
        return _run(name, network, windows, dtype)
    found, seconds = _measured(network, windows, dtype)
    name = min(seconds, key=lambda each: seconds[each])
    table = ", ".join(f"{each} {value:.3g} s" for each, value in sorted(seconds.items(), key=lambda pair: pair[1]))
    logger.info("runtime: %s, the fastest here for a scan of %d windows: %s a window", name, WINDOWS, table)
    try:
        write_text(path, json.dumps({**_read(path), key: name}, indent=1) + "\n")
    except OSError as error:
        logger.info("the choice is not kept: the cache folder cannot be written (%s)", type(error).__name__)
    return found[name]


def cache_folder() -> Path:
    """The user's folder for what can be made again."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    else:
        base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "unet-bundle"


def _candidates(device: torch.device, dtype: torch.dtype) -> list[str]:
    return [name for name in RUNTIMES if name != "auto" and unfit(name, device, dtype) is None]


def _run(name: str, network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> Run:
    return network if name == "torch" else prepare(name, network, windows, dtype)


def _measured(network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> tuple[dict[str, Run], dict[str, float]]:
    """Every runtime that gives the same scores, and its seconds per batch of windows; PyTorch's own first."""
    found: dict[str, Run] = {}
    seconds: dict[str, float] = {}
    expected = None
    for name in _candidates(windows.device, dtype):
        try:
            start = time.perf_counter()
            run = _run(name, network, windows, dtype)
            scores = _scores(run, windows, dtype).clone()
            ready = time.perf_counter() - start
            expected = scores if expected is None else expected
            difference = float((scores - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
            if not difference <= LARGEST_DIFFERENCE[dtype]:
                logger.info("runtime %s is left out: scores differ by %.2g of the largest", name, difference)
                continue
            start = time.perf_counter()
            _scores(run, windows, dtype)
            each = time.perf_counter() - start
        except Exception as error:  # runtimes fail in their own ways; PyTorch itself is left
            if name == "torch" or our_error(error) is not None:
                raise
            logger.info("runtime %s is left out: it fails here (%s)", name, type(error).__name__)
            continue
        found[name], seconds[name] = run, each + max(ready - each, 0) / WINDOWS
    return found, seconds


def _scores(run: Run, windows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    with torch.no_grad(), autocast(windows.device, dtype):
        scores = first_output(run(windows)).float()
    if windows.device.type == "cuda":
        torch.cuda.synchronize(windows.device)
    return scores


def _key(network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> str:
    """Of all that decides how fast runtimes are."""
    device = windows.device
    hardware: list[Any] = [platform.node(), torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()]
    if device.type == "cuda":
        hardware = [torch.cuda.get_device_name(device)]
    layers = [(name, list(each.shape)) for name, each in network.state_dict().items()]
    content = [layers, list(windows.shape), str(dtype), hardware, _versions()]
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
