"""How much memory there is, and how much of it may be taken."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import psutil
import torch

from unet_bundle.errors import ConfigError

SHARE = 0.5
"""Of the memory that is free at the start: what the sums may take where nothing is said."""

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CGROUP_USE = Path("/sys/fs/cgroup/memory.current")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def free_memory_bytes() -> int:
    """Memory this process may still take: of the machine, or of its container if that is less."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or the limit is "max"
        free = min(free, int(_CGROUP_LIMIT.read_text()) - int(_CGROUP_USE.read_text()))
    return max(free, 0)


def memory_limit(stated: str | int | None, device: torch.device) -> int:
    """Bytes.

    Args:
        stated: such as ``"8GB"`` or ``"512MiB"``, or bytes; None for a share of what is free.
        device: whose memory it is.

    Raises:
        ConfigError: it is no amount.
    """
    if stated is None:
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes()
        return int(free * SHARE)
    found = _AMOUNT.fullmatch(str(stated))
    if found is None or found[2].upper() not in _UNITS or float(found[1]) <= 0:
        raise ConfigError(
            f"memory is {stated!r}: give an amount like '8GB' or '512MiB', or null for half of what is free"
        )
    return int(float(found[1]) * _UNITS[found[2].upper()])
