"""How undecided a network is about a scan: what an annotator's time is best spent on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

SEEN = 0.05
"""Probability of foreground above which a voxel counts: most of a scan is background without a doubt."""


def predictive_entropy(passes: Sequence[npt.NDArray[np.floating]], *, exclusive: bool = True) -> float:
    """Mean entropy of the mean probabilities, over the voxels that may be foreground.

    The predictive entropy of Gal and Ghahramani 2016 (arXiv:1506.02142), for passes with dropout or the members of an
    ensemble; with one pass, the entropy of its probabilities.

    Args:
        passes: probabilities of each pass, shape [classes, *spatial]; they may be mapped from files: a class is read
            at a time.
        exclusive: classes exclude each other and the first is background; else they are regions, each with a
            probability of its own.

    Returns:
        0: sure of every voxel, to 1: all classes alike. 1 also where nothing may be foreground: a scan in which the
        network finds nothing needs a look.

    Raises:
        ValueError: there is no pass.
    """
    if not passes:
        raise ValueError("there is no pass to take the entropy of")
    classes = len(passes[0])
    total = np.zeros(passes[0].shape[1:], np.float32)
    foreground = np.zeros_like(total)
    for number in range(classes):
        mean = np.mean([np.asarray(each[number], dtype=np.float32) for each in passes], axis=0)
        total += _term(mean) if exclusive else _term(mean) + _term(1 - mean)
        if not exclusive:
            foreground = np.maximum(foreground, mean)
        elif number == 0:
            foreground = 1 - mean
    seen = foreground > SEEN
    if not seen.any():
        return 1.0
    largest = np.log(classes) if exclusive else classes * np.log(2)
    return float(np.clip(total[seen].mean() / largest, 0, 1))


def _term(share: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """-p log p, 0 at p = 0."""
    share = np.clip(share, 0, 1)
    return -share * np.log(np.where(share > 0, share, 1))


def draw_dropout(network: nn.Module) -> int:
    """Let the dropout layers of a network draw, all else as in use (norms keep their statistics).

    Returns:
        How many layers draw; with 0 a second pass would be the same as the first.
    """
    network.eval()
    layers = [module for module in network.modules() if isinstance(module, _DropoutNd) and module.p > 0]
    for layer in layers:
        layer.train()
    return len(layers)
