"""Weights from a file into a network, with one clear line where they are missing, damaged or of another network."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from unet_bundle.errors import CheckpointError, ConfigError

LONGEST_REASON = 300
"""Characters of a foreign network's complaint about weights: torch lists every tensor."""
OWN_WEIGHTS = ("models", "model.pt")
"""Folder and file of a bundle's weights, which its training writes."""
SAMPLES = 64
"""Values of a tensor by which a change is noticed that PyTorch does not count."""


def bare(network: nn.Module) -> nn.Module:
    """The network itself, out of the wrapper that runs it on several devices."""
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return cast("nn.Module", network.module)
    return network


def load_checkpoint(path: Path) -> Any:
    """Read a checkpoint, tensors and plain values only.

    Raises:
        CheckpointError: the file is missing, damaged, changes meanwhile, or holds more than tensors and plain values.
    """
    before = file_version(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler fail in any way
        raise _unreadable(path, error) from error
    if file_version(path) != before:
        raise CheckpointError(f"{short_name(path)} changed while it was read: try again when it is written.")
    return content


def file_version(path: Path) -> tuple[int, int, int]:
    """Something that changes with a file, for comparison: the time of its last change, its size and its inode.

    Raises:
        CheckpointError: the file is missing, or out of reach.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        is_own = path.parts[-2:] == OWN_WEIGHTS
        remedy = "train the bundle first (`unet-bundle train`)" if is_own else "correct the path that is given"
        return CheckpointError(f"{short_name(path)} is missing: {remedy}.")
    kind = type(error).__name__
    return CheckpointError(f"{short_name(path)} is no readable checkpoint ({kind}): restore or retrain it.")


def ensemble_files(files: Any, folder: str | Path = ".") -> list[Path]:
    """The files of an ensemble, as a config names them.

    Args:
        files: their paths; empty or None for no ensemble.
        folder: what they are relative to.

    Raises:
        ConfigError: `files` is no list of paths.
        CheckpointError: one of them is missing.
    """
    files = () if files is None else files
    if not isinstance(files, list | tuple) or not all(isinstance(file, str | PathLike) for file in files):
        raise ConfigError(f"ensemble must be a list of files of weights, not {files!r}")
    paths = [Path(folder, file) for file in files]
    for path, file in zip(paths, files, strict=True):
        if not path.exists():
            raise CheckpointError(
                f"{Path(file).as_posix()}, a file of ensemble, is missing: it is looked for in the bundle's folder; "
                "train that fold, or leave the file out"
            )
        file_version(path)
    return paths


def short_name(path: Path) -> str:
    """A checkpoint's file and folder, as messages name it."""
    return Path(*path.parts[-2:]).as_posix()


def load_weights(network: nn.Module, state: Any, name: str) -> None:
    """Put the weights `state` into `network`.

    Args:
        network: takes the weights, converted to its own number format.
        state: a state dict, alone or under the key ``"model"`` or ``"network"``.
        name: what to call the checkpoint in an error.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape.
    """
    for key in ("model", "network"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise CheckpointError(f"{name} holds no state dict of a network: give the weights this bundle was trained to.")
    try:
        bare(network).load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split()).removeprefix("These weights do not fit the network: ")
        raise CheckpointError(f"{name} does not fit the network: {reason[:LONGEST_REASON]}") from error


def weights_version(network: nn.Module) -> tuple[Any, ...]:
    """Something that changes with the network's weights, for comparison.

    It holds where each parameter and buffer lies, PyTorch's count of the changes made to it, and `SAMPLES` of its
    values. Changes past that count, which PyTorch does not keep for ``parameter.data``, are seen by these values alone:
    a new set of weights is, single values of a large tensor may not be.
    """
    tensors = [*network.parameters(), *network.buffers()]
    places = tuple((each.data_ptr(), -1 if each.is_inference() else each._version) for each in tensors)  # noqa: SLF001
    samples: dict[Any, list[torch.Tensor]] = {}
    for each in tensors:
        if each.numel() and each.layout == torch.strided and not each.is_meta:
            samples.setdefault((each.device, each.dtype), []).append(_sampled(each.detach()))
    values = (torch.cat(group).view(torch.uint8).cpu().numpy().tobytes() for group in samples.values())
    return (places, *values)


def _sampled(tensor: torch.Tensor) -> torch.Tensor:
    """Up to `SAMPLES` values, spread evenly over memory."""
    if not tensor.is_contiguous():  # channels last: flat without a copy
        tensor = tensor.permute(sorted(range(tensor.ndim), key=tensor.stride, reverse=True))
    flat = tensor.reshape(-1)
    return flat[:: -(-len(flat) // SAMPLES)]
