"""Writing a network in the file formats of other runtimes, with notes of what it was made of."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from unet_bundle.errors import ConfigError
from unet_bundle.inferers.backends import quiet_exporters
from unet_bundle.inferers.exported import INPUT, NOTES, OUTPUT, Notes, check_tensorrt, weights_hash
from unet_bundle.inferers.network_call import FirstOutput
from unet_bundle.networks.checkpoint import bare

BATCH = 2
"""Windows of the example: of one, PyTorch would take the number for fixed."""
ROOM, ROOM_BESIDE = 1.25, 8 * 10**6
"""Times its weights, and bytes beside them, that a file may take."""


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        network: in evaluation mode, with its weights, on the device it will run on.
        channels: of its windows.
        window: voxels per axis of its windows.
        configs: contents of the bundle's configs by file name, which TorchScript carries along.
    """

    network: nn.Module
    channels: int
    window: tuple[int, ...]
    configs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def notes(self, **more: Any) -> Notes:
        """What the file will say of itself."""
        return Notes(weights_hash(self.network), self.window, **more)

    def windows(self, batch: int) -> torch.Tensor:
        """An example of what the network is called with."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, self.channels, *self.window, generator=generator).to(self.device)

    def plain(self) -> nn.Module:
        """The network with one output, as runtimes want it, apart from the bundle's own."""
        return FirstOutput(copy.deepcopy(bare(self.network))).eval().requires_grad_(False)


def write(to: str, source: Source, path: Path) -> None:
    """Write a network as a file; OpenVINO has a second one beside it, of the same name and ``.bin``.

    Args:
        to: one of `FORMATS`.
        source: what is exported.
        path: of the file, with the ending of the format.

    Raises:
        ConfigError: an unknown format, another ending than the format's, a library that is missing, no GPU where one
            is needed, or no room on the disk.
    """
    if to not in FORMATS:
        raise ConfigError(f"the format must be one of {', '.join(FORMATS)}, not {to!r}")
    if path.suffix != (suffix := Path(DEFAULT_FILES[to]).suffix):
        raise ConfigError(f"{path.name}: a file for {to} must end in {suffix}")
    missing = [each for each in LIBRARIES.get(to, ()) if importlib.util.find_spec(each) is None]
    if missing:
        extra = "onnx" if to == "onnx" else to
        raise ConfigError(f"{to} needs {', '.join(missing)}: pip install 'unet-bundle[{extra}]'")
    _check_room(source.network, path)
    with torch.no_grad(), warnings.catch_warnings(), quiet_exporters():
        # Tracing warns of every branch that sizes decide, and PyTorch of TorchScript's age.
        warnings.simplefilter("ignore")
        _WRITERS[to](source, path)


def _check_room(network: nn.Module, path: Path) -> None:
    """Refuse a disk that is too full: there PyTorch's writer ends the whole process."""
    if not hasattr(os, "posix_fallocate"):
        return
    size = int(ROOM * sum(each.nbytes for each in network.state_dict().values())) + ROOM_BESIDE
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise ConfigError(
            f"{path.name} cannot be written ({error.strerror}): it needs {size / 1e6:.0f} MB, give a folder with room"
        ) from error


def _torchscript(source: Source, path: Path) -> None:
    """A scripted network with metadata and configs as extra files, as ``monai.bundle ckpt_export`` writes it."""
    scripted = torch.jit.script(copy.deepcopy(bare(source.network)).eval().requires_grad_(False))
    _save_with_configs(scripted, source, source.notes(), path)


def _save_with_configs(scripted: Any, source: Source, notes: Notes, path: Path) -> None:
    from monai.data import save_net_with_metadata

    files = {name: json.dumps(config).encode() for name, config in source.configs.items() if name != "metadata.json"}
    save_net_with_metadata(
        scripted,
        str(path),
        include_config_vals=False,
        meta_values=source.configs.get("metadata.json"),
        more_extra_files={**files, f"{NOTES}.json": notes.text().encode()},
    )


def _torch_export(source: Source, path: Path) -> None:
    program = torch.export.export(source.plain(), (source.windows(BATCH),), dynamic_shapes=_any_number())
    torch.export.save(program, path, extra_files={f"{NOTES}.json": source.notes(device=source.device.type).text()})


def _any_number() -> tuple[dict[int, Any]]:
    """Of windows; their size is fixed."""
    return ({0: torch.export.Dim("batch")},)


def _onnx(source: Source, path: Path) -> None:
    exported = torch.onnx.export(
        source.plain(),
        (source.windows(BATCH),),
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=_any_number(),
    )
    assert exported is not None  # noqa: S101  (for the type checker)
    exported.model.metadata_props[NOTES] = source.notes().text()
    exported.save(path)


def _openvino(source: Source, path: Path) -> None:
    import openvino

    from unet_bundle.inferers.openvino_model import openvino_model

    model = openvino_model(source.plain(), source.windows(1))
    model.set_rt_info(source.notes(one_at_a_time=True).text(), [NOTES])
    openvino.save_model(model, path, compress_to_fp16=False)


def _tensorrt(source: Source, path: Path) -> None:
    """As ``monai.bundle trt_export`` writes it: TorchScript that holds TensorRT's engines; one window at a time."""
    check_tensorrt(source.device)
    from monai.networks import convert_to_trt

    shape = (1, source.channels, *source.window)
    engines = convert_to_trt(source.plain(), "fp32", shape, use_trace=True, device=source.device.index)
    _save_with_configs(engines, source, source.notes(one_at_a_time=True, device="cuda", tensorrt=True), path)


_WRITERS: Mapping[str, Callable[[Source, Path], None]] = {
    "torchscript": _torchscript,
    "torch-export": _torch_export,
    "onnx": _onnx,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
}
FORMATS = tuple(_WRITERS)
DEFAULT_FILES = {
    "torchscript": "models/model.ts",
    "torch-export": "models/model.pt2",
    "onnx": "models/model.onnx",
    "openvino": "models/model.xml",
    "tensorrt": "models/model_trt.ts",
}
"""Where in the bundle a format goes, if nothing else is said."""
LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
"""What formats need to be written and checked, by the extra of this package of the same name."""
