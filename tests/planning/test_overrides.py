"""Values that a task card sets in place of planned ones."""

import pytest

from unet_bundle.errors import ConfigError
from unet_bundle.planning.overrides import SET_IN_CARD, Choices


def test_takes_the_stated_value_and_says_so(make_card):
    choices = Choices(make_card(overrides={"batch_size": 3}), 3)
    assert choices.take("batch_size", 9, "planned") == 3
    assert choices.take("max_epochs", 200, "planned") == 200
    assert choices.reasons == {"batch_size": SET_IN_CARD, "max_epochs": "planned"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"batchsize": 4}, "unknown name 'batchsize': did you mean 'batch_size'"),
        ({"folds": 3}, "is a key of the card itself"),
        ({"network": {"droput": 0.1}}, "unknown argument 'droput': did you mean 'dropout'"),
        ({"network": {"out_channels": 3}}, "the data set decides it"),
        ({"network": [1]}, "'argument: value' lines"),
        ({"spacing": [1.0, 1.0]}, "a list of 3 lengths in mm"),
        ({"spacing": [1.0, 1.0, 0]}, "a list of 3 lengths in mm"),
        ({"patch_size": [32, 32, 32.5]}, "a list of 3 whole numbers"),
        ({"batch_size": 0}, "at least 1, not 0"),
        ({"batch_size": True}, "at least 1"),
        ({"normalization": [{"scheme": "minmax"}]}, "a list of 1 of {scheme: zscore"),
        (
            {"normalization": [{"scheme": "ct", "lower": 0, "upper": 1, "mean": 0, "std": 0}]},
            "a list of 1 of {scheme: zscore",
        ),
        ({"mirror_axes": [0, 0]}, "different axes"),
        ({"mirror_axes": [3]}, "from 0 to 2"),
        ({"elastic_prob": 1.5}, "from 0 to 1"),
        ({"elastic_spacing": 0}, "above 0"),
        ({"overlap": 1}, "below 1"),
        ({"foreground_fraction": 1.5}, "from 0 to 1"),
        ({"learning_rate": float("nan")}, "above 0"),
        ({"learning_rate": "1e-3"}, "above 0, not '1e-3'"),
    ],
)
def test_refuses_what_is_unknown_or_cannot_be_right(make_card, overrides, message):
    with pytest.raises(ConfigError, match=message) as refused:
        Choices(make_card(overrides=overrides), 3)
    assert "task card" in str(refused.value)
