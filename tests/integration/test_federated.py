"""Two hospitals train a bundle together without sharing scans, by MONAI's client for federated learning."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from unet_bundle.io import find_cases, read_dataset_json, split_cases
from unet_bundle.phantom import make_phantom, phantom_card
from unet_bundle.planning.bundle import bundle_files, write_bundle
from unet_bundle.planning.card import load_card
from unet_bundle.planning.fingerprint import measure_fingerprint
from unet_bundle.planning.plan import make_plan

pytestmark = pytest.mark.integration

Weights = dict[str, torch.Tensor]
CASES = 10
STEPS = 50
"""Of a round, which is an epoch of a client."""
ROUNDS, LAST = 16, 4
"""Of the comparison: a constant learning rate leaves the Dice of a round uncertain by 0.01, so the last few count."""
PLAN = {
    "spacing": [2.5, 2.5, 2.6],
    "patch_size": [24, 24, 24],
    "batch_size": 2,
    "network": {"channels": [8, 16, 32]},
    "mirror_axes": [],  # the phantom's organs lie on one side
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("federated") / "data", cases=CASES)


@pytest.fixture(scope="module")
def files(data: Path) -> dict[str, str]:
    """The text files of the bundle that everyone trains."""
    path = data.parent / "card.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(phantom_card()), "overrides": PLAN}))
    card = load_card(path, read_dataset_json(data))
    fingerprint = measure_fingerprint(find_cases(data), card, progress=False)
    return bundle_files(make_plan(fingerprint, card), fingerprint, card)


def overrides(data: Path, **more: Any) -> dict[str, Any]:
    quick = {"learning_rate": 0.01, "foreground_fraction": 0.6, "num_workers": 0, "val_interval": 1000}
    return {"dataset_dir": str(data), "iterations_per_epoch": STEPS, **quick, **more}


def start(bundle: Path) -> Weights:
    """The weights everyone starts from."""
    from monai.bundle import ConfigParser

    definition = json.loads((bundle / "configs" / "train.json").read_text())["network_def"]
    torch.manual_seed(0)
    network: torch.nn.Module = ConfigParser({"network": definition}).get_parsed_content("network")
    return {name: value.clone() for name, value in network.state_dict().items()}


def client(folder: Path, files: dict[str, str], data: Path, name: str, cases: list[Any], held_back: list[Any]) -> Any:
    """A hospital: a bundle of its own, and its own cases."""
    from monai.fl.client import MonaiAlgo
    from monai.fl.utils.constants import ExtraItems

    write_bundle(files, folder / name)
    own = {"train::dataset::data": cases, "validate::dataset::data": held_back}
    made = MonaiAlgo(
        bundle_root=str(folder / name),
        local_epochs=1,
        train_kwargs={**overrides(data, schedule="constant"), **own},
        eval_kwargs={"dataset_dir": str(data), "validate::dataset::data": held_back},
    )
    made.initialize(extra={ExtraItems.CLIENT_NAME: name})
    return made


def averaged(weights: Weights, differences: list[Weights]) -> Weights:
    """The next round's weights (McMahan et al. 2017, arXiv 1602.05629; all clients count alike here)."""
    return {
        name: value + torch.stack([torch.as_tensor(each[name]) for each in differences]).mean(0)
        for name, value in weights.items()
    }


def federated(clients: list[Any], weights: Weights, rounds: int) -> Weights:
    from monai.fl.utils.exchange_object import ExchangeObject

    for _ in range(rounds):
        differences = []
        for each in clients:
            each.train(ExchangeObject(weights=weights), extra={})
            differences.append(each.get_weights().weights)
        weights = averaged(weights, differences)
    return weights


def dice(one: Any, weights: Weights) -> float:
    from monai.fl.utils.exchange_object import ExchangeObject

    return float(one.evaluate(ExchangeObject(weights=weights), extra={}).metrics["val_mean_dice"])


def parts(data: Path) -> tuple[list[Any], list[Any]]:
    return split_cases(find_cases(data), 0, folds=5, subject_key=None, seed=0)


def test_two_rounds_of_two_clients_with_different_cases(files: dict[str, str], data: Path, tmp_path: Path) -> None:
    training, held_back = parts(data)
    clients = [client(tmp_path, files, data, f"hospital_{i}", training[i::2], held_back) for i in range(2)]
    weights = start(tmp_path / "hospital_0")
    after = federated(clients, weights, rounds=2)
    assert [each.trainer.state.epoch for each in clients] == [2, 2]
    changes = [max(float((each.get_weights().weights[n]).abs().max()) for n in weights) for each in clients]
    assert min(changes) > 0, "both have learnt something"
    assert any(not torch.equal(after[name], weights[name]) for name in weights)
    scores = [dice(each, after) for each in clients]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6), "the same weights on the same cases"
    for each in clients:
        each.finalize()


def dice_of_last_rounds(clients: list[Any], weights: Weights) -> float:
    """Mean Dice of the last rounds' weights on the cases held back."""
    scores = []
    for number in range(ROUNDS):
        weights = federated(clients, weights, 1)
        if number >= ROUNDS - LAST:
            scores.append(dice(clients[0], weights))
    return sum(scores) / len(scores)


def test_two_clients_reach_the_dice_of_central_training(files: dict[str, str], data: Path, tmp_path: Path) -> None:
    training, held_back = parts(data)
    central = client(tmp_path, files, data, "central", training, held_back)
    weights = start(tmp_path / "central")
    alone = dice_of_last_rounds([central], weights)
    clients = [client(tmp_path, files, data, f"hospital_{i}", training[i::2], held_back) for i in range(2)]
    together = dice_of_last_rounds(clients, weights)
    assert alone > 0.85
    assert together >= alone - 0.01
