"""A small labelled MR-like data set, made from a seed: for the demo, the tests and a first look without any data.

Each case is a body with a lobe (liver-like, on the right), a bean (kidney-like, lying against the lobe: their border
is shared), and a vessel that tapers, curves and sends a branch into the bean. Unlabelled neighbours make it less than
trivial: a spleen of the lobe's brightness, a vein beside the vessel, bowel, stomach, spine. The scene is described in
millimetres of patient space (RAS) and sampled on an oblique, anisotropic grid that differs from case to case; then
come a bias field, noise that is Rician as in magnitude MR images, and a brightness of arbitrary scale.

The bodies are invented. They look like anatomy so that a picture of them can be read; they are nobody's.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from unet_bundle.errors import InputError

Array = npt.NDArray[np.float32]

LABELS = {"background": 0, "lobe": 1, "bean": 2, "vessel": 3}

_SUBSLICES = 3  # a thick slice is the mean of this many thin ones, as in a scanner
_EDGE_MM = 0.5  # half the width over which one tissue blends into the next
_NOISE = 0.035  # of the brightest tissue
_ORIENTATIONS = ("RAS", "LAS", "LPS")  # the voxel axes' directions, before the oblique turn

_CARD = """\
# What a person knows about the data and no program can measure.
name: phantom
title: Lobe, bean and vessel in a synthetic MR-like body
description: Two organs that touch and a thin branching vessel, in bodies made from a seed by unet_bundle.phantom
authors: unet-bundle
copyright: No person is shown; the data are made by a program under the Apache License 2.0
data_source: Made by unet_bundle.phantom.make_phantom
data_license: Apache-2.0
modality: [MRI]
labels:
  background: 0
  lobe: 1
  bean: 2
  vessel: 3
terms:
  lobe: {color: [221, 130, 101]}
  bean: {color: [241, 214, 80]}
  vessel: {color: [92, 187, 240]}
overrides: # a network for a few minutes on a processor without a GPU
  patch_size: [48, 48, 16]
  network: {channels: [16, 32, 64, 128]}
  mirror_axes: [] # the organs of these bodies lie on one side, and a few minutes are short for learning both
  iterations_per_epoch: 50
  val_interval: 2
version: 0.1.0
changelog:
  0.1.0: First version
"""


def phantom_card() -> str:
    """The task card of the phantom data set, as YAML text."""
    return _CARD


def make_phantom(folder: Path, *, cases: int = 12, unseen: int = 1, seed: int = 0) -> Path:
    """Write a data set in the layout of the Medical Segmentation Decathlon; one seed gives the same bytes every time.

    Labelled cases go to ``imagesTr`` and ``labelsTr``, the unseen ones to ``imagesTs`` and ``labelsTs``. A case depends
    on the seed and its own number only, not on how many others are made.

    Args:
        folder: where to write; made if missing, files of the same names are replaced.
        cases: number of labelled cases, at least 1.
        unseen: number of cases kept out of the labelled ones, at least 0.
        seed: not negative.

    Returns:
        `folder`.

    Raises:
        InputError: a number is out of range.
    """
    for name, value, least in (("cases", cases, 1), ("unseen", unseen, 0), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"The phantom data set needs {name} >= {least}, not {value}.")
    entries: dict[str, list[Any]] = {"training": [], "test": []}
    for number in range(1, cases + unseen + 1):
        part = "Tr" if number <= cases else "Ts"
        file = f"phantom_{number:03d}.nii.gz"
        image, label, affine = phantom_case(seed, number)
        for kind, voxels in ((f"images{part}", image), (f"labels{part}", label)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            _save(voxels, affine, folder / kind / file)
        if part == "Tr":
            entries["training"].append({"image": f"./imagesTr/{file}", "label": f"./labelsTr/{file}"})
        else:
            entries["test"].append(f"./imagesTs/{file}")
    description = {
        "name": "phantom",
        "description": "Synthetic MR-like bodies: two organs that touch and a thin vessel",
        "reference": "unet_bundle.phantom",
        "licence": "Apache-2.0",
        "release": f"seed {seed}",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for name, value in LABELS.items()},
        "numTraining": cases,
        "numTest": unseen,
        **entries,
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return folder


def phantom_case(
    seed: int, number: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """One case: image and label of the same shape (about 76×68×26 voxels) and their affine (voxel index → mm, RAS)."""
    rng = np.random.default_rng([seed, number])
    shape, affine = _random_grid(rng)
    thin_points = _points(shape, affine)
    scene = _draw_body(rng, thin_points)
    # Of the thin slices of a voxel the image is the mean and the label the middle one.
    image = scene.image.reshape(*shape, _SUBSLICES).mean(axis=-1)
    label = scene.label.reshape(*shape, _SUBSLICES)[..., _SUBSLICES // 2]
    points = thin_points.reshape(3, *shape, _SUBSLICES)[..., _SUBSLICES // 2]
    return _acquire(rng, image, points), np.ascontiguousarray(label), affine


def _save(voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64], path: Path) -> None:
    nifti = nib.Nifti1Image(voxels, affine)
    nifti.set_qform(affine, code=1)
    nifti.set_sform(affine, code=1)
    nifti.header.set_xyzt_units("mm", "sec")
    nib.save(nifti, path)  # nibabel keeps the time out of the gzip header


def _random_grid(rng: np.random.Generator) -> tuple[tuple[int, int, int], npt.NDArray[np.float64]]:
    """A shape and an oblique affine whose centre voxel lies near the origin of patient space."""
    in_plane = rng.uniform(0.95, 1.1)
    spacing = np.array([in_plane, in_plane, rng.uniform(2.3, 2.7)])
    shape = (int(rng.integers(72, 80)), int(rng.integers(62, 70)), int(rng.integers(24, 28)))
    flips = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(rng.choice(_ORIENTATIONS)), (1, 1, 1))[:3, :3]
    directions = _rotation(rng.uniform(-9, 9, size=3)) @ flips
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = rng.uniform(-1.5, 1.5, size=3) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return shape, np.asarray(affine, np.float32).astype(np.float64)  # as NIfTI will store it


def _rotation(degrees: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Turns about x, then y, then z."""
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        result = turn @ result
    return result


def _points(shape: tuple[int, int, int], affine: npt.NDArray[np.float64]) -> Array:
    """Positions in mm of the thin slices' voxels, [3, x · y · z · subslices]."""
    thin = (np.arange(_SUBSLICES) - (_SUBSLICES - 1) / 2) / _SUBSLICES
    z = (np.arange(shape[2])[:, None] + thin).ravel()
    grid = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), z, indexing="ij")).reshape(3, -1)
    return (affine[:3, :3] @ grid + affine[:3, 3:]).astype(np.float32)


def _waves(rng: np.random.Generator, points: Array, wavelength_mm: float, count: int = 7) -> Array:
    """A smooth random field of about unit standard deviation: plane waves of random directions and phases."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    numbers = (2 * np.pi / wavelength_mm) * rng.uniform(0.7, 1.3, size=(count, 1)) * directions
    field = np.zeros(points.shape[1:], np.float32)
    for number, phase in zip(numbers.astype(np.float32), rng.uniform(0, 2 * np.pi, size=count), strict=True):
        field += np.cos(number[0] * points[0] + number[1] * points[1] + number[2] * points[2] + np.float32(phase))
    field *= np.float32(np.sqrt(2 / count))
    return field


@dataclass
class _Scene:
    """What has been drawn so far: brightness and label at every point; later tissue covers earlier."""

    image: Array
    label: npt.NDArray[np.uint8]

    def paint(self, distance: Array, brightness: float | Array, label: int | None = 0) -> None:
        """Fill where the signed distance in mm is negative; label None leaves the labels as they are."""
        cover = np.clip(0.5 - distance / (2 * _EDGE_MM), 0, 1)
        self.image += cover * (brightness - self.image)
        if label is not None:
            self.label[distance < 0] = label


def _ellipsoid(points: Array, center: tuple[float, float, float], radii: tuple[float, float, float]) -> Array:
    """Signed distance in mm to an ellipsoid, to first order: exact on the surface, negative inside."""
    offset = points - np.array(center, np.float32)[:, None]
    radius = np.array(radii, np.float32)[:, None]
    scaled = np.sqrt(((offset / radius) ** 2).sum(axis=0))
    slope = np.sqrt(((offset / radius**2) ** 2).sum(axis=0)) + np.float32(1e-6)
    distance: Array = scaled * (scaled - 1) / slope
    return distance


def _tube(points: Array, line: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]) -> Array:
    """Signed distance in mm to a tube along a polyline [n, 3] of dense points, with a radius at each."""
    nearest = np.full(points.shape[1:], np.inf, np.float32)
    for (x, y, z), radius in zip(line.astype(np.float32), radii.astype(np.float32), strict=True):
        distance = np.sqrt((points[0] - x) ** 2 + (points[1] - y) ** 2 + (points[2] - z) ** 2) - radius
        np.minimum(nearest, distance, out=nearest)
    return nearest


def _draw_body(rng: np.random.Generator, world: Array) -> _Scene:
    """All tissue, from the skin inwards; brightness 1 is the brightest tissue.

    The anatomy is fixed in a space of its own; every case bends and scales that space smoothly, so organs that touch go
    on touching, and deforms each organ by itself besides.
    """
    points = world / np.float32(rng.uniform(0.95, 1.05))
    points = points + np.stack([_waves(rng, world, 60) * np.float32(amount) for amount in (1.3, 1.3, 1.8)])
    x, y, z = points
    scene = _Scene(np.full(x.shape, 0.01, np.float32), np.zeros(x.shape, np.uint8))

    girth = 1 + 0.05 * np.cos(z / 20)
    skin = ((np.abs(x / (32 * girth)) ** 2.5 + np.abs(y / (26 * girth)) ** 2.5) ** np.float32(0.4) - 1) * 27
    cavity = skin + 5.5
    scene.paint(skin, 0.42)
    scene.paint(skin + 0.8, 0.86)
    scene.paint(skin + 2.6 + 0.5 * _waves(rng, points, 14), 0.31)
    scene.paint(cavity, 0.62 + 0.05 * _waves(rng, points, 9))
    _draw_spine(scene, points)
    _draw_neighbours(rng, scene, points, cavity)

    lobe = _ellipsoid(points, (12, 6.5, 5), (14.5, 12.5, 20)) + 1.1 * _waves(rng, points, 24)
    lobe = np.maximum(lobe, cavity + 0.6)
    bean = _ellipsoid(points, (13, -9, -7), (9.2, 8.8, 15)) + 0.6 * _waves(rng, points, 16)
    hilum = _ellipsoid(points, (4, -9.5, -7), (5.2, 3.0, 4.5))
    bean = np.maximum(np.maximum(bean, -hilum), cavity + 0.3)
    scene.paint(bean, 0.84 + 0.03 * _waves(rng, points, 5), LABELS["bean"])
    scene.paint(bean + 2.6 + 0.7 * _waves(rng, points, 6), 0.52, label=None)
    scene.paint(lobe, 0.45 + 0.035 * _waves(rng, points, 4.5) + 0.03 * _waves(rng, points, 15), LABELS["lobe"])
    _draw_vessels(rng, scene, points, lobe)
    return scene


def _draw_spine(scene: _Scene, points: Array) -> None:
    """Vertebrae with discs between them, the canal with its cord, and the muscles of the back."""
    x, y, z = points
    for side in (-1, 1):
        scene.paint(_ellipsoid(points, (side * 10, -17, 0), (7.5, 4.6, 90)), 0.29)
    vertebra = np.hypot(x, y + 14) - 5.6
    disc = np.abs(np.mod(z + 3, 13) - 6.5) - 5
    scene.paint(vertebra, 0.16)
    scene.paint(np.maximum(vertebra + 0.8, disc), 0.56)
    scene.paint(np.hypot(x, y + 20.5) - 2.7, 0.95)
    scene.paint(np.hypot(x, y + 20.5) - 1.4, 0.60)


def _draw_neighbours(rng: np.random.Generator, scene: _Scene, points: Array, cavity: Array) -> None:
    """Unlabelled organs: a spleen of the lobe's brightness, a stomach, loops of bowel."""
    spleen = _ellipsoid(points, (-20, -5, 7), (6, 9, 13)) + 0.7 * _waves(rng, points, 18)
    scene.paint(np.maximum(spleen, cavity + 0.5), 0.46 + 0.03 * _waves(rng, points, 5))
    stomach = _ellipsoid(points, (-12, 9, 10), (9, 7.5, 13)) + 0.9 * _waves(rng, points, 20)
    stomach = np.maximum(stomach, cavity + 0.8)
    scene.paint(stomach, 0.40)
    scene.paint(stomach + 1.6, 0.20 + 0.04 * _waves(rng, points, 7))
    for _ in range(12):
        center = (rng.uniform(-21, 1), rng.uniform(-9, 14), rng.uniform(-36, -4))
        radii = (rng.uniform(3, 7), rng.uniform(3, 6), rng.uniform(3, 7))
        loop = _ellipsoid(points, center, radii) + 0.6 * _waves(rng, points, 9)
        loop = np.maximum(loop, cavity + 0.8)
        scene.paint(loop, 0.45)
        scene.paint(loop + 1.2, rng.choice([0.25, 0.7, 0.85]))


def _draw_vessels(rng: np.random.Generator, scene: _Scene, points: Array, lobe: Array) -> None:
    """The labelled vessel, an unlabelled dark vein beside it, and fine veins inside the lobe (part of it)."""
    z = np.linspace(42, -42, 70)
    bend, phase = rng.uniform(1.2, 2.6), rng.uniform(0, 2 * np.pi)
    trunk = np.stack([-3.2 + bend * np.sin(z / 11 + phase), -5.2 + 0.8 * np.cos(z / 13 + phase), z], axis=1)
    vein = np.stack([3.6 + 0.4 * bend * np.sin(z / 11 + phase), -5.6 + 0.0 * z, z], axis=1)
    scene.paint(_tube(points, vein, np.full(len(z), 2.1)), 0.24)

    for _ in range(4):
        ends = np.array([rng.uniform((5, 0, -4), (9, 6, 10)), rng.uniform((14, -2, -12), (22, 14, 18))])
        fine = ends[0] + np.linspace(0, 1, 24)[:, None] * (ends[1] - ends[0])
        scene.paint(np.maximum(_tube(points, fine, np.linspace(1.2, 0.6, 24)), lobe + 1), 0.30, label=None)

    start = trunk[np.argmin(np.abs(z - rng.uniform(-4, 2)))]
    steps = np.linspace(0, 1, 26)[:, None]
    end = np.array([6.5, -9.5, -7.0])
    middle = (start + end) / 2 + np.array([1.0, 3.2, 0.0])
    branch = (1 - steps) ** 2 * start + 2 * steps * (1 - steps) * middle + steps**2 * end
    vessel = _tube(points, trunk, np.linspace(2.5, 1.5, len(z)))
    vessel = np.minimum(vessel, _tube(points, branch, np.linspace(1.5, 1.1, len(steps))))
    scene.paint(vessel, 0.97, LABELS["vessel"])


def _acquire(rng: np.random.Generator, tissue: Array, points: Array) -> npt.NDArray[np.int16]:
    """What the scanner makes of the tissue: bias field, Rician noise, and a scale of its own."""
    bias = np.exp(0.13 * _waves(rng, points.reshape(3, -1), 110, count=4)).reshape(tissue.shape)
    real, imaginary = rng.normal(0, _NOISE, size=(2, *tissue.shape))
    magnitude = np.hypot(tissue * bias + real, imaginary)
    voxels: npt.NDArray[np.int16] = np.rint(magnitude * rng.uniform(400, 1600)).astype(np.int16)
    return voxels
