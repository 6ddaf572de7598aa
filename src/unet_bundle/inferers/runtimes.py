"""What runs a network: PyTorch itself, or a runtime that is handed the network once and may then be faster at it."""

from __future__ import annotations

import copy
import functools
import importlib.util
import logging
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from unet_bundle.errors import ConfigError
from unet_bundle.inferers.network_call import first_output
from unet_bundle.networks.checkpoint import weights_version
from unet_bundle.precision import autocast
from unet_bundle.runtime import our_error

logger = logging.getLogger(__name__)

MOST_NETWORKS = 16
"""That a runtime remembers, such as the folds of an ensemble: what was made of a network holds on to it."""

Run = Callable[[torch.Tensor], torch.Tensor]
"""Scores of windows of the shape it was made for. They may lie in memory that this thread's next run writes into."""


class Runtime:
    """Runs networks by one runtime.

    Each is handed over once for each shape of windows, and again if its weights change.

    Args:
        name: one of `RUNTIMES`; all but ``"torch"`` take networks in evaluation mode, called with windows alone.

    Raises:
        ConfigError: an unknown name; when called, for a library that is not installed, or a network, device or number
            format that the runtime is not for.
    """

    def __init__(self, name: str = "torch") -> None:
        if name not in RUNTIMES:
            raise ConfigError(f"runtime must be one of {', '.join(RUNTIMES)}, not {name!r}")
        self.name = name
        self._made: OrderedDict[nn.Module, _Made] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, network: Callable[..., Any], windows: torch.Tensor, *, dtype: torch.dtype) -> Any:
        """Scores of windows [windows, channels, *spatial].

        Args:
            network: a module; its own output, whatever that is, if the runtime is ``"torch"``.
            windows: on the network's device.
            dtype: what to compute in.
        """
        if self.name == "torch":
            return network(windows)
        if not isinstance(network, nn.Module):
            raise ConfigError(f"runtime {self.name!r} needs a network that is called with windows alone: set 'torch'")
        weights = weights_version(network)
        key = (tuple(windows.shape), windows.device, dtype, torch.get_num_threads())
        with self._lock:
            made = self._made.get(network)
            if made is None or made.weights != weights:
                made = self._made[network] = _Made(weights)
                while len(self._made) > MOST_NETWORKS:
                    self._made.popitem(last=False)
            if key not in made.runs:
                made.runs[key] = prepare(self.name, network, windows, dtype)
            run = made.runs[key]
        return run(windows)


@dataclass
class _Made:
    """What was made of a network: with which weights, and for which windows."""

    weights: Any
    runs: dict[Any, Run] = field(default_factory=dict)


def prepare(name: str, network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> Run:
    """Hand a network over to a runtime.

    Args:
        name: of the runtime; ``"auto"`` is decided by `fastest_runtime`.
        network: in evaluation mode.
        windows: an example [windows, channels, *spatial].
        dtype: what to compute in.

    Raises:
        ConfigError: the runtime is not for this, or not installed.
        InputTooSmallError: the network leaves nothing of windows of this size.
    """
    if name == "auto":
        from unet_bundle.inferers.runtime_choice import fastest_runtime

        return fastest_runtime(network, windows, dtype)
    reason = unfit(name, windows.device, dtype)
    if reason:
        raise ConfigError(f"runtime {name!r} {reason}")
    _check_size(network, windows)
    # Each sets its number format itself: autocast's own operations are none that other runtimes know.
    with torch.no_grad(), torch.autocast(windows.device.type, enabled=False), warnings.catch_warnings():
        # Tracing warns of every branch that sizes decide, and PyTorch of TorchScript's age.
        warnings.simplefilter("ignore")
        return _PREPARED[name](_FirstOutput(network).eval(), windows.contiguous(), dtype)


def unfit(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a runtime cannot be used, as the end of a sentence; None if it can."""
    if name not in LIBRARIES:
        return None
    library, types = LIBRARIES[name]
    if device.type != "cpu":
        return f"is for the CPU, not for {device.type}: set runtime to 'torch' or 'compiled'"
    if dtype not in types:
        names = " or ".join(str(each).removeprefix("torch.") for each in types)
        return f"computes in {names} only: set precision to that"
    if any(importlib.util.find_spec(each) is None for each in library):
        return f"is not installed: pip install 'unet-bundle[{EXTRAS[name]}]'"
    return None


class _FirstOutput(nn.Module):
    """A network with one output, as runtimes want it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return first_output(self.network(windows))


def _check_size(network: nn.Module, windows: torch.Tensor) -> None:
    """Raise what the network would of this size: its checks are no part of what runtimes are given."""
    try:
        copy.deepcopy(network).to("meta")(windows.to("meta"))
    except Exception as error:
        if our_error(error) is not None:
            raise
        logger.debug("the network cannot be checked without data: %s", type(error).__name__)


def _compiled(network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> Run:
    del windows, dtype  # made for what it is called with, in the autocast it is called in
    compiled: Run = torch.compile(network, dynamic=False)
    return compiled


def _torchscript(network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> Run:
    with autocast(windows.device, dtype):
        traced = torch.jit.trace(network, windows, check_trace=False)
    frozen: Run = torch.jit.freeze(traced)
    return frozen


def _onnxruntime(network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> Run:
    del dtype
    import onnxruntime

    exported = torch.onnx.export(network, (windows,), dynamo=True, verbose=False, input_names=["image"])
    assert exported is not None  # noqa: S101  (for the type checker)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    content = exported.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda seen: torch.from_numpy(session.run(None, {"image": seen.contiguous().numpy()})[0])


@functools.cache
def _openvino_core() -> Any:
    """One for the process, for good.

    Each sets up a stack for signals and, when it goes, brings back the one before: of several that one may be gone, and
    the next signal ends the process (seen with OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def _openvino(network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> Run:
    import openvino

    # Traced here: its own tracing runs the network three times to compare.
    traced = torch.jit.trace(network, windows, check_trace=False)
    model = openvino.convert_model(traced, example_input=windows, input=list(windows.shape))
    settings = {
        "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = _openvino_core().compile_model(model, "CPU", settings)
    requests = threading.local()  # a request is one thread's

    def run(seen: torch.Tensor) -> torch.Tensor:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        found = requests.own.infer([seen.contiguous().numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(found[0])

    return run


_PREPARED: Mapping[str, Callable[[nn.Module, torch.Tensor, torch.dtype], Run]] = {
    "compiled": _compiled,
    "torchscript": _torchscript,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
RUNTIMES = ("torch", *_PREPARED, "auto")
"""PyTorch as it is; its compiler Inductor; TorchScript; ONNX Runtime; OpenVINO; whichever is fastest here."""
LIBRARIES: Mapping[str, tuple[tuple[str, ...], tuple[torch.dtype, ...]]] = {
    "onnxruntime": (("onnxruntime", "onnxscript"), (torch.float32,)),
    "openvino": (("openvino",), (torch.float32, torch.bfloat16)),
}
"""Runtimes for the CPU alone: the libraries they need, and the number formats they are used in."""
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
"""Of this package, which bring those libraries."""
