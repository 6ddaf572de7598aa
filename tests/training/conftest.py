from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.losses import DeepSupervisionLoss, DiceCELoss
from monai.transforms import AsDiscreted, Compose, NormalizeIntensityd

from unet_bundle.evaluation import MeanDice
from unet_bundle.io import LoadImaged, find_cases
from unet_bundle.networks import UNet
from unet_bundle.training import EvaluationStep, TrainStep

CLASSES = 4
Item = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def patches(phantom_data: Path) -> list[Item]:
    """Three small patches of the phantom with organs in them, as plain tensors."""
    load = Compose([LoadImaged(["image", "label"]), NormalizeIntensityd("image")])
    items = [load(case) for case in find_cases(phantom_data)[:3]]
    return [{key: item[key].as_tensor()[:, 20:52, 20:52, 4:20] for key in ("image", "label")} for item in items]


@pytest.fixture
def make_network() -> Callable[..., UNet]:
    """A function that makes the same small network each time."""

    def make(*, deep_supervision: bool = True, dropout: float = 0.0, **settings: Any) -> UNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return UNet(
                spatial_dims=3,
                in_channels=1,
                out_channels=CLASSES,
                **{
                    "channels": [4, 8, 8],
                    "kernel_sizes": [[3, 3, 3]] * 3,
                    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
                    **settings,
                },
                deep_supervision=deep_supervision,
                dropout=dropout,
            )

    return make


@pytest.fixture
def make_trainer() -> Callable[..., SupervisedTrainer]:
    """A function from a network and patches to MONAI's trainer with our step; one patch is one iteration."""

    def make(network: UNet, items: Sequence[Item], step: TrainStep, *, lr: float = 0.01, **more: Any) -> Any:
        return SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=more.pop("max_epochs", 1),
            train_data_loader=DataLoader(items, batch_size=1),
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), lr),
            loss_function=DeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True)),
            iteration_update=step,
            decollate=False,
            **more,
        )

    return make


@pytest.fixture
def make_evaluator() -> Callable[..., SupervisedEvaluator]:
    """A function from a network and patches to the validation a bundle's train.json has."""

    def make(network: UNet, items: Sequence[Item], step: EvaluationStep | None = None) -> SupervisedEvaluator:
        return SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(items, batch_size=1),
            network=network,
            iteration_update=step or EvaluationStep(),
            postprocessing=Compose([AsDiscreted("pred", argmax=True)]),
            key_val_metric={"val_mean_dice": MeanDice(CLASSES)},
        )

    return make


@pytest.fixture
def train_parser(tiny_bundle: Path, phantom_data: Path) -> Callable[..., ConfigParser]:
    """A function from overrides to the parsed train.json of a fresh tiny bundle."""

    def parse(**overrides: Any) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config(str(tiny_bundle / "configs" / "train.json"))
        parser.update({"bundle_root": str(tiny_bundle), "dataset_dir": str(phantom_data), **overrides})
        return parser

    return parse
