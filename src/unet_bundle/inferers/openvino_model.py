"""A network as a model of OpenVINO; where it computes in bfloat16, both ends of the network stay precise.

Of bfloat16's error in the labels of a U-Net nearly all comes from its ends: from the first convolution, whose weights
and voxels are rounded to 8 bits while neighbouring tissues differ by a few percent, and from the last ones, whose
rounded results are the scores that are compared. They are a small part of the work.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import openvino
import torch
from openvino import opset13
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import nn

CONVOLUTION = "Convolution"
LAST_CONVOLUTIONS = 2
"""That stay precise: the one that gives the scores, and the one before it."""


def openvino_model(network: nn.Module, windows: torch.Tensor) -> openvino.Model:
    """Convert a network, for windows of one shape.

    By the front end itself: ``openvino.convert_model`` reports its use over the network, and takes six times as long.

    Args:
        network: in evaluation mode, with one output.
        windows: an example [windows, channels, *spatial].
    """
    traced = torch.jit.trace(network, windows, check_trace=False)
    front_end = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # has to live as long as it is converted
    model = front_end.convert(front_end.load(decoder))
    model.reshape(list(windows.shape))
    return model


_core_lock = threading.Lock()


def openvino_core() -> openvino.Core:
    """One for the process, for good.

    Each sets up a stack for signals and, when it goes, brings back the one before: of several that one may be gone, and
    the next signal ends the process (seen with OpenVINO 2026.4).
    """
    with _core_lock:
        return _core()


@functools.cache
def _core() -> openvino.Core:
    return openvino.Core()


def openvino_run(model: openvino.Model, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """What gives a model's scores of windows, in memory that this thread's next run writes into.

    Args:
        model: for windows of one shape.
        dtype: what to compute in; with bfloat16 the ends are precise, see `with_precise_ends`.
    """
    model, split = with_precise_ends(model) if dtype == torch.bfloat16 else (model, False)
    settings = {
        "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino_core().compile_model(model, "CPU", settings)
    requests = threading.local()  # a request is one thread's

    def run(windows: torch.Tensor) -> torch.Tensor:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        seen = (precise_input(windows) if split else windows).contiguous()
        found = requests.own.infer([seen.numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(found[0])

    return run


def with_precise_ends(model: openvino.Model) -> tuple[openvino.Model, bool]:
    """The model for bfloat16, with its last convolutions in float32 and a first one that only rounds its sums.

    OpenVINO computes in float32 what stands behind the last convolution; a transposed one does not count as one there,
    and with its kernel turned round it is the same. The first one's voxels and weights are not rounded, see
    `precise_input`; its result is, which counts where an image's mean is large beside its spread.

    Returns:
        The model, and whether it takes what `precise_input` makes of windows.
    """
    level = [model.get_results()[0].input_value(0)]
    for _ in range(LAST_CONVOLUTIONS):
        found = list(_convolutions_before(level))
        level = [each.input_value(0) for each in found]
        for convolution in found:
            _turn_round(convolution)
    return _with_split_input(model)


def precise_input(windows: torch.Tensor) -> torch.Tensor:
    """Windows with channels that bfloat16 holds without loss: three times as many, [windows, 3 * channels, *spatial].

    Rounded voxels, what rounding left over, and the rounded voxels again; the model's weights are to match: rounded
    ones for the first two, and what rounding left over of them for the third.
    """
    high = _rounded(windows)
    return torch.cat([high, windows - high, high], dim=1)


def _with_split_input(model: openvino.Model) -> tuple[openvino.Model, bool]:
    (parameter,) = model.get_parameters()
    users = [each.get_node() for each in parameter.output(0).get_target_inputs()]
    if len(users) != 1 or not _is_plain(users[0]):
        return model, False
    (convolution,) = users
    weights = torch.from_numpy(np.array(convolution.input_value(1).get_node().data))
    high = _rounded(weights)
    split = opset13.constant(torch.cat([high, high, weights - high], dim=1).numpy())
    shape = list(parameter.get_output_shape(0))
    entering = opset13.parameter([shape[0], 3 * shape[1], *shape[2:]], openvino.Type.f32, name="windows")
    settings = convolution.get_attributes()
    new = opset13.convolution(
        entering, split, settings["strides"], settings["pads_begin"], settings["pads_end"], settings["dilations"]
    )
    _replace(convolution, new)
    return openvino.Model(model.get_results(), [entering]), True


def _convolutions_before(outputs: list[Any]) -> Iterator[Any]:
    """The next convolutions towards the input, each once."""
    waiting, seen = [output.get_node() for output in outputs], set()
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        if node.get_type_name() == CONVOLUTION:
            yield node
        else:
            waiting += [each.get_source_output().get_node() for each in node.inputs()]


def _is_plain(node: Any) -> bool:
    """Whether it is a convolution with padding that is stated and weights that are constant."""
    return bool(
        node.get_type_name() == CONVOLUTION
        and node.get_attributes()["auto_pad"] == "explicit"
        and node.input_value(1).get_node().get_type_name() == "Constant"
    )


def _turn_round(convolution: Any) -> None:
    """Put a transposed convolution in the place of one, if it has steps of one voxel."""
    if not _is_plain(convolution):
        return
    settings = convolution.get_attributes()
    if {*settings["strides"], *settings["dilations"]} != {1}:
        return
    weights = np.array(convolution.input_value(1).get_node().data)  # [leaving, entering, *kernel]
    axes = tuple(range(2, weights.ndim))
    turned = np.ascontiguousarray(np.flip(weights, axes).swapaxes(0, 1))
    kernel = weights.shape[2:]
    begin, end = (
        [side - 1 - pad for side, pad in zip(kernel, settings[key], strict=True)] for key in ("pads_begin", "pads_end")
    )
    if min(begin + end) < 0:
        return
    new = opset13.convolution_backprop_data(
        convolution.input_value(0), opset13.constant(turned), settings["strides"], pads_begin=begin, pads_end=end
    )
    _replace(convolution, new)


def _replace(old: Any, new: Any) -> None:
    for target in old.output(0).get_target_inputs():
        target.replace_source_output(new.output(0))


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.bfloat16).to(torch.float32)
