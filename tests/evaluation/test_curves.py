"""The curves of a training."""

from pathlib import Path

import matplotlib.image
import numpy as np

from unet_bundle.evaluation.curves import training_curves


def test_curves_are_drawn_from_few_many_and_no_points(tmp_path: Path) -> None:
    many = [(step, 1 / (1 + step)) for step in range(200)]
    scalars = {"train loss": many, "lobe": many[::50], "mean Dice": many[::50], "bean": []}
    with_curves = training_curves(scalars, tmp_path / "curves.png", "Training", colors={"lobe": (255, 0, 0)})
    without = training_curves({}, tmp_path / "none.png")
    red, green, blue = np.moveaxis(matplotlib.image.imread(with_curves)[..., :3], -1, 0)
    assert ((red > 0.8) & (green < 0.2) & (blue < 0.2)).any(), "the chosen colour is there"
    assert without.is_file()
