"""Augmentation on the device: the same patches as in the loader."""

import pickle
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.transforms import AsDiscreted, Compose, RandAdjustContrastd, RandGaussianNoised, RandGaussianSmoothd

from unet_bundle.training import PrepareBatch, TrainStep, collate
from unet_bundle.transforms import RandIntensityd, RandSpatiald

PATCH = (12, 16, 10)


def chain(*, deferred: bool) -> tuple[RandSpatiald, RandIntensityd]:
    spatial = RandSpatiald(
        ["image", "label"], PATCH, mode=["bilinear", "nearest"], elastic_sd=2.0, elastic_spacing=8.0, elastic_prob=0.5,
        rotate_range=[30.0] * 3, rotate_prob=0.5, zoom_range=[0.7, 1.4], zoom_prob=0.5, flip_axes=[0, 1, 2],
        swapped_labels=[(1, 2)], deferred=deferred,
    )  # fmt: skip
    intensity = RandIntensityd(
        [
            RandGaussianNoised("image", prob=0.5, std=0.3),
            RandGaussianSmoothd("image", prob=0.5),
            RandAdjustContrastd("image", prob=0.5, gamma=[0.7, 1.5], retain_stats=True),
        ],
        deferred=deferred,
    )
    return spatial, intensity


def scans() -> list[dict[str, Any]]:
    torch.manual_seed(0)
    shapes = [(30, 26, 22), (9, 40, 12), (18, 16, 31)]
    return [
        {"image": torch.rand(2, *shape), "label": torch.randint(0, 3, (1, *shape)).to(torch.uint8)} for shape in shapes
    ]


def batch(seed: int, *, deferred: bool) -> Any:
    spatial, intensity = chain(deferred=deferred)
    samples = []
    for number, scan in enumerate(scans()):
        spatial.set_random_state(seed + number)
        intensity.set_random_state(seed + number)
        samples.append(intensity(spatial(scan)))
    return collate(samples)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(5))
def test_patches_are_the_same_wherever_they_are_computed(seed: int, device: str) -> None:
    prepare = PrepareBatch(*chain(deferred=True))
    image, label = prepare(batch(seed, deferred=False), torch.device("cpu"))
    sent = pickle.loads(pickle.dumps(batch(seed, deferred=True)))  # noqa: S301  (as a worker of the loader sends it)
    image_there, label_there = prepare(sent, torch.device(device), non_blocking=True)
    assert image_there.device.type == label_there.device.type == device
    assert image_there.shape == (3, 2, *PATCH)
    assert torch.allclose(image_there.cpu(), image, atol=1e-3)
    assert (label_there.cpu() != label).float().mean() < (1e-3 if device == "cuda" else 1e-9)


def test_a_trainer_takes_what_is_deferred() -> None:
    """Through MONAI's engine, which takes its batch apart into cases, and a loader with a worker."""
    spatial, intensity = chain(deferred=True)
    chained = Compose([spatial, intensity])
    loader = DataLoader(Dataset(scans(), chained), batch_size=3, collate_fn=collate, num_workers=1)
    network = torch.nn.Conv3d(2, 3, 1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
        prepare_batch=PrepareBatch(spatial, intensity),
        iteration_update=TrainStep(),
        postprocessing=AsDiscreted("pred", argmax=True),
    )
    trainer.run()
    assert trainer.state.iteration == 2
    assert [case["image"].shape for case in trainer.state.batch] == [(2, *PATCH)] * 3


@pytest.mark.parametrize("deferred", [True, False])
def test_weights_travel_to_the_loss_with_their_labels(deferred: bool) -> None:
    """Weights that are a function of the label stay one: drawn, deformed and mirrored alike, wherever it is done."""
    spatial = RandSpatiald(
        ["image", "label", "label_weight"], PATCH, mode=["bilinear", "nearest", "nearest"], elastic_prob=1.0,
        rotate_range=[30.0] * 3, rotate_prob=1.0, flip_axes=[0, 1, 2], deferred=deferred,
    )  # fmt: skip
    _, intensity = chain(deferred=deferred)
    cases = [{**scan, "label_weight": scan["label"].float() * 2 + 1} for scan in scans()]
    seen: list[torch.Tensor] = []

    def loss(logits: torch.Tensor, label: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.append(weights)
        inside = weights > 0
        assert inside.any()
        assert torch.equal(weights[inside], label[inside] * 2.0 + 1)
        return logits.square().mean()

    network = torch.nn.Conv3d(2, 3, 1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=DataLoader(Dataset(cases, Compose([spatial, intensity])), batch_size=3, collate_fn=collate),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=loss,
        prepare_batch=PrepareBatch(spatial, intensity, weight_key="label_weight"),
        iteration_update=TrainStep(),
    )
    trainer.run()
    assert [weights.shape for weights in seen] == [(3, 1, *PATCH)]


def test_only_what_a_patch_needs_is_sent() -> None:
    spatial, _ = chain(deferred=True)
    scan = {"image": torch.rand(1, 90, 90, 90), "label": torch.zeros(1, 90, 90, 90, dtype=torch.uint8)}
    sent = spatial.set_random_state(0)(scan)
    assert sent["image"].untyped_storage().nbytes() < scan["image"].untyped_storage().nbytes() / 4


def test_reduced_precision_does_not_move_voxels() -> None:
    prepare = PrepareBatch(*chain(deferred=True))
    image, label = prepare(batch(0, deferred=True), torch.device("cpu"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again, label_again = prepare(batch(0, deferred=True), torch.device("cpu"))
    assert again.dtype == torch.float32
    assert torch.allclose(again, image, atol=1e-5)
    assert torch.equal(label_again, label)


def test_batches_of_others_are_only_moved() -> None:
    stacked = {"image": torch.rand(2, 1, 4, 4), "label": torch.zeros(2, 1, 4, 4)}
    image, label = PrepareBatch(*chain(deferred=True))(stacked, torch.device("cpu"))
    assert torch.equal(image, stacked["image"])
    assert torch.equal(label, stacked["label"])
