"""What messages call a tensor."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any


def name_of(image: Any, key: Hashable) -> str:
    """Base name of the file that a `MetaTensor` was read from, or "the <key>" where it is not known."""
    return Path(str(getattr(image, "meta", {}).get("filename_or_obj", f"the {key}"))).name
