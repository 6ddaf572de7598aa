"""Pictures of the worst cases: which are drawn, and that the scan lies where the label map is."""

from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest

from unet_bundle.evaluation.worst import WorstCases, _on_grid
from unet_bundle.phantom import LABELS, phantom_case

SCORES = {"good": 0.9, "empty": None, "bad": 0.2, "fair": 0.6, "poor": 0.4}


def offered(count: int) -> WorstCases:
    image, label, affine = phantom_case(0, 1)
    worst = WorstCases(LABELS, count)
    for name, score in SCORES.items():
        worst.offer(name, score, (image, affine), (label, affine), np.roll(label, 2, axis=0))
    return worst


@pytest.mark.parametrize(("count", "expected"), [(0, []), (2, ["bad", "poor"]), (9, ["bad", "poor", "fair", "good"])])
def test_the_lowest_scores_are_drawn_in_their_order(count: int, expected: list[str], tmp_path: Path) -> None:
    report = {"worst": expected, "cases": {name: {"lobe": 0.5, "bean": None, "vessel": 0.1} for name in SCORES}}
    offered(count).draw(tmp_path, report)
    names = [f"worst_{rank}_{name}.png" for rank, name in enumerate(expected, start=1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_process_draws_only_what_it_has_seen(tmp_path: Path) -> None:
    cases = {name: {"lobe": 0.5} for name in [*SCORES, "elsewhere"]}
    offered(2).draw(tmp_path, {"worst": ["elsewhere", "bad"], "cases": cases})
    assert [path.name for path in tmp_path.iterdir()] == ["worst_2_bad.png"]


def test_cuts_do_not_hold_on_to_the_volumes() -> None:
    (_, views), *_ = offered(1)._kept.values()
    arrays = [array for view in views for array in (view.image, view.truth, view.prediction)]
    assert all(array is not None and array.base is None for array in arrays)


@pytest.mark.parametrize("codes", ["LPS", "SAL", "PIR"])
def test_an_image_that_was_turned_lies_under_its_label_again(codes: str) -> None:
    image, _, affine = phantom_case(0, 1)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    turned = nib.Nifti1Image(image, affine).as_reoriented(turn)
    back = _on_grid(np.asarray(turned.dataobj), turned.affine, image, affine)
    assert np.abs(back - image).max() < 1e-2 * np.ptp(image)


def test_an_image_of_other_spacing_lies_under_its_label() -> None:
    ramp = np.arange(40.0)[:, None] + np.zeros((40, 30))  # 2D, 1 mm
    back = _on_grid(ramp, np.eye(4), np.zeros((19, 30)), np.diag([2.0, 1.0, 1.0, 1.0]))
    assert back.shape == (19, 30)
    assert back[:, 0] == pytest.approx(np.arange(19) * 2.0)


def test_the_colours_of_the_task_card_are_those_of_the_picture(tmp_path: Path) -> None:
    image, label, affine = phantom_case(0, 1)
    pictures = {}
    for name, color in {"magenta": (255, 0, 255), "green": (0, 255, 0)}.items():
        worst = WorstCases({"organ": 1}, 1, {"organ": color})
        worst.offer("case", 0.5, (image, affine), (label, affine), label)
        worst.draw(tmp_path / name, {"worst": ["case"], "cases": {"case": {"organ": 0.5}}})
        pictures[name] = matplotlib.image.imread(tmp_path / name / "worst_1_case.png")[..., :3]
    excess = {name: picture[..., 1] - picture[..., [0, 2]].max(axis=-1) for name, picture in pictures.items()}
    assert (excess["green"] > 0.3).sum() > 500
    assert (excess["magenta"] > 0.3).sum() == 0
