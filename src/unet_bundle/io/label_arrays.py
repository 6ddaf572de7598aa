"""Label maps on their way into a file: whole numbers, on exactly the grid of the scan they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unet_bundle.errors import ConfigError
from unet_bundle.geometry import as_4x4, grid_difference


def label_array(values: Any, dtype: np.dtype[Any], channel_dim: int | None = 0) -> npt.NDArray[Any]:
    """A label map as an array of whole numbers.

    Args:
        values: tensor or array; shape [1, *spatial], or [*spatial] if `channel_dim` is None.
        dtype: integer type of the result.
        channel_dim: axis of the single channel.

    Raises:
        ConfigError: if there are several channels, or values that are no whole numbers or do not fit the type.
    """
    array = _as_numpy(values)
    if channel_dim is not None:
        if array.shape[channel_dim] != 1:
            raise ConfigError(
                f"a label map has 1 channel, got {array.shape[channel_dim]}: "
                "put AsDiscreted(argmax=True) before SaveImaged"
            )
        array = array.squeeze(channel_dim)
    if array.size and not (array.min() >= 0 and array.max() <= np.iinfo(dtype).max):  # False for NaN, too
        raise ConfigError(f"label values {array.min()} to {array.max()} do not fit {dtype}: set SaveImaged's dtype")
    labels = array.astype(dtype)
    if array.dtype.kind == "f" and not np.array_equal(labels, array):
        raise ConfigError(
            "a label map holds whole numbers only: take the argmax after Invertd, or set its nearest_interp"
        )
    return labels


def check_on_grid(labels: npt.NDArray[Any], meta: Mapping[str, Any], shape: Sequence[int]) -> None:
    """Refuse a label map that was not taken back to its scan's grid.

    Args:
        labels: shape [*spatial].
        meta: its metadata, with the affine it has and, as ``original_affine``, the scan's.
        shape: of the scan.

    Raises:
        ConfigError: if shape or affine differ.
    """
    difference = grid_difference(labels.shape, as_4x4(meta["affine"]), shape, as_4x4(meta["original_affine"]))
    if difference:
        name = Path(str(meta.get("filename_or_obj", "the scan"))).name
        raise ConfigError(f"the result for {name} is not on its grid ({difference}): put Invertd before SaveImaged")


def on_cpu(value: Any) -> Any:
    """Metadata as arrays and numbers: a data loader turns them into tensors."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def _as_numpy(values: Any) -> npt.NDArray[Any]:
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    tensor = values.detach().as_subclass(torch.Tensor).cpu()
    return np.asarray((tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy())
