"""Weights in files: writing them whole or not at all, and loading them with one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai.handlers
import torch
from ignite.engine import Engine
from torch import nn

from unet_bundle.io.files import replacing
from unet_bundle.networks.checkpoint import file_version, load_checkpoint, load_weights, short_name, weights_version

LAST = "last.pt"
BEST = "best.pt"


def save_atomically(content: Any, path: Path) -> None:
    """Write `content` with ``torch.save`` so that `path` is either the old file or the complete new one."""
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)  # given a path, it writes the temporary name into the file
    except (OSError, RuntimeError) as error:
        refusal = _of_the_system(error)
        if refusal is None:
            raise
        raise OSError(refusal.errno, refusal.strerror, str(path)) from error


def _of_the_system(error: BaseException | None) -> OSError | None:
    """The system's error behind `error`: torch raises one of its own when it closes what it could not write."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


class CheckpointLoader(monai.handlers.CheckpointLoader):
    """MONAI's loader, with one line for a checkpoint that is missing, damaged or does not fit.

    Args:
        load_path: the checkpoint: a state dict, or one under ``"model"`` or ``"network"``.
        load_dict: one entry, the network.
    """

    def __init__(self, load_path: str, load_dict: dict[str, nn.Module]) -> None:
        super().__init__(load_path=load_path, load_dict=load_dict)
        self._loaded: Any = None

    def __call__(self, _engine: Engine) -> None:
        """Load the weights, see `load`."""
        self.load()

    def load(self) -> None:
        """Load the weights, unless the network still has those of this very file, as from one scan to the next.

        Raises:
            CheckpointError: the checkpoint is missing, damaged, changes while it is read or does not fit.
        """
        path = Path(self.load_path)
        file = file_version(path)
        if self._loaded == (file, self._weights()):
            return
        state = load_checkpoint(path)
        for network in self.load_dict.values():
            load_weights(network, state, short_name(path))
        self._loaded = file, self._weights()

    def _weights(self) -> Any:
        """What changes with the weights in the network."""
        return [weights_version(network) for network in self.load_dict.values()]
