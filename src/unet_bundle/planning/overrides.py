"""Values a task card sets itself, in place of planned ones: known by name, checked, and recorded as such."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from unet_bundle.errors import ConfigError
from unet_bundle.io import wanted_channels
from unet_bundle.networks import UNet
from unet_bundle.planning.card_checks import close_match
from unet_bundle.planning.task_card import TaskCard

Value = TypeVar("Value")

SET_IN_CARD = "set in the task card"

CONFIGURATIONS = ("full", "low", "2d")
"""Full resolution, low resolution, and slices of volumes; see `unet_bundle.planning.configuration`."""

NETWORK_FROM_DATA = ("spatial_dims", "in_channels", "out_channels")
"""Arguments of the network that the data set decides."""


class Choices:
    """Takes the card's value where it states one, the planned value where not, and notes the reason.

    Args:
        card: The task card.
        dims: Number of spatial axes.

    Attributes:
        overrides: The card's values by name, checked.
        network: The card's arguments of the network, checked by name.
        reasons: Name of each choice so far to its reason.

    Raises:
        ConfigError: If an override is unknown or cannot be right.
    """

    def __init__(self, card: TaskCard, dims: int) -> None:
        self.overrides = card.overrides
        self.network: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}
        rules = _rules(dims, len(card.modality), colour=wanted_channels(card.modality) == "RGB")
        for name, value in card.overrides.items():
            if name not in rules:
                _refuse_unknown(name, [*rules], card)
            wanted, right = rules[name]
            if not right(value):
                raise ConfigError(f"{name} under overrides in the task card must be {wanted}, not {value!r}")
        if "network" in card.overrides:
            self.network = _checked_network(card.overrides["network"])

    def take(self, name: str, planned: Value, reason: str) -> Value:
        """The card's value of `name`, or else the planned one with its reason."""
        if name not in self.overrides:
            self.reasons[name] = reason
            return planned
        self.reasons[name] = SET_IN_CARD
        stated: Value = self.overrides[name]
        return stated

    def explain_network(self, reasons: Mapping[str, str]) -> None:
        """Note the reasons of the network's arguments; those that the card states get its own."""
        stated = dict.fromkeys(self.network, SET_IN_CARD)
        for argument, reason in {**reasons, **stated}.items():
            self.reasons[f"network.{argument}"] = reason


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_scheme(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    if entry.get("scheme") in ("zscore", "zscore_joint"):
        return set(entry) == {"scheme"}
    statistics = {key: value for key, value in entry.items() if key != "scheme"}
    return (
        entry.get("scheme") == "ct"
        and set(statistics) == {"lower", "upper", "mean", "std"}
        and all(_is_number(value) for value in statistics.values())
        and statistics["std"] > 0
        and statistics["lower"] < statistics["upper"]
    )


def _rules(dims: int, channels: int, colour: bool) -> dict[str, tuple[str, Callable[[Any], bool]]]:
    """Name of each value a card may set to what it must be, in words and as a test."""
    count = ("a whole number of at least 1", _is_count)
    return {
        "spacing": (
            f"a list of {dims} lengths in mm",
            lambda value: (
                isinstance(value, list) and len(value) == dims and all(_is_number(x) and x > 0 for x in value)
            ),
        ),
        "configuration": (f"one of {', '.join(CONFIGURATIONS)}", lambda value: value in CONFIGURATIONS),
        "patch_size": (
            f"a list of {dims} whole numbers of voxels" + (", or of 2 for slices" if dims == 3 else ""),
            lambda value: isinstance(value, list) and len(value) in {2, dims} and all(map(_is_count, value)),
        ),
        "batch_size": count,
        "network": ("'argument: value' lines", lambda value: isinstance(value, dict)),
        "normalization": (
            f"a list of {channels} of {{scheme: zscore or zscore_joint}} or {{scheme: ct, lower, upper, mean, std}}",
            lambda value: isinstance(value, list) and len(value) == channels and all(map(_is_scheme, value)),
        ),
        "mirror_axes": (f"a list of different axes from 0 to {dims - 1}", lambda value: _are_axes(value, dims)),
        "elastic_prob": ("a share from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
        "elastic_sd": ("a length of at least 0", lambda value: _is_number(value) and value >= 0),
        "elastic_spacing": ("a length above 0", lambda value: _is_number(value) and value > 0),
        "foreground_fraction": ("a share from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
        "channel_dropout": (
            "a share of at least 0 and below 1, where scans have several channels",
            lambda value: channels > 1 and not colour and _is_number(value) and 0 <= value < 1,
        ),
        "overlap": ("a share of at least 0 and below 1", lambda value: _is_number(value) and 0 <= value < 1),
        "iterations_per_epoch": count,
        "max_epochs": count,
        "val_interval": count,
        "num_workers": ("a whole number of at least 0", lambda value: value == 0 or _is_count(value)),
        "learning_rate": ("a number above 0", lambda value: _is_number(value) and value > 0),
    }


def _are_axes(value: Any, dims: int) -> bool:
    return isinstance(value, list) and all(value.count(axis) <= 1 and axis in range(dims) for axis in value)


def _refuse_unknown(name: str, known: list[str], card: TaskCard) -> None:
    if hasattr(card, name):
        raise ConfigError(
            f"{name} stands under overrides in the task card, but is a key of the card itself: move it up"
        )
    raise ConfigError(f"overrides in the task card has the unknown name {name!r}: {close_match(name, known)}")


def _checked_network(arguments: Mapping[str, Any]) -> dict[str, Any]:
    known = [name for name in inspect.signature(UNet).parameters if name not in NETWORK_FROM_DATA]
    for name in arguments:
        if name in NETWORK_FROM_DATA:
            raise ConfigError(f"network.{name} cannot be set in the task card: the data set decides it")
        if name not in known:
            raise ConfigError(
                f"network under overrides in the task card has the unknown argument {name!r}: "
                f"{close_match(str(name), known)}"
            )
    return dict(arguments)
