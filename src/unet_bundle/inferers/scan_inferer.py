"""From a scan to its label map on its own grid, without the scores of all classes at all voxels ever being there."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from tqdm import tqdm

from unet_bundle import stages
from unet_bundle.errors import ConfigError, InputError
from unet_bundle.inferers.batch import batched, grids_of, items_of
from unet_bundle.inferers.ensemble import Ensemble
from unet_bundle.inferers.exported import Exported, runtime_of
from unet_bundle.inferers.interpolation import ACTIVATIONS, SHARE_TYPES, Interpolation
from unet_bundle.inferers.network_call import NetworkCall
from unet_bundle.inferers.reduction import Reduction
from unet_bundle.inferers.scan_grid import ScanGrid, scan_grid
from unet_bundle.inferers.scratch import check_folder
from unet_bundle.inferers.slabs import Predict, SlabTooLargeError, fitting_strips, strips, walk
from unet_bundle.inferers.windows import PaddedImage, WindowSettings, one_window_each
from unet_bundle.memory import memory_limit
from unet_bundle.precision import check_precision, resolve_precision
from unet_bundle.transforms import Regions, painted_values

logger = logging.getLogger(__name__)

OUTPUTS = ("labels", "regions", "probabilities", "entropy")
"""One class for each voxel; a 0 or 1 for each of several regions, which may overlap; the probability of each class or
region; how undecided the network is, from 0 to 1."""


class ScanInferer(Inferer):
    """Sliding window, and the way back to the grid of the file, as one: scan in, label map out.

    Scores are interpolated linearly onto the scan's grid and reduced at once, slab by slab; the labels are those of
    interpolating everything and taking the class with the highest score. The scan's grid is read from the
    ``MetaTensor``: ``original_affine`` and ``spatial_shape``, which MONAI's readers note, and the affine that
    the transforms since then keep right. They may flip, permute, resample, pad and crop; voxels that were cropped away
    are background. Put no ``Invertd`` and no ``AsDiscreted`` behind it.

    Args:
        roi_size: voxels of a window per axis, without the one that `spatial_dim` names; 0 or less for a whole axis.
        sw_batch_size: windows that are run at once.
        overlap: share of a window that it has in common with the next.
        mode: ``"gaussian"`` weights the middles of windows more, ``"nnunet"`` as nnU-Net does, ``"constant"`` all
            voxels alike.
        padding_mode: of images smaller than a window; see ``torch.nn.functional.pad``.
        cval: value of that padding, where it is constant.
        spatial_dim: axis across which a 2D network sees slices of a volume; None if it sees all axes.
        output: one of `OUTPUTS`. Probabilities and entropy are those of the interpolated scores, and lie in a temporary
            file: a scan at a time is never copied, and what reads it should do so class by class.
        regions: of a network that has a score for each of several regions: name of each to the classes it is made of,
            in the order in which they are painted to give labels; None for classes that exclude each other.
        activation: what makes probabilities of scores: ``"softmax"``, or ``"sigmoid"`` for regions, which may overlap.
        probability_type: of probabilities and entropy: ``"float16"``, or ``"uint8"`` for 255 times them.
        scratch_dir: folder of that file; None for the system's folder of temporary files, which may lie in memory.
        window_spacing: ``"even"``: windows are spread evenly and share at least `overlap`, as in nnU-Net; ``"fixed"``:
            they follow each other at that step, and the last ends with the image, as in MONAI.
        separate_slices: the spacing of a `ResampleToSpacingd` with ``align="edges"``, to go back as it came: where
            slices are so thick that it resampled each by itself, scores are those of the nearest slice. None: scores
            are interpolated along all axes.
        precision: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"auto"``.
        runtime: what runs the network: one of `RUNTIMES`, where ``"auto"`` measures once which is the fastest; or a
            file that `unet-bundle export` wrote.
        ensemble: files of weights for the network, of folds; scores are the mean over them. Empty: the network's own.
        ensemble_folder: what these files, and that of `runtime`, are relative to.
        mirror_axes: the network's scores are the mean over mirrorings along these axes: 2 ** axes times the work.
        channels_last: lay windows out with channels last in memory, which some devices prefer.
        remember_constant: run windows that hold nothing but one value (air) once.
        memory: how much the sums may take, such as ``"4GB"``; None for half of what is free. With less, strips of the
            volume are done one after another, which costs time, never quality.
        progress: a bar on a terminal, with the time that is left.

    Raises:
        CheckpointError: if a file of the ensemble is missing.
        ConfigError: if a setting is impossible.
        InputError: when called, for an image of another number of axes, or turned against its scan.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        sw_batch_size: int = 1,
        overlap: Sequence[float] | float = 0.5,
        mode: str = "gaussian",
        padding_mode: str = "constant",
        cval: float = 0.0,
        spatial_dim: int | None = None,
        *,
        output: str = "labels",
        regions: Regions | None = None,
        activation: str = "softmax",
        probability_type: str = "float16",
        scratch_dir: str | None = None,
        window_spacing: str = "even",
        separate_slices: Sequence[float | None] | None = None,
        precision: str = "float32",
        runtime: str = "torch",
        ensemble: Sequence[str] = (),
        ensemble_folder: str = ".",
        mirror_axes: Sequence[int] = (),
        channels_last: bool = False,
        remember_constant: bool = True,
        memory: str | int | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.settings = WindowSettings(
            roi_size,
            overlap,
            mode,
            padding_mode=padding_mode,
            cval=cval,
            slice_axis=spatial_dim,
            spacing=window_spacing,
        )
        _check("output", output, OUTPUTS)
        _check("activation", activation, ACTIVATIONS)
        _check("probability_type", probability_type, tuple(SHARE_TYPES))
        check_folder(scratch_dir)
        if not isinstance(sw_batch_size, int) or sw_batch_size < 1:
            raise ConfigError(f"sw_batch_size must be a whole number of 1 or more, not {sw_batch_size!r}")
        if len(set(mirror_axes)) < len(mirror_axes) or not set(mirror_axes) <= {0, 1, 2}:
            raise ConfigError(f"mirror_axes must be different axes from 0 on, at most 2, not {mirror_axes!r}")
        self.output, self.memory, self.separate_slices = output, memory, separate_slices
        self.painted = painted_values(regions) if regions else []
        self.activation, self.probability_type, self.scratch_dir = activation, probability_type, scratch_dir
        self.sw_batch_size, self.progress = sw_batch_size, progress
        self.precision = check_precision(precision)
        self.runtime = runtime_of(runtime, Path(ensemble_folder))
        self.members = Ensemble(ensemble, ensemble_folder)
        if self.members.files and isinstance(self.runtime, Exported):
            raise ConfigError("an exported file holds one network: set runtime to a name, or ensemble to []")
        self.mirror_axes, self.channels_last, self.remember_constant = mirror_axes, channels_last, remember_constant
        memory_limit(memory, torch.device("cpu"))

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Segment scans.

        Args:
            inputs: shape [batch, channels, *spatial], as the network sees it; a ``MetaTensor`` knows its scan's grid.
            network: takes [windows, channels, *spatial].
            args: for the network, behind the windows.
            kwargs: for the network.

        Returns:
            Shape [batch, 1, *spatial of the scan], whole numbers; for output ``"regions"``, and for probabilities of
            classes or regions, [batch, regions or classes, *spatial of the scan].
        """
        dtype = resolve_precision(self.precision, inputs.device)
        call = NetworkCall(
            [self._run(member, dtype, args, kwargs) for member in self.members.of(network)],
            inputs.device,
            dtype=dtype,
            slice_axis=self.settings.slice_axis,
            mirror_axes=self.mirror_axes,
            channels_last=self.channels_last,
            remember_constant=self.remember_constant,
        )
        images = items_of(inputs)
        padded = [self._padded(image) for image in images]
        grids = [self._grid(*each) for each in zip(images, padded, strict=True)]
        with torch.no_grad():
            predicts = one_window_each(padded, call, self.sw_batch_size)
            done = [self._segment(*each) for each in zip(images, padded, grids, predicts, strict=True)]
        stages.log_if_alone()
        return batched(done)

    def is_one_window(self, image: torch.Tensor) -> bool:
        """Whether an image [channels, *spatial] is run as a single window: `sw_batch_size` of a batch run together."""
        return self._padded(image).tiling.count == 1

    def _run(self, network: Callable[..., Any], dtype: torch.dtype, args: Any, kwargs: Any) -> Callable[..., Any]:
        if args or kwargs:
            plain = network

            def network(windows: torch.Tensor) -> Any:
                return plain(windows, *args, **kwargs)

        return partial(self.runtime, network, dtype=dtype, version=self.runtime.version(network))

    def _padded(self, image: torch.Tensor) -> PaddedImage:
        plain = image.as_subclass(torch.Tensor)
        rank = plain.ndim - 1
        if max(self.mirror_axes, default=0) >= rank:
            raise InputError(f"mirror_axes names axis {max(self.mirror_axes)}, the image has {rank}: leave it out")
        return self.settings.over(plain)

    def _grid(self, image: torch.Tensor, padded: PaddedImage) -> ScanGrid:
        shape, affine, seen = grids_of(image)
        grid = scan_grid(shape, affine, image.shape[1:], seen, padded.before, self.separate_slices)
        return grid.ordered(padded.axes)

    def _segment(self, image: torch.Tensor, padded: PaddedImage, grid: ScanGrid, predict: Predict) -> torch.Tensor:
        """The answer [1 or regions, *scan] for one image [channels, *spatial]."""
        answer = self._walked(padded, grid, predict)
        if not isinstance(image, MetaTensor):
            return answer
        _, affine, _ = grids_of(image)
        meta = {key: value for key, value in image.meta.items() if key != "affine"}
        return MetaTensor(answer, affine=torch.as_tensor(affine, dtype=torch.float64), meta=meta)

    def _walked(self, padded: PaddedImage, grid: ScanGrid, predict: Predict) -> torch.Tensor:
        """Walk over an image, with less at a time as long as memory does not suffice."""
        device = padded.image.device
        effort = _Effort(self.sw_batch_size, device, limit=memory_limit(self.memory, device))
        answer = None
        while answer is None:
            answer, effort = self._tried(padded, grid, predict, effort)
        return answer

    def _tried(
        self, padded: PaddedImage, grid: ScanGrid, predict: Predict, effort: _Effort
    ) -> tuple[torch.Tensor | None, _Effort]:
        """The answer; or None where memory did not suffice, and what to try next."""
        try:
            return self._reduced(padded, grid, predict, effort), effort
        except SlabTooLargeError as error:
            number = fitting_strips(padded.tiling, error.classes, effort.limit, effort.batch_size)
            logger.info("%d strips of the scan are done one after another: memory is for no more", number)
            return None, replace(effort, strips=number, limit=math.inf)
        except torch.OutOfMemoryError:
            if effort.batch_size > 1:
                logger.warning("the GPU's memory does not suffice: %d windows at a time now", effort.batch_size // 2)
                return None, replace(effort, batch_size=effort.batch_size // 2)
            if effort.device.type == "cpu":
                raise
            logger.warning("the GPU's memory does not suffice: scores are summed up on the CPU now")
            return None, replace(effort, device=torch.device("cpu"))

    def _reduced(self, padded: PaddedImage, grid: ScanGrid, predict: Predict, effort: _Effort) -> torch.Tensor:
        reduction = self._reduction(grid.shape)
        parts = strips(padded.tiling, effort.strips)
        number = sum(strip.tiling.count for strip in parts)
        start, network_seconds = time.perf_counter(), 0.0
        computing = padded.image.device
        # None: no bar where there is no terminal.
        with tqdm(total=number, unit="window", leave=False, disable=None if self.progress else True) as bar:

            def timed(windows: torch.Tensor) -> torch.Tensor:
                nonlocal network_seconds
                stages.finish(computing)
                begin = time.perf_counter()
                scores = predict(windows)
                stages.finish(computing)
                network_seconds += time.perf_counter() - begin
                bar.update(len(windows))
                return scores

            for strip in parts:
                image = padded.image[:, :, strip.begin : strip.begin + strip.tiling.size[1]]
                part = grid if effort.strips == 1 else grid.strip(strip.start, strip.stop, strip.begin)
                batch, device, limit = effort.batch_size, effort.device, effort.limit
                for slab in walk(image, timed, strip.tiling, batch_size=batch, device=device, limit=limit):
                    reduction.add(slab, part)
        stages.finish(computing)
        stages.add("network", network_seconds)
        stages.add("resample", time.perf_counter() - start - network_seconds)
        return reduction.result()

    def _reduction(self, shape: Sequence[int]) -> Reduction | Interpolation:
        if self.output in ("labels", "regions"):
            return Reduction(shape, self.output, self.painted)
        return Interpolation(shape, self.output, self.activation, self.probability_type, self.scratch_dir)


@dataclass(frozen=True)
class _Effort:
    """How much is done at a time.

    Attributes:
        batch_size: windows that are run at once.
        device: where scores are summed up.
        strips: of the volume, one after another.
        limit: bytes that the sums may take.
    """

    batch_size: int
    device: torch.device
    strips: int = 1
    limit: float = math.inf


def _check(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
