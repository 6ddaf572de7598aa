"""A bundle in one's own program: load once, segment many."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from monai.bundle import ConfigParser, ReferenceResolver
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Compose

from unet_bundle import stages
from unet_bundle.config_checks import check_classes
from unet_bundle.errors import ConfigError, InputError
from unet_bundle.geometry import check_affine
from unet_bundle.io import LoadImaged, SaveImaged
from unet_bundle.io.checks import check_values
from unet_bundle.io.dicom.sources import holds_dicom
from unet_bundle.io.layouts.names import VOLUME_SUFFIXES, images_in
from unet_bundle.io.output_format import AUTO
from unet_bundle.io.source_grid import check_sayable, is_dicom, source_series
from unet_bundle.networks.checkpoint import load_checkpoint, load_weights
from unet_bundle.precision import check_device
from unet_bundle.runtime import our_error

_MISSING = object()
CONFIG = Path("configs", "inference.json")


class Predictor:
    """A bundle's inference.json, loaded: its network stays on the device, any number of threads may predict.

    What is done is what the MONAI CLI and MONAI Label do with the same config, voxel for voxel.

    Args:
        bundle: folder of the bundle.
        device: such as ``"cuda:0"``; None for the config's.
        overrides: values that replace those of inference.json, such as ``{"precision": "bfloat16"}``.

    Raises:
        ConfigError: not a bundle, an override that the config has no value for, or a device that is not there.
        CheckpointError: the weights are missing, damaged, or of another network.

    Example:
        >>> predictor = Predictor("bundle")  # doctest: +SKIP
        >>> labels = predictor("scan.nii.gz")  # doctest: +SKIP
        >>> predictor.save("scan.nii.gz", "results")  # doctest: +SKIP
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        device: str | torch.device | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        path = Path(bundle) / CONFIG
        if not path.is_file():
            raise ConfigError(f"{path} is missing: give the folder of a bundle, as `unet-bundle plan` writes it")
        self._parser = ConfigParser()
        self._parser.read_config(str(path))
        self._parser["bundle_root"] = str(bundle)
        for key, value in (overrides or {}).items():
            if self._parser.get(key.partition("::")[0], _MISSING) is _MISSING:
                raise ConfigError(f"unknown key {key!r}: inference.json has no such value")
            self._parser[key] = value
        if device is not None:
            self._parser["device"] = check_device(device)
        # What is built leaves its traces in the parser's.
        self._config = cast("dict[str, Any]", copy.deepcopy(self._parser.config))
        check_classes(self._config)
        self.device: torch.device = check_device(self._made("device"))
        self.network: torch.nn.Module = self._made("network")
        if not ("ensemble" in self._parser and self._made("ensemble")):  # an expression may come to nothing
            weights = Path(self._made("checkpoint"))
            load_weights(self.network, load_checkpoint(weights), weights.name)
        self.network.eval()
        self.inferer: Inferer = self._made("inferer")
        self._steps = _steps(self._made("preprocessing"))
        after = _steps(self._made("postprocessing"))
        self._cleaning = [step for step in after if not isinstance(step, SaveImaged)]
        self._of_writing = _keys_of_writing(self._config)

    @property
    def labels(self) -> dict[str, int]:
        """Value of each class in the label maps."""
        return dict(self._parser.get_parsed_content("labels"))

    def __call__(
        self, scan: str | Path | Sequence[str | Path] | npt.NDArray[Any] | torch.Tensor, affine: Any = None
    ) -> MetaTensor:
        """Segment a scan.

        Args:
            scan: a file, a DICOM series (folder, .zip), or the files of the channels; or voxels, shape
                [channels, *spatial].
            affine: of voxels: voxel to mm, RAS, 4x4. A ``MetaTensor`` has its own.

        Returns:
            Labels, shape [1, *spatial of the scan], whole numbers; its affine is the scan's.

        Raises:
            InputError: the scan is refused.
        """
        with stages.scan():
            return _as_meta(self._segmented(scan, affine)["pred"])

    def save(self, scan: str | Path | Sequence[str | Path], output_dir: str | Path, **overrides: Any) -> MetaTensor:
        """Segment a scan and write the label map as the bundle does.

        Args:
            scan: see `__call__`; files only.
            output_dir: made if it is not there.
            overrides: for this scan, of the values that writing alone depends on, such as ``output_format="nrrd"``.

        Raises:
            ConfigError: an override of anything else.
            InputError: the scan is refused.
        """
        for key in overrides:
            if key.partition("::")[0] not in self._of_writing:
                takes = ", ".join(self._of_writing) or "none"
                raise ConfigError(f"save takes no {key!r}: only {takes}; give others to Predictor")
        parser = ConfigParser(copy.deepcopy(self._config))
        for key, value in {"output_dir": str(output_dir), **overrides}.items():
            parser[key] = value
        with _plain_errors():
            steps = _steps(parser.get_parsed_content("postprocessing"))
            output_format = str(parser.get_parsed_content("output_format")) if "output_format" in parser else AUTO
        with stages.scan():
            item = self._segmented(scan, None, output_format)
            with _plain_errors():
                Compose([step for step in steps if isinstance(step, SaveImaged)])(item)
        return _as_meta(item["pred"])

    def _made(self, name: str) -> Any:
        with _plain_errors():
            return self._parser.get_parsed_content(name)

    def prepared(self, scan: Any, affine: Any = None) -> dict[str, Any]:
        """A scan as the network sees it.

        Args:
            scan: see `__call__`.
            affine: see `__call__`.

        Returns:
            With the image, shape [channels, *spatial], under ``"image"``; its metadata know the scan's grid.

        Raises:
            InputError: the scan is refused.
        """
        steps = copy.deepcopy(self._steps)  # readers and transforms keep notes of what they did last
        if isinstance(scan, np.ndarray | torch.Tensor):
            item: dict[str, Any] = {
                "image": _with_grid(scan, affine, self._config.get("network_def", {}).get("in_channels"))
            }
            steps = [step for step in steps if not isinstance(step, LoadImaged)]
        else:
            _check_one(scan, affine)
            item = {"image": [str(part) for part in scan] if isinstance(scan, list | tuple) else str(scan)}
        with _plain_errors():
            prepared: Any = Compose(steps)(item)
        return dict(prepared)

    def _segmented(self, scan: Any, affine: Any, output_format: str = AUTO) -> dict[str, Any]:
        with stages.stage("preprocess"):
            prepared: Any = self.prepared(scan, affine)
        meta = prepared["image"].meta
        if is_dicom(meta):
            check_sayable(source_series(meta, output_format), output_format)
        with torch.no_grad():
            labels = self.inferer(prepared["image"][None].to(self.device), self.network)
        prepared["pred"] = labels[0].cpu()
        with stages.stage("postprocess"):
            prepared = Compose(copy.deepcopy(self._cleaning))(prepared)
        return dict(prepared)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Our own errors, out of those that MONAI wraps them in."""
    try:
        yield
    except RuntimeError as error:
        ours = our_error(error)
        if ours is None:
            raise
        raise ours from error


def _check_one(scan: Any, affine: Any) -> None:
    """Refuse what is no scan in files, and a folder of scans."""
    files = scan if isinstance(scan, list | tuple) else [scan]
    other = [type(each).__name__ for each in files if not isinstance(each, str | PathLike)]
    if other or not files:
        raise InputError(
            f"a scan is a path, a list of paths, or an array with its affine, not {other[0] if other else 'empty'}"
        )
    if affine is not None:
        raise InputError("affine goes with an array: a file states its own")
    if isinstance(scan, list | tuple) or not Path(scan).is_dir():
        return
    inside = images_in(Path(scan))
    volumes = [path for path in inside if path.name.lower().endswith(VOLUME_SUFFIXES)]
    if not holds_dicom(scan, beside_scans=bool(volumes)):  # a picture is a preview of the series
        raise InputError(
            f"a folder is given that holds no DICOM series but {len(inside) or 'no'} other scan"
            f"{'' if len(inside) == 1 else 's'}: give the file of one scan; `unet-bundle predict` segments folders"
        )


def _steps(preprocessing: Any) -> list[Any]:
    return list(preprocessing.transforms) if isinstance(preprocessing, Compose) else [preprocessing]


def _keys_of_writing(config: Mapping[str, Any]) -> list[str]:
    """The config's values that the writers in it refer to, and nothing else that a scan passes before."""
    after = config["postprocessing"].get("transforms", [config["postprocessing"]])
    writing = [step for step in after if str(step.get("_target_")).endswith("SaveImaged")]
    before = [step for step in after if step not in writing]
    before += [config[key] for key in ("device", "network", "network_def", "inferer", "preprocessing") if key in config]
    return sorted(_top_level(writing) - _top_level(before) - {"output_dir"})


def _top_level(content: Any) -> set[str]:
    """Names of the top-level values that a part of a config refers to."""
    return {name.partition("::")[0] for name in ReferenceResolver.find_refs_in_config(content, "") if name[0].isalpha()}


def _as_meta(value: Any) -> MetaTensor:
    assert isinstance(value, MetaTensor)  # noqa: S101  (for the type checker)
    return value


def _with_grid(voxels: Any, affine: Any, channels: int | None) -> MetaTensor:
    """Voxels as `LoadImaged` would hand them on, for a model with so many channels."""
    if affine is None and not isinstance(voxels, MetaTensor):
        raise InputError("voxels come without their grid: give affine, the 4x4 matrix from voxel to mm (RAS)")
    tensor, grid = _real(voxels), _matrix(voxels.affine if affine is None else affine)
    if tensor.ndim not in (3, 4):
        raise InputError(f"voxels have {tensor.ndim} axes: give [channels, *spatial]")
    if tensor.ndim == 3 and channels not in (None, len(tensor)):
        raise InputError(
            f"voxels have {len(tensor)} channels, the model needs {channels}: give [channels, *spatial], that is "
            "voxels[None] of a scan without an axis of channels"
        )
    if not tensor.numel():
        raise InputError(f"voxels have the shape {tuple(tensor.shape)}: there are none")
    if tensor.ndim == 4:
        check_affine(grid.numpy(), "the array")
    check_values(tensor.numpy(force=True), "the array")
    meta = {"original_affine": grid.numpy(), "spatial_shape": np.asarray(tensor.shape[1:])}
    return MetaTensor(tensor, affine=grid, meta=meta)


def _real(voxels: Any) -> torch.Tensor:
    """As float32; without what MONAI notes."""
    if isinstance(voxels, np.ndarray):  # torch takes neither negative strides nor another machine's order of bytes
        voxels = np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("="))
    try:
        tensor = torch.as_tensor(voxels)
    except TypeError as error:
        raise InputError(f"voxels are of type {getattr(voxels, 'dtype', None)}: give real numbers") from error
    if tensor.is_complex():
        raise InputError(f"voxels are of type {tensor.dtype}: give real numbers, such as their magnitude")
    return tensor.as_subclass(torch.Tensor).to(torch.float32)


def _matrix(affine: Any) -> torch.Tensor:
    try:
        plain = affine.numpy(force=True) if isinstance(affine, torch.Tensor) else affine
        return torch.from_numpy(np.array(plain, np.float64))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError("affine is no matrix of numbers: give the 4x4 one from voxel to mm (RAS)") from error
