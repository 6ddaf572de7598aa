"""Pictures are read back as pixels: what they show, and in which proportions."""

import threading
from pathlib import Path

import matplotlib.image
import numpy as np
import numpy.typing as npt
import pytest

from unet_bundle.evaluation.picture import overlay_picture
from unet_bundle.phantom import LABELS, phantom_case

COLORS = {"lobe": (255, 0, 0), "bean": (0, 255, 0), "vessel": (0, 0, 255)}


def _reddish(path: Path) -> npt.NDArray[np.bool_]:
    """Pixels clearly more red than green and blue, legend left out."""
    pixels = matplotlib.image.imread(path)[:-80, :, :3]
    return (pixels[..., 0] > pixels[..., 1] + 0.15) & (pixels[..., 0] > pixels[..., 2] + 0.15)


def _rows_and_columns(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    return int(mask.any(axis=1).sum()), int(mask.any(axis=0).sum())


def test_a_phantom_is_drawn_in_every_colour_over_grey(tmp_path: Path) -> None:
    image, label, affine = phantom_case(0, 1)
    path = overlay_picture(
        image, label, label, LABELS, tmp_path / "new" / "case.png", "case", affine=affine, colors=COLORS,
        dice={"lobe": 1.0, "bean": 0.5, "vessel": float("nan")},
    )  # fmt: skip
    pixels = matplotlib.image.imread(path)[:-80, :, :3]
    for channel in range(3):
        others = [other for other in range(3) if other != channel]
        coloured = (pixels[..., channel] > pixels[..., others].max(axis=-1) + 0.15).mean()
        assert coloured > 0.002
    upper, lower = np.array_split(_reddish(path), 2)
    assert not upper.any(), "the upper row is the scan alone"
    assert lower.any()


@pytest.mark.parametrize("drawn", ["truth", "prediction"])
def test_proportions_follow_the_spacing(tmp_path: Path, drawn: str) -> None:
    """A ball of 20 mm on voxels of 1 x 2 x 4 mm is as wide as it is high in all three cuts."""
    affine = np.diag([1.0, 2.0, 4.0, 1.0])
    x, y, z = np.meshgrid(np.arange(60), np.arange(30) * 2, np.arange(15) * 4, indexing="ij")
    ball = ((x - 30) ** 2 + (y - 30) ** 2 + (z - 30) ** 2 < 20**2).astype(np.uint8)
    truth, prediction = (ball, None) if drawn == "truth" else (None, ball)
    noise = np.random.default_rng(0).normal(size=ball.shape)
    path = overlay_picture(
        noise, truth, prediction, {"ball": 1}, tmp_path / "ball.png", affine=affine, colors={"ball": (255, 0, 0)}
    )
    red = _reddish(path)
    gaps = np.flatnonzero(np.diff(red.any(axis=0).astype(int)))
    assert len(gaps) == 6, "three balls side by side"
    for start, stop in zip(gaps[::2], gaps[1::2], strict=True):
        height, width = _rows_and_columns(red[:, start : stop + 1])
        assert width == pytest.approx(height, rel=0.12)


def test_a_flat_image_is_upright_and_shown_twice(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(120, 60))
    label = np.zeros(image.shape, np.uint8)
    label[:30, :30] = 1  # left, top
    path = overlay_picture(image, None, label, {"corner": 1}, tmp_path / "flat.png", colors={"corner": (255, 0, 0)})
    red = np.argwhere(_reddish(path))
    height, width = matplotlib.image.imread(path).shape[:2]
    assert red[:, 0].mean() < 0.4 * height
    assert 0.5 * width < red[:, 1].min()
    assert red[:, 1].max() < 0.66 * width


@pytest.mark.parametrize("shape", [(40, 40, 1), (200, 200, 2), (3, 3, 90)])
def test_extreme_shapes_constant_and_missing_values_are_drawn(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.full(shape, 5.0)
    image[0, 0] = np.nan
    path = overlay_picture(image, np.zeros(shape), None, {"organ": 1}, tmp_path / "odd.png")
    height, width = matplotlib.image.imread(path).shape[:2]
    assert height < 1600
    assert width < 1600


def test_a_scan_alone_needs_no_label(tmp_path: Path) -> None:
    image, _, affine = phantom_case(0, 1)
    assert overlay_picture(image, None, None, LABELS, tmp_path / "scan.png", affine=affine).is_file()


def test_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"prediction has shape \(4, 5, 7\), the image \(4, 5, 6\)"):
        overlay_picture(np.zeros((4, 5, 6)), None, np.zeros((4, 5, 7)), {"a": 1}, tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"\(2, 4, 5, 6\)"):
        overlay_picture(np.zeros((2, 4, 5, 6)), None, None, {"a": 1}, tmp_path / "x.png")
    assert not any(tmp_path.iterdir())


def test_a_picture_can_be_drawn_in_a_thread(tmp_path: Path) -> None:
    image, label, affine = phantom_case(0, 2)
    thread = threading.Thread(
        target=overlay_picture, args=(image, label, label, LABELS, tmp_path / "t.png"), kwargs={"affine": affine}
    )
    thread.start()
    thread.join()
    assert (tmp_path / "t.png").is_file()


def test_colours_are_shown_where_the_label_map_is_flat(tmp_path: Path) -> None:
    image = np.zeros((40, 30, 3))
    image[:20, :, 0] = 1.0
    label = np.zeros((40, 30), np.uint8)
    path = overlay_picture(image, label, None, {"cell": 1}, tmp_path / "colour.png")
    rows, columns = _rows_and_columns(_reddish(path))
    assert rows > 50
    assert columns > 50
