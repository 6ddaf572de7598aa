"""How long a training will take: a few steps timed on this machine before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from unet_bundle.precision import autocast, resolve_precision

WARM_UP_STEPS = 1
TIMED_STEPS = 2


def seconds_per_step(
    make_network: Callable[[], nn.Module],
    loss_function: nn.Module,
    image_shape: Sequence[int],
    num_classes: int,
    device: torch.device,
    precision: str = "auto",
) -> float:
    """Time of a training step (forward, loss, backward), on random voxels; loading and augmenting come on top.

    Args:
        make_network: makes the network to time; the one to be trained stays untouched, and so do the random streams.
        loss_function: of the training.
        image_shape: [batch, channels, *spatial].
        num_classes: number of classes.
        device: where training will run.
        precision: see `resolve_precision`.
    """
    dtype = resolve_precision(precision, device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        network = make_network().to(device).train()
        image = torch.rand(*image_shape, device=device)
        label = torch.randint(0, num_classes, (image_shape[0], 1, *image_shape[2:]), device=device).float()
        started = 0.0
        for step in range(WARM_UP_STEPS + TIMED_STEPS):
            if step == WARM_UP_STEPS:
                _synchronise(device)
                started = time.monotonic()
            with autocast(device, dtype):
                outputs = network(image)
            loss_function(outputs, label).backward()
        _synchronise(device)
    return (time.monotonic() - started) / TIMED_STEPS


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
