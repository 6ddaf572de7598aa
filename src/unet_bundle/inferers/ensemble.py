"""The networks whose scores are averaged: one network with the weights of several folds."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from unet_bundle.errors import ConfigError
from unet_bundle.networks.checkpoint import (
    bare,
    ensemble_files,
    file_version,
    load_checkpoint,
    load_weights,
    short_name,
)

_made: WeakKeyDictionary[nn.Module, tuple[Any, list[nn.Module]]] = WeakKeyDictionary()
"""The last members made of each network, and of what: a server builds inferers anew for each scan, not networks."""
_lock = threading.Lock()


class Ensemble:
    """Networks of one kind, each with weights of its own.

    They are made once for a network and go with it; again, if its device or one of the files is another.

    Args:
        files: of weights; none: the network that is given, as it is.
        folder: what these files are relative to.

    Raises:
        ConfigError: `files` is no list of files.
        CheckpointError: a file is missing.
    """

    def __init__(self, files: Sequence[str | Path] | None, folder: str | Path = ".") -> None:
        self.files = ensemble_files(files, folder)

    def of(self, network: Any) -> list[Any]:
        """The members, made of `network`, on its device.

        Raises:
            CheckpointError: a file is missing, damaged, or of another network.
            ConfigError: what is given is no module, so that no weights can be put into it.
        """
        if not self.files:
            return [network]
        if not isinstance(network, nn.Module):
            raise ConfigError("an ensemble needs a network of its own: give a module, not a function")
        network = bare(network)
        with _lock:
            versions = [(file, file_version(file)) for file in self.files]
            wanted = versions, {(each.device, each.dtype) for each in network.parameters()}
            made = _made.get(network)
            if made is None or made[0] != wanted:
                _made.pop(network, None)  # before others take as much memory
                made = _made[network] = wanted, [_member(network, file) for file in self.files]
        return list(made[1])


def _member(network: nn.Module, file: Path) -> nn.Module:
    member = copy.deepcopy(network).eval()
    load_weights(member, load_checkpoint(file), short_name(file))
    return member
