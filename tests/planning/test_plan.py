"""The plan: nnU-Net's choices for known data sets, pure, explained, and open to the card's own values."""

import dataclasses
import json
from pathlib import Path

import pytest

from unet_bundle.errors import ConfigError
from unet_bundle.networks import UNet
from unet_bundle.planning.card import load_card
from unet_bundle.planning.memory import training_memory_bytes
from unet_bundle.planning.plan import make_plan
from unet_bundle.planning.targets import TARGETS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HIPPOCAMPUS = ([36, 50, 35], [1.0, 1.0, 1.0])
PLAIN = {"network": {"encoder": "plain"}}
SPLEEN = ([187, 512, 512], [1.6, 0.79, 0.79])


@pytest.mark.parametrize("memory", TARGETS)
def test_the_hippocampus_has_the_topology_of_nnunet(make_fingerprint, make_card, memory):
    plan = make_plan(make_fingerprint(*HIPPOCAMPUS, num_cases=260), make_card(), memory)
    assert plan.patch_size == [40, 56, 40]
    assert plan.network["channels"] == [32, 64, 128, 256]
    assert plan.network["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert plan.network["kernel_sizes"] == [[3, 3, 3]] * 4
    # Nine patches are 5 % of the 260 cases of the whole data set, as in nnU-Net's plan.
    assert plan.batch_size == (2 if memory == "cpu" else 9)
    UNet(**plan.network)


@pytest.mark.parametrize(
    ("shape", "spacing", "patch_size"),
    [
        pytest.param([138, 170, 138], [1.0, 1.0, 1.0], [128, 128, 128], id="brain tumour"),
        pytest.param([115, 320, 232], [1.37, 1.25, 1.25], [80, 192, 160], id="heart"),
        pytest.param([482, 512, 512], [1.0, 0.7676, 0.7676], [128, 128, 128], id="liver"),
        pytest.param([20, 320, 320], [3.6, 0.625, 0.625], [20, 320, 256], id="prostate"),
        pytest.param([252, 512, 512], [1.245, 0.785, 0.785], [80, 192, 160], id="lung"),
        pytest.param([96, 512, 512], [2.5, 0.8027, 0.8027], [40, 224, 224], id="pancreas"),
        pytest.param(*SPLEEN, [64, 192, 160], id="spleen"),
    ],
)
def test_patches_for_8gb_are_those_of_nnunet_for_the_decathlon(make_fingerprint, make_card, shape, spacing, patch_size):
    plan = make_plan(make_fingerprint(shape, spacing), make_card(overrides=PLAIN), "8GB")
    assert plan.patch_size == patch_size
    assert plan.batch_size == 2


@pytest.mark.parametrize("memory", TARGETS)
def test_a_large_scan_fits_the_memory(make_fingerprint, make_card, memory):
    plan = make_plan(make_fingerprint(*SPLEEN), make_card(modality="CT"), memory)
    target = TARGETS[memory]
    assert plan.memory_bytes <= target.budget
    assert plan.memory_bytes == training_memory_bytes(plan.network, plan.patch_size, plan.batch_size, target.precision)
    total = UNet(**plan.network).total_stride
    assert all(edge % stride == 0 for edge, stride in zip(plan.patch_size, total, strict=True))


def test_more_memory_sees_more(make_fingerprint, make_card):
    voxels = []
    for memory in TARGETS:
        plan = make_plan(make_fingerprint(*SPLEEN), make_card(), memory)
        voxels.append(plan.batch_size * plan.patch_size[0] * plan.patch_size[1] * plan.patch_size[2])
    assert voxels == sorted(voxels)
    assert len(set(voxels)) == len(voxels)


def test_planes_are_planned_by_the_same_rules(make_fingerprint, make_card):
    plan = make_plan(make_fingerprint([360, 360], [1.0, 1.0]), make_card(), "8GB")
    assert plan.spatial_dims == 2
    assert plan.patch_size == [384, 384]
    assert plan.network["channels"] == [32, 64, 128, 256, 512, 512, 512]
    assert plan.mirror_axes == [0, 1]


def test_the_same_bytes_every_time(make_fingerprint, make_card):
    def text():
        plan = make_plan(make_fingerprint(*SPLEEN, labels=("background", "organ")), make_card(), "8GB")
        return json.dumps(dataclasses.asdict(plan))

    assert text() == text()


def test_a_fingerprint_that_went_through_json_gives_the_same_plan(make_fingerprint, make_card):
    fingerprint = make_fingerprint(*HIPPOCAMPUS)
    assert make_plan(json.loads(json.dumps(fingerprint)), make_card()) == make_plan(fingerprint, make_card())


def test_every_choice_has_a_reason(make_fingerprint, make_card):
    plan = make_plan(make_fingerprint(*SPLEEN), make_card(), "cpu")
    chosen = {
        "spacing", "orientation", "patch_size", "batch_size", "normalization", "mirror_axes", "foreground_fraction",
        "overlap", "iterations_per_epoch", "max_epochs", "val_interval", "learning_rate", "memory_bytes",
        "configuration", "num_workers", "elastic_prob", "elastic_sd", "elastic_spacing",
    }  # fmt: skip
    arguments = {f"network.{name}" for name in plan.network} - {
        "network.spatial_dims", "network.in_channels", "network.out_channels",
    }  # fmt: skip
    assert set(plan.reasons) == chosen | arguments
    assert all(reason and "\n" not in reason for reason in plan.reasons.values())
    assert "more steps per minute" in plan.reasons["batch_size"]


def test_ct_is_clipped_and_scaled_by_the_foreground_of_the_data_set(make_fingerprint, make_card):
    plan = make_plan(make_fingerprint(*SPLEEN), make_card(modality="CT"))
    assert plan.normalization == [{"scheme": "ct", "lower": -41.0, "upper": 176.0, "mean": 99.29, "std": 39.37}]
    assert make_plan(make_fingerprint(*SPLEEN), make_card()).normalization == [{"scheme": "zscore"}]


def test_pairs_turn_off_mirroring_across_left_and_right(make_fingerprint, make_card):
    labels = {"background": 0, "left lung": 1, "right lung": 2}
    fingerprint = make_fingerprint(*HIPPOCAMPUS, labels=tuple(labels))
    plan = make_plan(fingerprint, make_card(labels, left_right_pairs=[["left lung", "right lung"]]))
    assert plan.mirror_axes == [1, 2]
    assert "'left lung'" in plan.reasons["mirror_axes"]
    assert make_plan(fingerprint, make_card(labels)).mirror_axes == [0, 1, 2]


def test_what_depends_on_a_stated_value_follows_it(make_fingerprint, make_card):
    fingerprint = make_fingerprint(*HIPPOCAMPUS)
    plan = make_plan(fingerprint, make_card(overrides={"spacing": [2.0, 1.0, 1.0], "batch_size": 5}))
    assert plan.median_shape == [18, 50, 35]
    assert plan.patch_size == [20, 56, 40]
    assert plan.network["kernel_sizes"][0] == [1, 3, 3]
    assert plan.reasons["spacing"] == plan.reasons["batch_size"] == "set in the task card"
    narrow = make_plan(fingerprint, make_card(overrides={"network": {"channels": [8, 16, 32, 64], "dropout": 0.2}}))
    assert narrow.network["channels"] == [8, 16, 32, 64]
    assert narrow.reasons["network.dropout"] == "set in the task card"
    assert narrow.memory_bytes < plan.memory_bytes


def test_a_stated_batch_makes_the_patch_fit(make_fingerprint, make_card):
    planned = make_plan(make_fingerprint(*SPLEEN), make_card(), "8GB")
    stated = make_plan(make_fingerprint(*SPLEEN), make_card(overrides={"batch_size": 8}), "8GB")
    assert stated.memory_bytes <= TARGETS["8GB"].budget
    assert stated.patch_size < planned.patch_size


def test_a_stated_patch_that_no_gpu_of_that_size_holds_is_refused(make_fingerprint, make_card):
    card = make_card(overrides={"patch_size": [256, 256, 256]})
    with pytest.raises(ConfigError, match=r"2 patches of 256 x 256 x 256 .* needs \d+\.\d\d GiB but 5\.76 GiB"):
        make_plan(make_fingerprint([300, 300, 300], [1.0, 1.0, 1.0]), card, "8GB")


def test_a_stated_patch_beyond_the_budget_of_a_cpu_is_slow_but_no_error(make_fingerprint, make_card):
    fingerprint = make_fingerprint([300, 300, 300], [1.0, 1.0, 1.0])
    plan = make_plan(fingerprint, make_card(overrides={"patch_size": [128, 128, 128]}))
    assert plan.memory_bytes > TARGETS["cpu"].budget
    assert "this is more, so that steps are slow" in plan.reasons["memory_bytes"]
    assert "this is more" not in make_plan(fingerprint, make_card()).reasons["memory_bytes"]


def test_a_stated_residual_encoder_is_counted_too(make_fingerprint, make_card):
    fingerprint = make_fingerprint(*HIPPOCAMPUS)
    residual = make_plan(fingerprint, make_card(overrides={"network": {"encoder": "residual"}}))
    assert residual.memory_bytes > make_plan(fingerprint, make_card()).memory_bytes


def test_strides_in_short_form_are_spelled_out(make_fingerprint, make_card):
    network = {"channels": [8, 16, 32], "strides": 2, "kernel_sizes": 3}
    plan = make_plan(make_fingerprint(*HIPPOCAMPUS), make_card(overrides={"network": network}))
    assert plan.network["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    assert plan.patch_size == [36, 52, 36]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patch_size": [40, 56, 36]}, r"not divisible by the network's total strides: set \[40, 56, 40\]"),
        ({"network": {"channels": [32, 64]}}, "stages disagree .channels: 2, kernel_sizes: 4, strides: 4"),
        ({"network": {"dropout": 2}}, "dropout must be a probability"),
        ({"network": {"encoder": "dense"}, "patch_size": [40, 56, 40]}, "encoder must be one of"),
        ({"max_epochs": 10, "val_interval": 20}, "val_interval 20 is more than max_epochs 10"),
        ({"network": {"channels": [4000, 4000], "strides": 1, "kernel_sizes": 3}}, "no smaller patch is possible"),
    ],
)
def test_refuses_values_that_contradict_each_other(make_fingerprint, make_card, overrides, message):
    with pytest.raises(ConfigError, match=message) as refused:
        make_plan(make_fingerprint(*HIPPOCAMPUS), make_card(overrides=overrides))
    assert "task card" in str(refused.value)


def test_a_short_training_is_validated_at_its_end(make_fingerprint, make_card):
    plan = make_plan(make_fingerprint(*HIPPOCAMPUS), make_card(overrides={"max_epochs": 2}))
    assert plan.val_interval == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 0}, "has format 0"),
        ({"num_channels": 2}, "has 2 channels"),
        ({"labels": {"background": {}, "liver": {}}}, "has the labels"),
        ({"num_subjects": 3}, "set 'folds: 3' or less"),
        ({"num_subjects": 1}, "add scans of other subjects"),
        ({"num_subjects": 50}, "100 cases of 50 subjects but the task card states no subject"),
    ],
)
def test_refuses_a_card_that_does_not_fit_the_fingerprint(make_fingerprint, make_card, change, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(make_fingerprint(*HIPPOCAMPUS) | change, make_card())


def test_refuses_memory_it_does_not_know(make_fingerprint, make_card):
    with pytest.raises(ConfigError, match="'12GB' is unknown: it must be one of cpu, 8GB"):
        make_plan(make_fingerprint(*HIPPOCAMPUS), make_card(), "12GB")


def test_the_card_and_fingerprint_of_the_hippocampus_plan_without_the_scans():
    fingerprint = json.loads((CONFIGS / "hippocampus.fingerprint.json").read_text(encoding="utf-8"))
    plan = make_plan(fingerprint, load_card(CONFIGS / "hippocampus.yaml", {}))
    assert plan.patch_size == [40, 56, 40]
    assert plan.batch_size == 2
    assert plan.labels == {"background": 0, "anterior": 1, "posterior": 2}
    assert plan.subject_key == "(number - 1) // 2"
