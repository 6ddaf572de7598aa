"""Whole trainings of a few seconds through the real train.json."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow


def test_probe(tiny_bundle: Path, phantom_data: Path) -> None:
    import time
    t = time.time()
    workflow = ConfigWorkflow(
        config_file=str(tiny_bundle / "configs" / "train.json"),
        workflow_type="train", logging_file=False,
        bundle_root=str(tiny_bundle), dataset_dir=str(phantom_data),
    )

    workflow.initialize()
    print("PROPS", workflow.check_properties())
    workflow.run()
    workflow.finalize()
    print(time.time() - t)
    print((tiny_bundle / "runs/fold_0/curves.csv").read_text())
    print(sorted(tiny_bundle.rglob("*")))
