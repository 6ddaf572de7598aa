"""Which scan to label next: one that the network is unsure of, and that is unlike those that are labelled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Orientation
from torch.nn import functional as F

from unet_bundle.geometry import spacing_of
from unet_bundle.io import LoadImaged

THUMBNAIL = 6
"""Voxels of the small picture of a scan along each axis."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the intensities, that describe their distribution."""

Features = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A scan that nobody has labelled.

    Attributes:
        name: of the scan.
        features: see `describe`.
        score: how unsure the network is, 0 to 1; None if it was not asked.
    """

    name: str
    features: Features
    score: float | None = None


def describe(scan: str | Path) -> Features:
    """What a scan is like: size and voxel size, its intensities' distribution, and a small picture of it.

    Only the file is looked at, so that scans can be told apart before there is a model.

    Args:
        scan: a file, or what else `unet_bundle.io.LoadImaged` reads.

    Returns:
        Shape [features], comparable between scans of one kind.

    Raises:
        InputError: it cannot be read.
    """
    image = LoadImaged(keys="image")({"image": str(scan)})["image"]
    rank = image.ndim - 1
    if rank == 3:
        image = Orientation(axcodes="RAS", labels=None)(image)
    spacing = np.asarray(spacing_of(image.affine)[:rank], dtype=np.float64)
    size = np.asarray(image.shape[1:]) * spacing
    voxels = torch.as_tensor(image.as_tensor()[:1], dtype=torch.float32)
    sample = voxels.flatten()[:: max(1, voxels.numel() // 100_000)]
    low, high = torch.quantile(sample, torch.tensor([0.01, 0.99]))
    voxels = ((voxels - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    sample = ((sample - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    pool = F.adaptive_avg_pool3d if rank == 3 else F.adaptive_avg_pool2d
    small = pool(voxels[None], THUMBNAIL).flatten().double().numpy()
    quantiles = torch.quantile(sample, torch.tensor(QUANTILES)).double().numpy()
    # Each of the groups counts alike, however many numbers it has.
    groups = (np.log(size), np.log(spacing), quantiles, small)
    return np.concatenate([group / np.sqrt(len(group)) for group in groups])


def within_reach(
    images: Iterable[str],
    is_here: Callable[[str], bool],
    features: Callable[[str], Features | None],
    refused: Callable[[str], bool],
    new: int,
) -> dict[str, Features]:
    """Features of all scans that are here, and of a few that have to be fetched from a PACS.

    Args:
        images: names.
        is_here: whether a scan need not be fetched.
        features: of a scan; None if it cannot be read.
        refused: whether it is known by now that it cannot be read: it is not fetched again.
        new: how many are fetched; if none of these can be read, as of a PACS with many localizers, more.
    """
    found: dict[str, Features] = {}
    fetched = 0
    for image in sorted(images, key=lambda name: (not is_here(name), name)):
        if refused(image):
            continue
        if not is_here(image):
            if fetched >= new and (found or new == 0):
                break
            fetched += 1
        described = features(image)
        if described is not None:
            found[image] = described
    return found


def choose(candidates: Sequence[Candidate], done: Sequence[Features]) -> Candidate:
    """The scan to label next.

    Each candidate has a rank by how far it is from the nearest scan that is done (farthest-point sampling: so the
    choices spread over unlike cases) and one by how unsure the network is of it; the highest sum wins. Before anything
    is done the first rank is by how close a scan is to the middle of all: a typical one comes first.

    Args:
        candidates: scans without a label.
        done: features of scans that have one, or that others have at hand.

    Raises:
        ValueError: there is no candidate.
    """
    if not candidates:
        raise ValueError("there is no candidate to choose")
    own = np.stack([candidate.features for candidate in candidates])
    if done:
        distance = np.linalg.norm(own[:, None] - np.stack(list(done))[None], axis=-1).min(axis=1)
    else:
        distance = -np.linalg.norm(own - own.mean(axis=0), axis=-1)
    known = [candidate.score for candidate in candidates if candidate.score is not None]
    middle = float(np.median(known)) if known else 0.0
    scores = np.asarray([middle if candidate.score is None else candidate.score for candidate in candidates])
    value = _ranks(distance) + _ranks(scores)
    best = max(range(len(candidates)), key=lambda index: (value[index], distance[index], candidates[index].name))
    return candidates[best]


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """0 for the lowest to 1 for the highest; equal values have equal ranks."""
    levels, places = np.unique(values, return_inverse=True)
    return places / max(1, len(levels) - 1)
