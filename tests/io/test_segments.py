"""Classes of a label map as segments."""

import numpy as np
import pytest

from unet_bundle.errors import ConfigError
from unet_bundle.io.segments import segments_of, values_in

LABELS = np.array([[[0, 1], [2, 2]]], np.uint8)


def test_without_a_description_values_are_names():
    assert [(each.name, each.value) for each in segments_of(None, LABELS)] == [("label 1", 1), ("label 2", 2)]


def test_the_order_is_that_of_the_values_and_absent_ones_stay():
    described = {"c": {"value": 3}, "a": {"value": 1}, "b": {"value": 2}}
    assert [each.name for each in segments_of(described, LABELS)] == ["a", "b", "c"]


def test_colours_that_nobody_chose_differ():
    described = {f"s{value}": {"value": value} for value in range(1, 40)}
    assert len({each.color for each in segments_of(described, LABELS)}) == 39


@pytest.mark.parametrize("value", [0, -1, 1.0, True, None, 70000])
def test_values_that_cannot_be_are_refused(value):
    with pytest.raises(ConfigError, match="must be a whole number from 1 to 65535"):
        segments_of({"a": {"value": value}}, LABELS)


def test_two_of_one_value_are_refused():
    with pytest.raises(ConfigError, match="two segments have the same value"):
        segments_of({"a": {"value": 1}, "b": {"value": 1}, "c": {"value": 2}}, LABELS)


def test_values_are_found_in_any_type():
    assert values_in(LABELS.astype(np.uint16) * 300) == {300, 600}
    assert values_in(np.zeros((0, 2, 2), np.uint8)) == set()
