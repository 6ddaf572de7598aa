"""evaluate.json over train.json scores the bundle's weights, never those a network starts with."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.evaluation import run_evaluator
from unet_bundle.runtime import our_error


def over_training(bundle: Path, data: Path) -> Any:
    files = [str(bundle / "configs" / name) for name in ("train.json", "evaluate.json")]
    places = {"bundle_root": str(bundle), "dataset_dir": str(data)}
    made = ConfigWorkflow(files, workflow_type="train", logging_file=False, **places)
    made.initialize()
    return made


def test_over_train_json_the_weights_are_loaded(tiny_bundle: Path, phantom_data: Path) -> None:
    made = over_training(tiny_bundle, phantom_data)
    network = made.parser.get_parsed_content("network")
    weights = {name: torch.full_like(value, 0.01) for name, value in network.state_dict().items()}
    torch.save(weights, tiny_bundle / "models" / "model.pt")
    made.run()
    assert all((value == 0.01).all() for value in network.state_dict().values())
    assert "val_mean_dice" in made.parser.get_parsed_content("validate::evaluator").state.metrics


def test_missing_weights_are_refused(tiny_bundle: Path, phantom_data: Path) -> None:
    shutil.rmtree(tiny_bundle / "models")
    with pytest.raises(RuntimeError) as caught:
        over_training(tiny_bundle, phantom_data).run()
    error = our_error(caught.value)
    assert isinstance(error, CheckpointError)
    assert "models/model.pt is missing" in str(error)


def test_without_a_workflow_there_is_nothing_to_run() -> None:
    with pytest.raises(ConfigError, match="is run by"):
        run_evaluator()
