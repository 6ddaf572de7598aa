"""How much memory there is, and how much of it may be taken."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil
import torch

from unet_bundle.errors import ConfigError

SHARE = 0.5
"""Of the memory that is free at the start: what the sums may take where nothing is said."""

_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


class _Names(NamedTuple):
    """Files of a control group of Linux, and the line of its statistics for what the system takes back when asked."""

    limit: str
    use: str
    files_held: str


_FIRST = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_SECOND = _Names("memory.max", "memory.current", "inactive_file")
"""By version; the first is that of older Docker hosts."""


def free_memory_bytes() -> int:
    """Memory this process may still take: of the machine, or of its container or batch job if that is less."""
    free = int(psutil.virtual_memory().available)
    for folder, names in _groups():
        with contextlib.suppress(OSError, ValueError):  # not seen from here, or the limit is "max"
            used = int((folder / names.use).read_text()) - _files_held(folder, names)
            free = min(free, int((folder / names.limit).read_text()) - used)
    return max(free, 0)


def _groups() -> Iterator[tuple[Path, _Names]]:
    """The control groups that this process is in: its own, and those around it."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (_GROUPS / "memory", _FIRST) if controllers else (_GROUPS, _SECOND)
        own = PurePosixPath(place.lstrip("/"))
        for each in (own, *own.parents):
            yield root / each, names


def _files_held(folder: Path, names: _Names) -> int:
    """Bytes of files that were read and are kept only in case they are again: free for whoever asks."""
    lines = (folder / "memory.stat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{names.files_held} ")), 0)


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
