"""Weights of other networks as a start: what is taken, what is adapted, what is refused."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.networks import UNet
from unet_bundle.training import Pretrained
from unet_bundle.training.pretrained import fit_weights, state_dict_of
from unet_bundle.training.trained_cases import Origin, write_trained_cases

CLASSES = ["background", "lobe", "bean", "vessel"]


def network_of(seed: int, **settings: Any) -> UNet:
    torch.manual_seed(seed)
    arguments = {"in_channels": 1, "out_channels": 4, "channels": [4, 8, 8], "deep_supervision": True, **settings}
    return UNet(spatial_dims=3, **arguments).eval()


def start(network: UNet, source: Path, bundle: Path, epoch: int = 0, **more: Any) -> None:
    """What happens when a training starts."""
    handler = Pretrained(network, str(source), str(bundle), **more)
    handler(SimpleNamespace(state=SimpleNamespace(epoch=epoch)))  # type: ignore[arg-type]


def make_bundle(folder: Path, network: UNet, classes: list[str], modality: str = "CT", **config: Any) -> Path:
    """A trained bundle, as far as its weights and its configs say what they are for."""
    channels = {
        "inputs": {"image": {"channel_def": {str(i): modality for i in range(network.in_channels)}}},
        "outputs": {"pred": {"channel_def": {str(i): name for i, name in enumerate(classes)}}},
    }
    for name, content in {"metadata": {"network_data_format": channels}, "inference": config}.items():
        path = folder / "configs" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (folder / "models").mkdir()
    torch.save({k: v.half() for k, v in network.state_dict().items()}, folder / "models" / "model.pt")
    return folder


@pytest.mark.parametrize("wrapped", [lambda s: s, lambda s: {"network": s, "epoch": 3}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_same_network_gives_the_same_logits(wrapped: Callable[[Any], Any], prefix: str, tmp_path: Path) -> None:
    network, other = network_of(0), network_of(1)
    torch.save(wrapped({prefix + name: value for name, value in other.state_dict().items()}), tmp_path / "weights.pt")
    start(network, tmp_path / "weights.pt", tmp_path / "bundle")
    image = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(network(image), other(image))


def test_nothing_is_loaded_into_a_run_that_goes_on(tmp_path: Path) -> None:
    torch.save(network_of(1).state_dict(), tmp_path / "weights.pt")
    for more in ({"resume": True}, {"epoch": 2}):
        network = network_of(0)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        start(network, tmp_path / "weights.pt", tmp_path, **more)  # type: ignore[arg-type]
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_an_image_repeated_in_all_channels_gives_the_logits_it_gave(encoder: str) -> None:
    one, three = network_of(0, encoder=encoder), network_of(1, in_channels=3, encoder=encoder)
    image = torch.randn(1, 1, 16, 16, 16)
    fit = fit_weights(three, one.state_dict())
    assert list(fit.adapted) == ["encoder.0.0.convolution.weight"]
    assert fit.new == []
    three.load_state_dict(fit.state)
    torch.testing.assert_close(three(image.expand(1, 3, 16, 16, 16)), one(image), rtol=1e-4, atol=1e-5)
    back = fit_weights(one, three.state_dict())
    torch.testing.assert_close(back.state, one.state_dict(), rtol=1e-5, atol=1e-6)


def test_classes_of_the_same_name_keep_their_logits_wherever_they_stand() -> None:
    other, network = network_of(0), network_of(1, out_channels=3)
    fresh = network.state_dict()["heads.0.weight"][2].clone()
    fit = fit_weights(network, other.state_dict(), ["background", "Bean", "artery"], CLASSES)
    network.load_state_dict(fit.state)
    image = torch.randn(1, 1, 16, 16, 16)
    torch.testing.assert_close(network(image)[:, :2], other(image)[:, [0, 2]], rtol=1e-5, atol=1e-6)
    assert torch.equal(network.heads[0].weight[2], fresh), "a class that is new starts anew"  # type: ignore[index]
    assert {name for name in fit.adapted if name.endswith("weight")} == {"heads.0.weight", "heads.1.weight"}


def test_heads_of_other_classes_are_new_where_names_are_not_known() -> None:
    fit = fit_weights(network_of(1, out_channels=3), network_of(0).state_dict())
    assert sorted(fit.new) == [f"heads.{i}.{part}" for i in (0, 1) for part in ("bias", "weight")]
    assert not fit.adapted
    assert 0.9 < fit.share < 1


def test_one_line_each_says_what_was_taken_adapted_and_is_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = make_bundle(tmp_path / "other", network_of(0), CLASSES, spacing=[1.0, 1.0, 1.0], orientation="RAS")
    network = network_of(1, in_channels=2, out_channels=2)
    here = make_bundle(tmp_path / "here", network, ["background", "spleen"], modality="MR")
    with caplog.at_level(logging.INFO):
        start(network, source, here, inputs={"spacing": [2.0, 2.0, 2.0], "orientation": "RAS"})
    lines = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("Pretrained models/model.pt: ") for line in lines) == 1
    assert (
        sum(line.startswith("Adapted: encoder.0.0.convolution.weight (the mean over 1 channel") for line in lines) == 1
    )
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [
        "spacing is [2.0, 2.0, 2.0] here, but [1.0, 1.0, 1.0] in the bundle of the pretrained weights.",
        "modality is ['MR', 'MR'] here, but ['CT'] in the bundle of the pretrained weights.",
    ]
    image = torch.randn(1, 2, 16, 16, 16)
    assert torch.isfinite(network(image)).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing: give a file of weights"),
        ({"epoch": 3}, "holds no state dict"),
        ({f"model.{i}.weight": torch.zeros(4, 4, 3, 3, 3) for i in range(3)}, "none of its 3 tensors"),
        ({"encoder.0.0.norm.weight": torch.ones(4)}, "none of its 1 tensors"),
    ],
)
def test_what_cannot_be_a_start_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    network = network_of(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    if content is not None:
        torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=words):
        start(network, tmp_path / "weights.pt", tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_of_the_same_bundle_that_saw_the_validation_cases_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle(tmp_path / "bundle", network_of(0), CLASSES)
    cases = [{"image": "somewhere/a.nii.gz"}]
    write_trained_cases(bundle / "models" / "model.pt", 0, cases)
    with pytest.raises(ConfigError, match="was trained on 1 of the 2 validation cases"):
        start(network_of(1), bundle, bundle, validated_on=[*cases, {"image": "b.nii.gz"}])
    start(network_of(1), bundle, bundle, validated_on=[{"image": "b.nii.gz"}])
    caplog.clear()
    start(network_of(1), bundle, tmp_path / "another", validated_on=cases)  # names may be alike by chance
    assert "or on others of these names" in caplog.text


def test_a_state_dict_keeps_its_names_where_only_some_have_the_prefix() -> None:
    content = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert set(state_dict_of(content, "x")) == {"module.a", "b"}


def test_cases_of_equal_names_may_be_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = make_bundle(tmp_path / "other", network_of(0), CLASSES)
    cases = [{"image": "case_001.nii.gz"}]
    write_trained_cases(other / "models" / "model.pt", 0, cases)
    for choice, known in (("same", 1), ("other", 0)):
        caplog.clear()
        origin = Origin()
        start(network_of(1), other, tmp_path / "own", validated_on=cases, origin=origin, cases=choice)
        assert len(origin.hashes) == known
        assert origin.complete
        assert ("set pretrained_cases to other" in caplog.text) == (known == 1)
    with pytest.raises(ConfigError, match=r"^pretrained_cases must be same or other, not 'none'\.$"):
        start(network_of(1), other, tmp_path / "own", cases="none")
