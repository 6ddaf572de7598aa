"""Objects of one class apart from each other: a seam between them for training, numbers for them in results."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from scipy import ndimage

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.geometry import spacing_of
from unet_bundle.transforms.naming import name_of

Numbers = npt.NDArray[np.integer[Any]]

MOST_OBJECTS = 65535
"""Results hold numbers of 16 bits."""

INSTANCES = "instances"
"""Key of the numbered objects beside a label map of classes."""


def numbers_of(label: torch.Tensor) -> tuple[npt.NDArray[np.int32], list[float]]:
    """Voxels [*spatial] of a label map [1, *spatial] as whole numbers, and their sizes (1 without an affine)."""
    voxels = label.detach().as_subclass(torch.Tensor)[0].cpu().numpy().astype(np.int32)
    spacing = spacing_of(label.affine)[: voxels.ndim] if isinstance(label, MetaTensor) else [1.0] * voxels.ndim
    return voxels, [float(size) for size in spacing]


def seams(objects: Numbers) -> npt.NDArray[np.bool_]:
    """Voxels of an object that touch another object by a face.

    Args:
        objects: number of the object at each voxel, 0 for background; shape [*spatial].
    """
    seam = np.zeros(objects.shape, np.bool_)
    for axis in range(objects.ndim):
        one, other = _shifted(axis, 1)
        here, there = objects[one], objects[other]
        touching = (here != there) & (here > 0) & (there > 0)
        seam[one] |= touching
        seam[other] |= touching
    return seam


def open_seams(objects: Numbers) -> Numbers:
    """Make background of the voxels in which objects touch, but never of a whole object."""
    seam = seams(objects)
    if not seam.any():
        return objects
    kept = np.bincount(objects[~seam], minlength=int(objects.max()) + 1) > 0
    opened: Numbers = objects.copy()
    opened[seam & kept[objects]] = 0
    return opened


def close_seams(objects: Numbers, spacing: Sequence[float] | None = None) -> Numbers:
    """What `open_seams` made background back to the nearest object: gaps of up to two voxels between two objects.

    Args:
        objects: number of the object at each voxel, 0 for background; shape [*spatial].
        spacing: sizes of a voxel, which say what is near.
    """
    sizes = [1.0] * objects.ndim if spacing is None else spacing
    grown = objects.copy()
    for axis in sorted(range(objects.ndim), key=lambda axis: sizes[axis]):
        for step in (-1, 1):
            to, source = _shifted(axis, step)
            there = grown[to]
            np.copyto(there, objects[source], where=there == 0)
    return np.where(seams(grown), grown, objects)


def number_objects(
    classes: Numbers, core: float = 0.0, spacing: Sequence[float] | None = None
) -> npt.NDArray[np.int32]:
    """Number the objects of each class.

    Objects are voxels of a class that hang together by faces. With `core`, those are divided that hang together by a
    neck no wider than twice `core`: what lies deeper is the core of an object, and the rest of it goes to
    the nearest of its cores. An object that is nowhere so deep stays one.

    Args:
        classes: class of each voxel, 0 for background; shape [*spatial].
        core: depth within the class, in the unit of `spacing`.
        spacing: sizes of a voxel; None: 1 along each axis.

    Returns:
        Numbers from 1 on without a gap, class by class.
    """
    numbered = np.zeros(classes.shape, np.int32)
    count = 0
    for value, box in enumerate(ndimage.find_objects(classes), start=1):
        if box is None:
            continue
        mask = classes[box] == value
        parts, found = ndimage.label(mask)
        if core > 0:
            parts, found = _divided(mask, parts, core, spacing)
        np.copyto(numbered[box], parts + count, where=mask)
        count += found
    return numbered


class SeparateObjectsd(MapTransform):
    """Make background of the voxels in which numbered objects touch, so that their classes show them apart.

    The separation border of Ronneberger et al. 2015 (https://arxiv.org/abs/1505.04597): a voxel off each of two
    objects that touch by a face. An object that would vanish stays.

    Args:
        keys: label maps, shape [1, *spatial], whole numbers.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each label map: same type, same metadata."""
        separated = dict(data)
        for key in self.key_iterator(separated):
            label = separated[key]
            opened = open_seams(numbers_of(label)[0])[None]
            separated[key] = convert_to_dst_type(opened, label, dtype=label.dtype)[0]
        return separated


class InstancesFromLabelsd(MapTransform):
    """Number the objects in a label map of classes, see `number_objects`; the numbers stand under ``"instances"``.

    Args:
        keys: one label map, shape [1, *spatial], whole numbers.
        core: depth (mm; pixels of pictures) by which objects are told apart that hang together; 0: not at all.
        close: give gaps of up to two voxels between two objects to them, in the label map too, as training labels had
            them opened (`SeparateObjectsd`).
        allow_missing_keys: whether a dictionary without the key is accepted.

    Raises:
        ConfigError: if `core` is no length, or there is not one key.
        InputError: when called, if there are more objects than a result of 16 bits can number.
    """

    def __init__(
        self, keys: str | Sequence[str], core: float = 0.0, close: bool = True, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ConfigError(f"InstancesFromLabelsd takes one key, not {list(self.keys)}")
        if not 0 <= core < math.inf:
            raise ConfigError(f"core must be a length of at least 0, not {core!r}")
        self.core, self.close = core, close

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the numbered objects: int32, shape and metadata of the label map."""
        numbered = dict(data)
        for key in self.key_iterator(numbered):
            label = numbered[key]
            classes, spacing = numbers_of(label)
            objects = number_objects(classes, self.core, spacing)
            if objects.max(initial=0) > MOST_OBJECTS:
                raise InputError(
                    f"the result for {name_of(label, 'image')} has {objects.max()} objects, more than the "
                    f"{MOST_OBJECTS} that 16 bits number: set a larger smallest_object_ml"
                )
            if self.close:
                first = np.zeros(int(objects.max(initial=0)) + 1, classes.dtype)
                first[objects] = classes
                objects = close_seams(objects, spacing).astype(np.int32)
                numbered[key] = convert_to_dst_type(first[objects][None], label, dtype=label.dtype)[0]
            numbered[INSTANCES] = convert_to_dst_type(objects[None], label, dtype=torch.int32)[0]
        return numbered


def _divided(
    mask: npt.NDArray[np.bool_], parts: Numbers, core: float, spacing: Sequence[float] | None
) -> tuple[npt.NDArray[np.int32], int]:
    """The parts of a class, each divided into as many as it has cores."""
    # Beyond the box is another class or the end of the scan: depth counts from there, too.
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing)[(slice(1, -1),) * mask.ndim]
    cores, _ = ndimage.label(depth > core)
    divided = np.zeros(mask.shape, np.int32)
    count = 0
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        part = parts[box] == number
        inside = np.where(part, cores[box], 0)
        present = np.unique(inside)[1:]
        if len(present) > 1:
            nearest = ndimage.distance_transform_edt(
                inside == 0, sampling=spacing, return_distances=False, return_indices=True
            )
            part = np.where(part, np.searchsorted(present, inside[tuple(nearest)]) + 1, 0)
        np.copyto(divided[box], part + count, where=part > 0)
        count += max(len(present), 1)
    return divided, count


def _shifted(axis: int, step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where the voxels are that have one at `step` from them along an axis, and where that one is."""
    ranges = {-1: slice(1, None), 1: slice(None, -1)}
    return (slice(None),) * axis + (ranges[step],), (slice(None),) * axis + (ranges[-step],)
