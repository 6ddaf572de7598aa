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

# Runs in a process of its own: imports and warms up, then measures how far the resident memory rises. A fixed threshold
# has the C library return freed tensors at once; by default it keeps pieces of them, and the peak varies by 30 %.
MEASURE = """
import json, sys
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

arguments, patch, batch, precision, training = json.loads(sys.argv[1])
torch.set_num_threads(1)
dtype = getattr(torch, precision)
loss_function = DeepSupervisionLoss(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True))
step(*case({**arguments, "channels": [4] * len(arguments["channels"])}, 1, [40] * len(patch)), dtype)
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
network, optimizer, image, label = case(arguments, batch, patch)
for _ in range(2):
    if training:
        step(network, optimizer, image, label, dtype)
    else:
        with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            network.eval()(image)
print(resident("VmHWM") - before)
"""


def measured_peak(patch, batch, precision, *, training, arguments=HIPPOCAMPUS):
    specification = json.dumps([arguments, patch, batch, precision, training])
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, specification],
        capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(SOURCE), "PATH": "", "MALLOC_MMAP_THRESHOLD_": "1048576"},
    )  # fmt: skip
    if "clear_refs" in result.stderr:
        pytest.skip("this machine does not let a process reset its own peak")
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


linux_only = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="measures peaks through Linux's /proc"
)


@linux_only
@pytest.mark.parametrize(("batch", "precision"), [(2, "float32"), (3, "bfloat16")])
def test_forecast_of_training_is_within_a_quarter_of_the_measured_peak(batch, precision):
    peak = measured_peak(PATCH, batch, precision, training=True)
    assert training_memory_bytes(HIPPOCAMPUS, PATCH, batch, precision) == pytest.approx(peak, rel=0.25)


@linux_only
@pytest.mark.parametrize(
    ("change", "patch", "batch"),
    [
        pytest.param(
            {"encoder": "residual", "convolutions_per_stage": [1, 3, 4, 6], "decoder_convolutions_per_stage": 1},
            PATCH, 2, id="residual",
        ),
        pytest.param({"spatial_dims": 2, "strides": 2}, [256, 256], 4, id="2D"),
        pytest.param(
            {"strides": [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]],
             "kernel_sizes": [[3, 3, 1], [3, 3, 1], [3, 3, 3], [3, 3, 3]]},
            [96, 96, 12], 2, id="anisotropic",
        ),
    ],
)  # fmt: skip
def test_forecast_holds_for_every_kind_of_network(change, patch, batch):
    arguments = HIPPOCAMPUS | change
    peak = measured_peak(patch, batch, "float32", training=True, arguments=arguments)
    assert training_memory_bytes(arguments, patch, batch) == pytest.approx(peak, rel=0.25)


@pytest.mark.parametrize("patch", [[40, 56, 40], [64, 64, 64], [41, 57, 39]])
def test_counting_once_for_all_patches_is_exact(patch):
    assert count_feature_maps(HIPPOCAMPUS, patch) == _count(json.dumps(HIPPOCAMPUS), tuple(patch))


@linux_only
def test_forecast_of_inference_is_within_a_quarter_of_the_measured_peak():
    peak = measured_peak([64, 64, 64], 2, "float32", training=False)
    assert inference_memory_bytes(HIPPOCAMPUS, [64, 64, 64], 2) == pytest.approx(peak, rel=0.25)


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
