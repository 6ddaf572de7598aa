"""The environment that nnU-Net lives in, beside ours, for the benchmarks that compare with it."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

PEERS = ["torch==2.13.0", "torchvision==0.28.0", "nnunetv2==2.8.1"]


def environment(folder: Path) -> str:
    """Python of the environment with nnU-Net; made if it is not there."""
    python = folder / "nnunet" / "bin" / "python"
    if not python.exists():
        say(f"making an environment with {', '.join(PEERS)}")
        venv.create(folder / "nnunet", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS], check=True)  # noqa: S603
    return str(python)


def mend_torchvision() -> Any:
    """Let the registry's torchvision, built for CUDA, be imported without; keep what is returned."""
    import torch

    if torch.cuda.is_available():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
