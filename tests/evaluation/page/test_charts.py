"""Charts: round numbers on their axes, and every point inside the frame."""

import re

import numpy as np
import pytest

from unet_bundle.evaluation.page.charts import HEIGHT, WIDTH, Series, line_chart, scatter, score_range, strips, ticks


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-0.73, 1.12), (1.0, 155.0), (0.0, 3e-4), (12.0, 90_000.0)])
def test_ticks_are_few_round_and_inside(bounds: tuple[float, float]) -> None:
    found = ticks(*bounds)
    steps = np.diff(found)
    assert 3 <= len(found) <= 9
    assert np.allclose(steps, steps[0])
    assert bounds[0] <= found[0] <= found[-1] <= bounds[1] * (1 + 1e-9)
    assert float(f"{steps[0]:.2g}") == pytest.approx(steps[0])


@pytest.mark.parametrize("values", [[0.5], [1.0, -3.0, 2.0], [0.0] * 4, list(np.linspace(0, 1e-4, 60))])
def test_lines_stay_inside_their_frame(values: list[float]) -> None:
    svg = line_chart([Series("fold 0", list(enumerate(values, start=1)))], "loss", "epoch")
    (path,) = re.findall(r'class="line" points="([^"]*)"', svg)
    x, y = np.array([point.split(",") for point in path.split()], dtype=float).T
    assert ((x >= 0) & (x <= WIDTH)).all()
    assert ((y >= 0) & (y <= HEIGHT)).all()


def test_equal_values_lie_on_the_line_of_equality() -> None:
    svg = scatter([Series("organ", [(1.0, 1.0), (4.0, 4.0)], names=["a", "b"])], "volumes", "true", "predicted")
    (guide,) = re.findall(r'class="guide" points="([^"]*)"', svg)
    (x0, y0), (x1, y1) = (tuple(map(float, point.split(","))) for point in guide.split())
    for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg):
        assert (float(x) - x0) / (x1 - x0) == pytest.approx((float(y) - y0) / (y1 - y0), abs=2e-3)
    assert "<title>a</title>" in svg


def test_a_row_has_a_dot_a_case_and_its_median() -> None:
    svg = strips({"organ": Series("organ", [(0.9, 0.0), (0.5, 0.0), (0.7, 0.0)], names=["a", "b", "c"])}, "Dice")
    dots = sorted(float(x) for x in re.findall(r'class="dot" cx="([\d.]+)"', svg))
    (median,) = re.findall(r'class="median" x1="([\d.]+)"', svg)
    assert float(median) == dots[1]


@pytest.mark.parametrize(("lowest", "start"), [(0.83, 0.7), (0.8, 0.7), (0.31, 0.2), (0.2, 0.0), (0.0, 0.0)])
def test_an_axis_of_scores_hides_no_poor_one(lowest: float, start: float) -> None:
    assert score_range([0.95, lowest]) == (pytest.approx(start), 1.0)
