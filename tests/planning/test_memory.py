"""The forecast of memory against what torch keeps and what the process really takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unet_bundle.errors import ConfigError
from unet_bundle.networks import UNet
from unet_bundle.planning.memory import _count, count_feature_maps, inference_memory_bytes, training_memory_bytes

PATCH = [40, 56, 40]
HIPPOCAMPUS = {
    "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [32, 64, 128, 256],
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]], "deep_supervision": True,
}  # fmt: skip
SOURCE = Path(__file__).resolve().parents[2] / "src"

CASES = {
    "plain": ({}, PATCH, 2, "float32", True),
    "bfloat16": ({}, PATCH, 2, "bfloat16", True),
    "residual": (
        {"encoder": "residual", "convolutions_per_stage": [1, 3, 4, 6], "decoder_convolutions_per_stage": 1},
        [32, 40, 32], 2, "float32", True,
    ),
    "2D": ({"spatial_dims": 2, "strides": 2}, [192, 192], 4, "float32", True),
    "anisotropic": (
        {
            "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]],
            "kernel_sizes": [[3, 3, 1], [3, 3, 1], [3, 3, 3], [3, 3, 3]],
        },
        [80, 80, 12], 2, "float32", True,
    ),
    "inference": ({}, [56, 56, 56], 2, "float32", False),
}  # fmt: skip
"""Changes of the network, patch, batch, precision, and whether it trains."""

# Runs in a process of its own, which forks one for each case: libraries are imported once, and how far the resident
# memory rises above that is measured in the fork. A fixed threshold has the C library return freed tensors at once; by
# default it keeps pieces of them, and the peak varies by 30 %.
MEASURE = """
import json, os, sys
from pathlib import Path
import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss
from unet_bundle.networks import UNet

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def step(network, optimizer, image, label, dtype):
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        outputs = network(image)
    loss_function([output.float() for output in outputs], label).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)

def case(arguments, batch, patch):
    network = UNet(**arguments).train()
    image = torch.randn(batch, arguments["in_channels"], *patch)
    label = torch.randint(arguments["out_channels"], (batch, 1, *patch)).float()
    return network, torch.optim.AdamW(network.parameters()), image, label

def peak(arguments, patch, batch, precision, training):
    dtype = getattr(torch, precision)
    step(*case({**arguments, "channels": [4] * len(arguments["channels"])}, 1, [16] * len(patch)), dtype)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    network, optimizer, image, label = case(arguments, batch, patch)
    for _ in range(2 if training else 1):
        if training:
            step(network, optimizer, image, label, dtype)
        else:
            with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                network.eval()(image)
    return resident("VmHWM") - before

torch.set_num_threads(1)
loss_function = DeepSupervisionLoss(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True))
for name, specification in json.loads(sys.argv[1]).items():
    if os.fork() == 0:
        print(name, peak(*specification), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(1)
"""


@pytest.fixture(scope="module")
def peaks():
    """Bytes that each of `CASES` really takes."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peaks are measured through Linux's /proc")
    specifications = {name: (HIPPOCAMPUS | change, *rest) for name, (change, *rest) in CASES.items()}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, json.dumps(specifications)],
        capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(SOURCE), "PATH": "", "MALLOC_MMAP_THRESHOLD_": "1048576"},
    )  # fmt: skip
    if "clear_refs" in result.stderr:
        pytest.skip("this machine does not let a process reset its own peak")
    assert result.returncode == 0, result.stderr
    return {name: int(peak) for name, peak in map(str.split, result.stdout.splitlines())}


@pytest.mark.parametrize("name", CASES)
def test_the_forecast_is_within_a_quarter_of_the_measured_peak(peaks, name):
    change, patch, batch, precision, training = CASES[name]
    forecast = training_memory_bytes if training else inference_memory_bytes
    assert forecast(HIPPOCAMPUS | change, patch, batch, precision) == pytest.approx(peaks[name], rel=0.25)


@pytest.mark.parametrize("patch", [[40, 56, 40], [64, 64, 64], [41, 57, 39]])
def test_counting_once_for_all_patches_is_exact(patch):
    assert count_feature_maps(HIPPOCAMPUS, patch) == _count(json.dumps(HIPPOCAMPUS), tuple(patch))


def kept_by_autograd(arguments, patch):
    """Elements that autograd saves for the backward pass, each storage once, weights not counted."""
    with torch.device("meta"):
        network = UNet(**arguments).train()
        image = torch.empty(1, arguments["in_channels"], *patch)
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:
            saved[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = network(image)
    del outputs
    return sum(tensor.numel() for tensor in saved.values())


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"encoder": "residual"},
        {"norm": "none"},
        {"downsampling": "max_pool"},
        {"upsampling": "interpolated"},
        {"channels": [[8, 16], [16, 32], [32, 64], [64, 64]]},
        {"kernel_sizes": [[3, 3, 1], 3, 3, 3], "strides": [1, [2, 2, 1], 2, 2]},
        {"spatial_dims": 2, "strides": 2},
    ],
    ids=lambda change: "-".join(change) or "hippocampus",
)
def test_counts_the_maps_that_autograd_keeps(change):
    arguments = HIPPOCAMPUS | change
    patch = PATCH[: arguments["spatial_dims"]]
    assert count_feature_maps(arguments, patch).kept == pytest.approx(kept_by_autograd(arguments, patch), rel=0.02)


def test_memory_grows_with_patch_batch_classes_and_precision():
    base = training_memory_bytes(HIPPOCAMPUS, PATCH, 2)
    assert training_memory_bytes(HIPPOCAMPUS, [48, 56, 40], 2) > base
    assert training_memory_bytes(HIPPOCAMPUS, PATCH, 3) > base
    assert training_memory_bytes(HIPPOCAMPUS | {"out_channels": 118}, PATCH, 2) > base
    assert training_memory_bytes(HIPPOCAMPUS, PATCH, 2, "bfloat16") < base
    assert inference_memory_bytes(HIPPOCAMPUS, PATCH, 2) < base


def test_refuses_a_precision_it_does_not_know():
    with pytest.raises(ConfigError, match="'int8' is unknown"):
        training_memory_bytes(HIPPOCAMPUS, PATCH, 2, "int8")
