from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from unet_bundle.errors import ConfigError
from unet_bundle.evaluation import SaveVolumes

LABELS = {"background": 0, "vessel": 2, "lobe": 1}


def measured(folder: Path, *items: MetaTensor, labels: dict[str, int] | None = None) -> list[str]:
    """Lines of the file after a run over `items`."""
    handler = SaveVolumes(labels or LABELS, str(folder))
    engine: Any = SimpleNamespace(state=SimpleNamespace(output=[{"pred": item} for item in items]))
    handler._start(engine)
    handler._measure(engine)
    return (folder / "volumes.csv").read_text().splitlines()


def label_map(name: str, shape: tuple[int, ...], affine: np.ndarray, **voxels: int) -> MetaTensor:
    flat = np.zeros(int(np.prod(shape)), np.float32)
    for offset, (value, count) in enumerate(voxels.items()):
        flat[offset * 50 : offset * 50 + count] = int(value.removeprefix("of_"))
    return MetaTensor(
        torch.from_numpy(flat.reshape(1, *shape)), affine=affine, meta={"filename_or_obj": f"/x/{name}.nii.gz"}
    )


def test_volumes_are_in_ml_on_the_scans_own_grid_also_an_oblique_one(tmp_path: Path):
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    oblique = np.eye(4)
    oblique[:3, :3] = turn @ np.diag([0.5, 2.0, 4.0])  # 4 mm³
    assert measured(tmp_path, label_map("b", (10, 10, 5), oblique, of_1=30, of_2=7)) == [
        "case,label,volume_ml,voxels",
        "b,lobe,0.120000,30",
        "b,vessel,0.028000,7",
    ]


def test_planes_have_an_area(tmp_path: Path):
    affine = np.diag([0.5, 0.5, 1.0])
    assert measured(tmp_path, label_map("p", (20, 10), affine, of_2=8)) == [
        "case,label,area_mm2,voxels",
        "p,lobe,0.000000,0",
        "p,vessel,2.000000,8",
    ]


def test_pictures_have_an_area_in_pixels(tmp_path: Path):
    item = label_map("p", (20, 10), np.eye(3), of_2=8)
    item.meta["filename_or_obj"] = "/x/p.png"
    assert measured(tmp_path, item) == ["case,label,area_px,voxels", "p,lobe,0.000000,0", "p,vessel,8.000000,8"]


def test_rows_of_other_scans_stay_and_the_same_scan_is_replaced(tmp_path: Path):
    shape = (10, 10, 5)
    measured(tmp_path, label_map("b", shape, np.eye(4), of_1=3), label_map("c, d", shape, np.eye(4), of_1=4))
    lines = measured(tmp_path, label_map("b", shape, np.eye(4), of_1=9), label_map("a", shape, np.eye(4), of_2=1))
    assert [line.rsplit(",", 2)[0] for line in lines[1:]] == [
        "a,lobe", "a,vessel", "b,lobe", "b,vessel", '"c, d",lobe', '"c, d",vessel'
    ]  # fmt: skip
    assert lines[3] == "b,lobe,0.009000,9"
    assert [path.name for path in tmp_path.iterdir()] == ["volumes.csv"]


def test_units_are_not_mixed_in_one_file(tmp_path: Path):
    measured(tmp_path, label_map("a", (10, 10, 5), np.eye(4), of_1=3))
    before = (tmp_path / "volumes.csv").read_bytes()
    with pytest.raises(ConfigError, match="has volume_ml, but p needs area_mm2"):
        measured(tmp_path, label_map("p", (20, 10), np.eye(3), of_2=8))
    assert (tmp_path / "volumes.csv").read_bytes() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_any_type_of_label_map_is_counted(dtype: torch.dtype, tmp_path: Path):
    item = label_map("a", (10, 10, 5), np.eye(4), of_1=12)
    assert measured(tmp_path, item.to(dtype))[1] == "a,lobe,0.012000,12"


def test_regions_are_measured_of_a_label_map_or_of_their_channels(tmp_path: Path):
    regions = {"both": [1, 2], "vessel": [2]}
    item = label_map("a", (10, 10, 5), np.eye(4), of_1=12, of_2=5)
    channels = MetaTensor(torch.cat([item > 0, item == 2]), meta=dict(item.meta))
    for pred in (item, channels):
        handler = SaveVolumes(LABELS, str(tmp_path), regions)
        engine: Any = SimpleNamespace(state=SimpleNamespace(output=[{"pred": pred}]))
        handler._start(engine)
        handler._measure(engine)
        lines = (tmp_path / "volumes.csv").read_text().splitlines()[1:]
        assert lines == ["a,both,0.017000,17", "a,vessel,0.005000,5"]
