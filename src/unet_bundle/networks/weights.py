"""Starting weights, and the refusal of weights made for another network."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class IncompatibleWeightsError(RuntimeError):
    """Weights that were made by a network of other settings."""


def he_initialize(convolution: nn.Module, *, fan_in: int, negative_slope: float | None) -> None:
    """Draw weights that keep the variance of what flows through; the bias starts at zero.

    Args:
        convolution: a convolution or transposed convolution.
        fan_in: how many values enter each value of its output.
        negative_slope: slope below zero of the (leaky) ReLU that follows; None where no activation does.

    He et al., "Delving deep into rectifiers", https://arxiv.org/abs/1502.01852
    """
    gain = 1.0 if negative_slope is None else math.sqrt(2 / (1 + negative_slope**2))
    for name, parameter in convolution.named_parameters():
        if name == "bias":
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=gain / math.sqrt(fan_in))


def check_weights_fit(network: nn.Module, state: Mapping[str, Any], prefix: str) -> None:
    """Refuse a state that lacks a tensor of the network, has one too many, or one of another shape.

    Args:
        network: the network that is about to load the weights.
        state: tensors by name; those whose name does not begin with `prefix` belong to others.
        prefix: what the network's own names begin with in `state`, "" if it is not part of another.

    Raises:
        IncompatibleWeightsError: how many tensors do not fit, and the first of them.
    """
    wanted = network.state_dict()
    given = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    misshaped = [name for name in wanted if name in given and _shape(given[name]) != list(wanted[name].shape)]
    if not (missing or unexpected or misshaped):
        return

    if missing:
        first = f"{missing[0]} is missing"
    elif misshaped:
        first = f"{misshaped[0]} has shape {_shape(given[misshaped[0]])} instead of {list(wanted[misshaped[0]].shape)}"
    else:
        first = f"{unexpected[0]} is unknown"
    raise IncompatibleWeightsError(
        f"These weights do not fit the network: {len(missing)} missing, {len(misshaped)} misshaped and "
        f"{len(unexpected)} unknown tensors (first: {first}); load weights trained with the same network settings."
    )


def _shape(value: object) -> list[int] | None:
    return list(value.shape) if isinstance(value, torch.Tensor) else None
