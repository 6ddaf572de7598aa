"""A network from a file that `unet-bundle export` wrote, run in place of the bundle's own."""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from unet_bundle.errors import ConfigError
from unet_bundle.inferers.backends import RUNTIMES, Run, onnx_session, unfit
from unet_bundle.inferers.runtimes import Runtime
from unet_bundle.networks.checkpoint import bare, short_name, weights_version

NOTES = "unet_bundle"
"""Key under which a file says what it was made of; in the archives of PyTorch the extra file of this name, as JSON."""
INPUT, OUTPUT = "image", "pred"
"""Names of the tensors in ONNX."""


@dataclass(frozen=True)
class Notes:
    """What an exported file says of itself.

    Attributes:
        weights: `weights_hash` of the network it was made of.
        window: voxels per axis of the windows it takes.
        one_at_a_time: whether it takes one window a time, or any number.
        device: type of the device that it is for; ``"any"`` for all.
        tensorrt: whether it holds engines of TensorRT.
    """

    weights: str
    window: tuple[int, ...]
    one_at_a_time: bool = False
    device: str = "any"
    tensorrt: bool = False

    def text(self) -> str:
        """As JSON."""
        return json.dumps(vars(self))

    @classmethod
    def read(cls, text: str) -> Notes:
        """Of what `text` gave.

        Raises:
            ValueError: no such JSON.
        """
        try:
            content = json.loads(text)
            return cls(**{**content, "window": tuple(content["window"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no notes of an export: {error}") from error


def weights_hash(network: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 values of a network's weights."""
    found = hashlib.sha256()
    for name, value in sorted(bare(network).state_dict().items()):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()


def runtime_of(runtime: str, folder: Path) -> Runtime | Exported:
    """What runs the network.

    Args:
        runtime: one of `RUNTIMES`, or an exported file, told by its ending.
        folder: what the file is relative to.

    Raises:
        ConfigError: an unknown name, or the file is missing.
    """
    if Path(str(runtime)).suffix in _READERS:
        return Exported(folder / runtime)
    if runtime not in RUNTIMES:
        raise ConfigError(
            f"runtime must be one of {', '.join(RUNTIMES)}, or a file that `unet-bundle export` wrote "
            f"({', '.join(_READERS)}), not {runtime!r}"
        )
    return Runtime(runtime)


class Exported:
    """Runs the network of an exported file; of the network that it is called with it makes sure that it is the same.

    Args:
        path: of the file; its ending says which runtime it is for.

    Raises:
        ConfigError: the file is missing; when called, for a library that is not installed, a file that was made of
            other weights or for other windows, or a device or number format that it is not for.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ConfigError(
                f"runtime {short_name(path)} is missing: make it by `unet-bundle export`, and give its path from the"
                " bundle's folder, or in full"
            )
        self.path = path
        self._loaded: dict[Any, _Loaded] = {}
        self._checked: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy reads the file again: runtimes' own objects cannot be copied."""
        return Exported, (self.path,)

    def version(self, network: Any) -> Any:
        """See `Runtime.version`."""
        return weights_version(network) if isinstance(network, nn.Module) else None

    def __call__(
        self, network: Callable[..., Any], windows: torch.Tensor, *, dtype: torch.dtype, version: Any = None
    ) -> torch.Tensor:
        """Scores [windows, classes, *spatial] of windows [windows, channels, *spatial].

        Args:
            network: the module that the file was made of.
            windows: on the device to compute on.
            dtype: what to compute in.
            version: see `Runtime`.
        """
        name = short_name(self.path)
        key = (windows.device, dtype, torch.get_num_threads())
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = _load(self.path, windows.device, dtype)
            loaded = self._loaded[key]
            self._check_weights(network, loaded.notes, version)
        made_for, given = loaded.notes.window, tuple(windows.shape[2:])
        if given != made_for:
            raise ConfigError(f"{name} is for windows of {_by(made_for)}, not {_by(given)}: export it again")
        if not loaded.notes.one_at_a_time or len(windows) == 1:
            return loaded.run(windows)
        return torch.cat([loaded.run(each).clone() for each in windows.split(1)])

    def _check_weights(self, network: Any, notes: Notes, version: Any) -> None:
        if not isinstance(network, nn.Module):
            raise ConfigError(f"{short_name(self.path)} needs a network that is called with windows alone")
        version = weights_version(network) if version is None else version
        if self._checked.get(network) != version:
            if weights_hash(network) != notes.weights:
                raise ConfigError(
                    f"{short_name(self.path)} was made of other weights than the bundle has now: export it again"
                )
            self._checked[network] = version


@dataclass(frozen=True)
class _Loaded:
    notes: Notes
    run: Run = field(repr=False)


def _load(path: Path, device: torch.device, dtype: torch.dtype) -> _Loaded:
    """Read a file, with one line where that cannot be."""
    name = short_name(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of TorchScript's age
            loaded = _READERS[path.suffix](path, device, dtype)
    except ConfigError:
        raise
    except Exception as error:  # runtimes fail in their own ways over damaged and foreign files
        raise ConfigError(
            f"{name} is no readable file of `unet-bundle export` ({type(error).__name__}): export it again"
        ) from error
    if loaded.notes.device not in ("any", device.type):
        raise ConfigError(f"{name} is for {loaded.notes.device}, not for {device.type}: set device, or export it again")
    return loaded


def _check_fit(runtime: str, path: Path, device: torch.device, dtype: torch.dtype) -> None:
    reason = unfit(runtime, device, dtype)
    if reason:
        raise ConfigError(f"runtime {short_name(path)} {reason}")


def _archive_notes(path: Path) -> Notes:
    """Of an archive of PyTorch, without loading the network."""
    with zipfile.ZipFile(path) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(f"/extra/{NOTES}.json")]
        return Notes.read(archive.read(name).decode())


def _torchscript(path: Path, device: torch.device, dtype: torch.dtype) -> _Loaded:
    notes = _archive_notes(path)
    _check_float32(path, dtype)
    if notes.tensorrt:
        check_tensorrt(device)
    module = torch.jit.load(path, map_location=device).eval()
    run: Run = module if notes.tensorrt else torch.jit.freeze(module)
    return _Loaded(notes, run)


def _check_float32(path: Path, dtype: torch.dtype) -> None:
    """Refuse others: what the network keeps in float32 amid them, an export does not."""
    if dtype != torch.float32:
        raise ConfigError(f"{short_name(path)} computes in float32 only: set precision to that")


def check_tensorrt(device: torch.device) -> None:
    """Import what TensorRT's engines need.

    Raises:
        ConfigError: no CUDA GPU, or the library is missing.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        raise ConfigError("TensorRT needs a CUDA GPU, and there is none here: choose another runtime")
    try:
        import torch_tensorrt  # noqa: F401  (it makes the engines' class known)
    except ImportError as error:
        raise ConfigError("TensorRT needs the library torch-tensorrt: pip install torch-tensorrt") from error


def _torch_export(path: Path, device: torch.device, dtype: torch.dtype) -> _Loaded:
    del device
    _check_float32(path, dtype)
    return _Loaded(_archive_notes(path), torch.export.load(path).module())


def _onnx(path: Path, device: torch.device, dtype: torch.dtype) -> _Loaded:
    _check_fit("onnxruntime", path, device, dtype)
    session = onnx_session(str(path))
    notes = Notes.read(session.get_modelmeta().custom_metadata_map[NOTES])
    return _Loaded(notes, lambda seen: torch.from_numpy(session.run([OUTPUT], {INPUT: seen.contiguous().numpy()})[0]))


def _openvino(path: Path, device: torch.device, dtype: torch.dtype) -> _Loaded:
    _check_fit("openvino", path, device, dtype)
    from unet_bundle.inferers.openvino_model import openvino_core, openvino_run

    model = openvino_core().read_model(path)
    return _Loaded(Notes.read(model.get_rt_info([NOTES]).value), openvino_run(model, dtype))


def _by(window: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in window)


_READERS: Mapping[str, Callable[[Path, torch.device, torch.dtype], _Loaded]] = {
    ".ts": _torchscript,
    ".pt2": _torch_export,
    ".onnx": _onnx,
    ".xml": _openvino,
}
