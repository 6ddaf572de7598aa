from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.labeling.segmenting import ServedBundle
from unet_bundle.predictor import Predictor


@pytest.fixture
def scan(phantom_data: Path) -> str:
    return str(min((phantom_data / "imagesTr").iterdir()))


def draw_weights(bundle: Path, seed: int, scale: float = 1.0) -> None:
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    torch.manual_seed(seed)
    state = parser.get_parsed_content("network_def").state_dict()
    (bundle / "models").mkdir(exist_ok=True)
    torch.save({name: value * scale for name, value in state.items()}, bundle / "models" / f"model{seed}.tmp")
    (bundle / "models" / f"model{seed}.tmp").replace(bundle / "models" / "model.pt")


def test_without_weights_it_says_so(tiny_bundle: Path, scan: str) -> None:
    bundle = ServedBundle(tiny_bundle)
    assert not bundle.is_trained
    for ask in (bundle.segment, bundle.uncertainty):
        with pytest.raises(CheckpointError, match="there is no model yet"):
            ask(scan)


def test_new_weights_are_served_at_once(tiny_bundle: Path, scan: str) -> None:
    bundle = ServedBundle(tiny_bundle)
    found = []
    for seed in (1, 2):
        draw_weights(tiny_bundle, seed)
        labels = bundle.segment(scan).numpy()
        np.testing.assert_array_equal(labels, Predictor(tiny_bundle)(scan).numpy())
        found.append(labels)
    assert not np.array_equal(*found)


def test_what_a_client_sends_is_never_run(tiny_bundle: Path, scan: str, tmp_path: Path) -> None:
    draw_weights(tiny_bundle, 1)
    bundle = ServedBundle(tiny_bundle)
    made = tmp_path / "made"
    component = {"_target_": "os.mkdir", "path": str(made)}
    for sent in (f"$__import__('os').mkdir({str(made)!r})", component, [component], "@network", "%train.json"):
        with pytest.raises(ConfigError, match="overlap must be a number"):
            bundle.segment(scan, options={"overlap": sent})
    assert not made.exists()


def test_uncertainty_leaves_the_network_for_labels_as_it_is(tiny_bundle: Path, scan: str) -> None:
    draw_weights(tiny_bundle, 1)
    bundle = ServedBundle(tiny_bundle)
    before = bundle.segment(scan).numpy()
    assert 0 < bundle.uncertainty(scan, passes=2) <= 1
    np.testing.assert_array_equal(bundle.segment(scan).numpy(), before)


def test_members_that_contradict_each_other_are_more_uncertain_than_each(tiny_bundle: Path, scan: str) -> None:
    draw_weights(tiny_bundle, 1)
    weights: dict[str, Any] = torch.load(tiny_bundle / "models" / "model.pt", weights_only=True)
    heads = [name for name in weights if name.startswith("heads.")]
    for place, name in enumerate(("a.pt", "b.pt"), 1):
        sure = {key: value * 0 if key in heads else value for key, value in weights.items()}
        for key in heads:
            if key.endswith("bias"):
                sure[key][place] = 20.0
        torch.save(sure, tiny_bundle / "models" / name)
    alone = ServedBundle(tiny_bundle)
    alone.config["ensemble"] = ["models/a.pt"]
    both = ServedBundle(tiny_bundle)
    both.config["ensemble"] = ["models/a.pt", "models/b.pt"]
    assert alone.uncertainty(scan) < 0.01
    assert both.uncertainty(scan) > 0.3
