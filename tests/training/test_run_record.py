import json
from typing import Any

import pytest
import torch

from unet_bundle.training import RunRecord, make_optimizer, run_record


def record(**changes: Any) -> RunRecord:
    optimizer = make_optimizer([torch.nn.Parameter(torch.ones(1))], changes.pop("name", "AdamW"), 0.1, 0.01)
    cases = [[{"image": f"/data/images/{name}.nii.gz"} for name in part] for part in (("MEIER", "b"), ("c",))]
    settings = {"fold": 0, "seed": 0, "batch_size": 2, "training": cases[0], "validation": cases[1]}
    return RunRecord(**{**settings, **changes}, optimizer=optimizer)


def test_a_record_is_plain_and_names_no_case() -> None:
    state = record().state_dict()
    assert json.loads(json.dumps(state)) == state
    assert "MEIER" not in str(state)
    assert "/data" not in str(state)
    assert record().differences(state) == []


def test_cases_count_by_name_and_order_and_not_by_the_folder_they_lie_in() -> None:
    state = record().state_dict()
    moved = [{"image": "elsewhere/MEIER.nii.gz"}, {"image": "elsewhere/b.nii.gz"}]
    assert record(training=moved).differences(state) == []
    assert record(training=moved[::-1]).differences(state) == ["other training cases"]
    assert record(training=moved[:1]).differences(state) == ["other training cases"]
    assert record(validation=[]).differences(state) == ["other validation cases"]


def test_each_difference_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    state = record().state_dict()
    assert record(fold=1, seed=7, name="SGD").differences(state) == [
        "fold 0 (here 1)", "seed 0 (here 7)", "optimizer AdamW (here SGD)",
    ]  # fmt: skip
    monkeypatch.setattr(run_record, "number_of_processes", lambda: 2)
    assert record().differences(state) == ["processes 1 (here 2)"]
    assert record(seed=7).differences({}) == []
