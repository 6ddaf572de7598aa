"""The runtimes that a network can be handed over to, and how each is given one."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import nn

from unet_bundle.errors import ConfigError
from unet_bundle.inferers.network_call import FirstOutput
from unet_bundle.networks import UNet
from unet_bundle.precision import autocast
from unet_bundle.runtime import our_error

logger = logging.getLogger(__name__)

LONGEST_REASON = 200
"""Characters of a runtime's complaint about a network."""

Run = Callable[[torch.Tensor], torch.Tensor]
"""Scores of windows of the shape it was made for. They may lie in memory that this thread's next run writes into."""


class HandoverError(ConfigError):
    """A runtime that is installed fails with a network; the cause is its own error."""


def prepare(name: str, network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> Run:
    """Hand a network over to a runtime.

    What comes back does not hold on to the module, so that it can be kept for as long as the module lives.

    Args:
        name: of the runtime; not ``"torch"``, which needs nothing.
        network: in evaluation mode.
        windows: an example [windows, channels, *spatial].
        dtype: what to compute in.

    Raises:
        ConfigError: the runtime is not for this, or not installed.
        HandoverError: it fails with this network.
        InputTooSmallError: the network leaves nothing of windows of this size.
    """
    reason = unfit(name, windows.device, dtype)
    if reason:
        raise ConfigError(f"runtime {name!r} {reason}")
    _check_size(network, windows)
    try:
        # Each sets its number format itself: autocast's own operations are none that other runtimes know.
        with torch.no_grad(), torch.autocast(windows.device.type, enabled=False), warnings.catch_warnings():
            # Tracing warns of every branch that sizes decide, and PyTorch of TorchScript's age.
            warnings.simplefilter("ignore")
            return _PREPARED[name](FirstOutput(network).eval(), windows.contiguous(), dtype)
    except torch.OutOfMemoryError:
        raise  # fewer windows may fit
    except Exception as error:  # each fails in ways of its own
        if our_error(error) is not None:
            raise
        said = " ".join(str(error).split())[:LONGEST_REASON]
        raise HandoverError(
            f"runtime {name!r} cannot run this network here ({type(error).__name__}: {said}): set runtime to 'torch'"
        ) from error


def missing(name: str) -> str | None:
    """Why a runtime cannot be used on this machine, as the end of a sentence; None if it is installed."""
    library = LIBRARIES[name][0] if name in LIBRARIES else ()
    if any(importlib.util.find_spec(each) is None for each in library):
        return f"is not installed: pip install 'unet-bundle[{EXTRAS[name]}]'"
    return None


def unfit(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a runtime cannot be used, as the end of a sentence; None if it can."""
    if name not in LIBRARIES:
        return None
    if device.type != "cpu":
        return f"is for the CPU, not for {device.type}: set runtime to 'torch' or 'compiled'"
    types = LIBRARIES[name][1]
    if dtype not in types:
        names = " or ".join(str(each).removeprefix("torch.") for each in types)
        return f"computes in {names} only: set precision to that"
    return missing(name)


def _check_size(network: nn.Module, windows: torch.Tensor) -> None:
    """Raise what the network would of this size: its checks are no part of what runtimes are given."""
    if isinstance(network, UNet):
        network.check_size(list(windows.shape[2:]), len(windows))
        return
    try:
        copy.deepcopy(network).to("meta")(windows.to("meta"))
    except Exception as error:
        if our_error(error) is not None:
            raise
        logger.debug("the network cannot be checked without data: %s", type(error).__name__)


def _compiled(network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> Run:
    # Modules of their own around the same weights: the network itself is not held on to.
    weights = itertools.chain(network.parameters(), network.buffers())
    own = copy.deepcopy(network, {id(each): each for each in weights})

    def forward(seen: torch.Tensor) -> Any:
        return own(seen)

    # PyTorch compiles a piece of code for eight shapes or networks and runs it uncompiled from then on; so each has
    # code of its own.
    apart = FunctionType(forward.__code__.replace(), forward.__globals__, forward.__name__, closure=forward.__closure__)
    compiled: Run = torch.compile(apart, dynamic=False)
    with autocast(windows.device, dtype):
        compiled(windows)  # it compiles when it is called; here errors are noticed
    return compiled


def _torchscript(network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> Run:
    # A weight that autocast has in its cache would be traced as another tensor than the network's.
    with autocast(windows.device, dtype, cache_enabled=False):
        traced = torch.jit.trace(network, windows, check_trace=False)
    frozen = torch.jit.freeze(traced)

    def run(seen: torch.Tensor) -> torch.Tensor:
        with torch.autocast(seen.device.type, enabled=False):  # the casts are in what was traced
            scores: torch.Tensor = frozen(seen)
            return scores

    return run


def onnx_session(model: str | bytes) -> Any:
    """ONNX Runtime's session for a model, by its path or its content, on the CPU and as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Without the reports of PyTorch's exporters, which name steps and passes."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _onnxruntime(network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> Run:
    del dtype
    with quiet_exporters():
        exported = torch.onnx.export(network, (windows,), dynamo=True, verbose=False, input_names=["image"])
    assert exported is not None  # noqa: S101  (for the type checker)
    session = onnx_session(exported.model_proto.SerializeToString())
    return lambda seen: torch.from_numpy(session.run(None, {"image": seen.contiguous().numpy()})[0])


def _openvino(network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> Run:
    from unet_bundle.inferers.openvino_model import openvino_model, openvino_run

    return openvino_run(openvino_model(network, windows), dtype)


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
