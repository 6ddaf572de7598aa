"""Starting from weights that were trained for something else: what fits is taken, the ends of the network adapted."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.networks.checkpoint import bare, load_checkpoint, short_name
from unet_bundle.training.distributed import is_main_process
from unet_bundle.training.trained_cases import Origin, read_trained_cases

logger = logging.getLogger(__name__)

HEADS = "heads."
"""What the names of our networks' last convolutions begin with, whose channels are the classes."""
WRAPPERS = ("module.", "_orig_mod.")
"""What distributed training and torch.compile put before the names."""
DEEPEST = 3
"""Folders above a file of weights in which its bundle's configs are looked for: runs/fold_0/best.pt."""
NAMED = 4
"""Tensors a log line names before it only counts."""


@dataclass(frozen=True)
class Fit:
    """What became of a network's tensors.

    Attributes:
        state: of the network, complete.
        taken: names of tensors that are the other's.
        adapted: names of tensors that were made from the other's, with how.
        new: names of tensors that stay as they were.
        share: of the network's values that are taken or adapted, 0 to 1.
    """

    state: dict[str, torch.Tensor]
    taken: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    share: float = 0.0


def fit_weights(
    network: nn.Module,
    given: Mapping[str, torch.Tensor],
    classes: Sequence[str] = (),
    given_classes: Sequence[str] = (),
) -> Fit:
    """Fit weights of another network to this one; the network is not changed.

    A tensor of the same name and shape is taken. The first convolution of a network for another number of channels
    gives the mean of its kernels over the channels to each channel here, times their ratio: an image that is the same
    in all channels gives the same maps as it did there. Where both networks' classes are known and differ, the last
    convolutions take those of the classes of the same name. All else stays new.

    Args:
        network: that is to be trained.
        given: tensors of the other by name.
        classes: names of this network's classes, background first; none if they are not known.
        given_classes: names of the other's.
    """
    own = bare(network).state_dict()
    entry = next((name for name, tensor in own.items() if tensor.ndim > 2), None)
    fit = Fit(dict(own))
    fitting = 0
    for name, tensor in own.items():
        other = given.get(name)
        if other is None:
            fit.new.append(name)
            continue
        if name.startswith(HEADS) and classes and given_classes and list(classes) != list(given_classes):
            made, how = _of_same_classes(tensor, other, classes, given_classes)
        elif other.shape == tensor.shape:
            made, how = other, ""
        elif name == entry:
            made, how = _of_other_channels(tensor, other)
        else:
            made, how = None, ""
        if made is None:
            fit.new.append(name)
            continue
        fit.state[name] = made.to(tensor.dtype)
        fitting += tensor.numel()
        if how:
            fit.adapted[name] = how
        else:
            fit.taken.append(name)
    share = fitting / max(sum(tensor.numel() for tensor in own.values()), 1)
    return Fit(fit.state, fit.taken, fit.adapted, fit.new, share)


def _of_other_channels(own: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor | None, str]:
    """Kernels [out, in, *kernel] for another number of channels."""
    if own.ndim != other.ndim or own.shape[0] != other.shape[0] or own.shape[2:] != other.shape[2:]:
        return None, ""
    here, there = own.shape[1], other.shape[1]
    kernels = other.float().mean(dim=1, keepdim=True).expand_as(own) * (there / here)
    return kernels.clone(), f"the mean over {there} channels for each of {here}"


def _of_same_classes(
    own: torch.Tensor, other: torch.Tensor, classes: Sequence[str], given_classes: Sequence[str]
) -> tuple[torch.Tensor | None, str]:
    """Weights or biases [classes, ...] with those of the classes that both have."""
    places = {name.lower(): index for index, name in enumerate(given_classes)}
    common = [name for name in classes if name.lower() in places]
    if not common or own.shape[1:] != other.shape[1:]:
        return None, ""
    if own.shape[0] != len(classes) or other.shape[0] != len(given_classes):
        return None, ""
    made = own.clone()
    for index, name in enumerate(classes):
        if name in common:
            made[index] = other[places[name.lower()]].to(own.dtype)
    return made, f"of {', '.join(common)}"


SAME, OTHER = "same", "other"
"""What cases are that have the names of cases which the weights were trained on."""


class Pretrained:
    """Puts other weights into the network before training starts, as far as they fit (see `fit_weights`).

    One log line each says what was taken, adapted and stays new. If the weights belong to a bundle, a line each names
    what it does otherwise than this run: modality, orientation, spacing, normalisation.

    Args:
        network: that is trained.
        source: a file with a state dict (alone, or under ``"model"``, ``"network"`` or ``"state_dict"``), or a bundle,
            of which ``models/model.pt`` is meant; None for a start from nothing.
        bundle_root: of this run's bundle.
        resume: whether the run goes on from its own state; then nothing is loaded.
        inputs: values by name that decide what the network sees, as this run has them.
        validated_on: the run's validation cases, with an ``"image"`` path each.
        origin: is told which cases the weights were trained on.
        cases: ``"same"``: cases of this data set that have the names of those the weights were trained on are these;
            ``"other"``: they are others, as where each of two data sets has a ``case_001``.

    Raises:
        CheckpointError: when training starts, if the file is missing or damaged, or nothing of it fits.
        ConfigError: `cases` is something else; when training starts, if the weights are this bundle's own and were
            trained on cases the run validates on.
    """

    def __init__(
        self,
        network: nn.Module,
        source: str | None,
        bundle_root: str,
        resume: bool = False,
        inputs: Mapping[str, Any] | None = None,
        validated_on: Sequence[Mapping[str, Any]] = (),
        origin: Origin | None = None,
        cases: str = SAME,
    ) -> None:
        if cases not in (SAME, OTHER):
            raise ConfigError(f"pretrained_cases must be {SAME} or {OTHER}, not {cases!r}.")
        self.network = network
        self.cases = cases
        self.source = None if source is None else Path(source)
        self.bundle_root = Path(bundle_root)
        self.resume = resume
        self.inputs = inputs or {}
        self.validated_on = validated_on
        self.origin = origin or Origin()

    def attach(self, engine: Engine) -> None:
        """Load when `engine` starts from nothing; stands first in the list of handlers."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load the weights."""
        if self.source is None or self.resume or engine.state.epoch > 0:
            return
        path, bundle = _weights_and_bundle(self.source)
        given = state_dict_of(load_checkpoint(path), short_name(path))
        if self.cases == SAME:
            self._check_cases(path, bundle)
        classes = _names(self.bundle_root, "outputs", "pred")
        fit = fit_weights(self.network, given, classes, [] if bundle is None else _names(bundle, "outputs", "pred"))
        if not any(fit.state[name].ndim > 1 for name in [*fit.taken, *fit.adapted]):
            raise CheckpointError(
                f"{short_name(path)} does not fit the network: none of its {len(given)} tensors has name and shape of"
                " one here; give weights of a network with the same channels, strides and kernel sizes."
            )
        bare(self.network).load_state_dict(fit.state)
        if self.cases == SAME:
            self.origin.add(read_trained_cases(path))
        if is_main_process():
            self._report(fit, path, len(given))
            if bundle is not None:
                self._warn(bundle)

    def _check_cases(self, path: Path, bundle: Path | None) -> None:
        trained = read_trained_cases(path)
        seen = 0 if trained is None else trained.among(self.validated_on)
        if not seen:
            return
        words = f"{short_name(path)} was trained on {seen} of the {len(self.validated_on)} validation cases"
        if bundle is not None and bundle.resolve() == self.bundle_root.resolve():
            raise ConfigError(f"{words} of this run, whose scores would be too good: give weights of the same fold.")
        # Another data set may well have a case_001 too.
        logger.warning(
            "%s, or on others of these names: `evaluate` will refuse to score these weights. If they are others, set"
            " pretrained_cases to %s.",
            *(words, OTHER),
        )

    def _report(self, fit: Fit, path: Path, count: int) -> None:
        logger.info(
            "Pretrained %s: %d of %d tensors taken, %.1f %% of the values taken or adapted.",
            *(short_name(path), len(fit.taken), count, 100 * fit.share),
        )
        if fit.adapted:
            logger.info("Adapted: %s.", _listed([f"{name} ({how})" for name, how in fit.adapted.items()]))
        if fit.new:
            logger.info("New: %s.", _listed(fit.new))

    def _warn(self, bundle: Path) -> None:
        theirs = _config(bundle, "inference.json")
        differing = [(key, json.loads(json.dumps(value)), theirs.get(key)) for key, value in self.inputs.items()]
        differing.append(("modality", _names(self.bundle_root, "inputs", "image"), _names(bundle, "inputs", "image")))
        for key, here, there in differing:
            if here and there and here != there:
                logger.warning("%s is %s here, but %s in the bundle of the pretrained weights.", key, here, there)


def state_dict_of(content: Any, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, by the names they have in the network.

    Args:
        content: of the file.
        name: what to call it in an error.

    Raises:
        CheckpointError: it holds no tensors by name.
    """
    for key in ("model", "network", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = content.items() if isinstance(content, dict) else ()
    state = {key: value for key, value in tensors if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not state:
        raise CheckpointError(f"{name} holds no state dict of a network: give a file of weights, or a bundle.")
    for prefix in WRAPPERS:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _weights_and_bundle(source: Path) -> tuple[Path, Path | None]:
    """The file of the weights, and the bundle it belongs to, if any."""
    path = source / "models" / "model.pt" if source.is_dir() else source
    if not path.is_file():
        raise CheckpointError(f"{short_name(path)} is missing: give a file of weights, or a bundle that is trained.")
    folders = [source] if source.is_dir() else list(path.absolute().parents)[:DEEPEST]
    return path, next((folder for folder in folders if (folder / "configs" / "metadata.json").is_file()), None)


def _config(bundle: Path, name: str) -> dict[str, Any]:
    """One of a bundle's configs as it is written, empty if there is none in JSON."""
    try:
        content = json.loads((bundle / "configs" / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _names(bundle: Path, side: str, tensor: str) -> list[str]:
    """What metadata.json calls the channels of an input or output, in their order; none if it does not."""
    try:
        channels = _config(bundle, "metadata.json")["network_data_format"][side][tensor]["channel_def"]
        return [str(name) for _, name in sorted(channels.items(), key=lambda item: int(item[0]))]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
