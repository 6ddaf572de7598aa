"""The networks whose scores are averaged: one network with the weights of several folds."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from unet_bundle.errors import ConfigError
from unet_bundle.networks.checkpoint import bare, load_checkpoint, load_weights, short_name


class Ensemble:
    """Networks of one kind, each with weights of its own.

    Args:
        files: of weights; none: the network that is given, as it is.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._lock = threading.Lock()
        self._members: list[nn.Module] = []

    def of(self, network: Any) -> list[Any]:
        """The members, made of the first network that comes, on its device.

        Raises:
            CheckpointError: a file is missing, damaged, or of another network.
            ConfigError: what is given is no module, so that no weights can be put into it.
        """
        if not self.files:
            return [network]
        if not isinstance(network, nn.Module):
            raise ConfigError("an ensemble needs a network of its own: give a module, not a function")
        with self._lock:
            if not self._members:
                self._members = [self._member(network, file) for file in self.files]
        return list(self._members)

    def _member(self, network: nn.Module, file: Path) -> nn.Module:
        member = copy.deepcopy(bare(network)).eval()
        load_weights(member, load_checkpoint(file), short_name(file))
        return member
