"""Choices of a training that need a line of code each: the optimiser, how the network is laid out and compiled."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from unet_bundle.errors import ConfigError
from unet_bundle.io.splits import LARGEST_SEED

logger = logging.getLogger(__name__)

OPTIMIZERS = ("AdamW", "SGD")
MOMENTUM = 0.99
"""Of SGD: that of the U-Net's paper and of nnU-Net."""
LEAST_ITERATIONS, LEAST_MINUTES = 500, 5.0
"""Of a training that is compiled unasked."""
DATABASES = ("http://", "https://", "sqlite:///", "mysql", "postgresql", "mssql", "databricks")


def check_seed(seed: Any) -> None:
    """Refuse what the sources of random numbers could not take, before scans are read.

    Raises:
        ConfigError: `seed` is no whole number, negative or too large.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"seed must be a whole number from 0 to {LARGEST_SEED}, not {seed!r}.")


def make_optimizer(
    params: Iterable[Any], name: str = "AdamW", lr: float = 1e-3, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """The optimiser.

    Args:
        params: weights, or groups of them, as torch's optimisers take them.
        name: ``"AdamW"`` (Loshchilov and Hutter 2019), or ``"SGD"`` with Nesterov's momentum of 0.99 (nnU-Net, which
            has a rate of 0.01 and a weight decay of 3e-5 beside it).
        lr: learning rate; the schedule sets it anew before each step.
        weight_decay: share of a weight that is taken off it in a step, times the rate.

    Raises:
        ConfigError: there is no such optimiser, or `weight_decay` is negative.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"optimizer_name must be one of {', '.join(OPTIMIZERS)}, not {name!r}.")
    if not weight_decay >= 0:
        raise ConfigError(f"weight_decay must be 0 or more, not {weight_decay!r}.")
    if name == "SGD":
        return torch.optim.SGD(params, lr, momentum=MOMENTUM, nesterov=True, weight_decay=weight_decay)
    return torch.optim.AdamW(params, lr, weight_decay=weight_decay)


def prepare_network(network: nn.Module, channels_last: bool = False) -> nn.Module:
    """The network itself, laid out for speed; names and values of its weights stay.

    Args:
        network: 2D or 3D.
        channels_last: lay the channels of a voxel beside each other in memory, which suits compiled networks and tensor
            cores.
    """
    if channels_last:
        axes = max((weight.dim() for weight in network.parameters()), default=0)
        network.to(memory_format=torch.channels_last_3d if axes == 5 else torch.channels_last)  # type: ignore[call-overload]
    return network


def compiles(
    choice: bool | Literal["auto"], device: torch.device | str, iterations: int, minutes: float | None = None
) -> bool:
    """Whether the steps of a training are compiled by ``torch.compile``.

    It takes half a minute and a C++ compiler, and then a third of the time of each step on a CPU (measured on networks
    in 2D and 3D, in bfloat16 and float32).

    Args:
        choice: true or false; or ``"auto"``: on a CPU that can, if the training is long enough for it to pay. GPUs are
            left as they are, since no figure was taken there.
        device: that trains.
        iterations: of the training, if no budget cuts it.
        minutes: its budget, if there is one.
    """
    if choice != "auto":
        return bool(choice)
    if torch.device(device).type != "cpu" or iterations < LEAST_ITERATIONS:
        return False
    if minutes is not None and minutes < LEAST_MINUTES:
        return False
    try:
        torch.compile(_twice)(torch.ones(2))
    except Exception as error:  # noqa: BLE001  (whatever the compiler or its absence raises)
        logger.info("The network is not compiled, since that fails here (%s).", type(error).__name__)
        return False
    return True


def _twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def check_mlflow(uri: str | None) -> None:
    """Refuse what MLflow could not log to, before scans are read.

    Raises:
        ConfigError: MLflow is not installed, or `uri` names no database and no server.
    """
    if uri is None:
        return
    if not uri.startswith(DATABASES):
        raise ConfigError(f"mlflow_uri must be like sqlite:////folder/runs.db or https://server, not {uri!r}.")
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError("mlflow_uri is set but MLflow is not installed: pip install 'unet-bundle[mlflow]'.")


def mlflow_handler(uri: str, folder: str, done: bool = False) -> Any:
    """MONAI's handler, which logs the metrics of an engine after each epoch.

    Args:
        uri: of MLflow's database or server.
        folder: of the run, whose last parts name the run: its engines, and those of its resumption, log together.
        done: whether the end of the engine is that of the run.

    Raises:
        ConfigError: see `check_mlflow`.
    """
    check_mlflow(uri)
    from monai.handlers import MLFlowHandler

    return MLFlowHandler(
        tracking_uri=uri,
        iteration_log=False,
        experiment_name="unet-bundle",
        run_name="/".join(Path(folder).resolve().parts[-3:]),
        close_on_complete=done,
    )
