"""Small cases are run together; what is broken among them is left behind alone."""

import logging
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import Dataset, MetaTensor

from unet_bundle import stages
from unet_bundle.cli import main
from unet_bundle.cli.batches import CaseBatches
from unet_bundle.inferers import ScanInferer, SlabInferer

SIDES = {"a": 8, "b": 8, "broken": 0, "c": 8, "d": 8, "e": 9, "f": 9, "large": 40, "g": 9}


def reading(item: dict[str, Any]) -> dict[str, Any]:
    side = SIDES[item["image"]]
    if not side:
        raise ValueError("damaged")
    return {"image": torch.full((1, side, side), float(ord(item["image"][0]))), "name": item["image"]}


def taken(batches: CaseBatches) -> list[list[str]]:
    """The names of all batches; those that could not be read in brackets."""
    found = []
    while batches:
        try:
            batch = next(iter(batches))
        except RuntimeError:  # of MONAI, round the one below
            found.append([f"({name})" for name in batches.names])
            continue
        assert batch["name"] == batches.names
        assert [chr(int(image.mean())) for image in batch["image"]] == [name[0] for name in batches.names]
        found.append(batches.names)
    return found


def data(**settings: Any) -> CaseBatches:
    return CaseBatches(Dataset([{"image": name} for name in SIDES], reading), ScanInferer((16, 16), **settings))


def test_cases_that_are_small_and_alike_come_together_and_in_order() -> None:
    batches = [["a", "b"], ["(broken)"], ["c", "d"], ["e", "f"], ["large"], ["g"]]
    assert taken(data(sw_batch_size=3)) == batches
    assert taken(data(sw_batch_size=1)) == [[name] for batch in batches for name in batch]


def test_cases_whose_scans_or_metadata_differ_are_not_run_together() -> None:
    scans = [((8, 8), {}), ((8, 8), {}), ((9, 8), {}), ((9, 8), {"sform_code": 2}), ((9, 8), {"sform_code": 2})]

    def prepared(item: dict[str, Any]) -> dict[str, Any]:
        shape, notes = scans[int(item["image"])]
        return {"image": MetaTensor(torch.zeros(1, 8, 8), meta={"spatial_shape": np.array(shape), **notes})}

    batches = CaseBatches(Dataset([{"image": str(number)} for number in range(5)], prepared), ScanInferer((16, 16), 4))
    sizes = []
    while batches:
        next(batches)
        sizes.append(batches.names)
    assert sizes == [["0", "1"], ["2"], ["3", "4"]]


def test_other_inferers_see_one_case_at_a_time() -> None:
    batches = CaseBatches(Dataset([{"image": "a"}, {"image": "b"}], reading), SlabInferer((16, 16), sw_batch_size=4))
    assert taken(batches) == [["a"], ["b"]]


def test_the_cases_of_a_broken_batch_come_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unet_bundle")
    batches = data(sw_batch_size=2)
    assert next(batches)["name"] == ["a", "b"]
    batches.again_singly()
    assert taken(batches) == [["a"], ["b"], ["(broken)"], ["c", "d"], ["e", "f"], ["large"], ["g"]]
    assert caplog.messages[-1] == "9 of 9: g"


def test_a_result_that_cannot_be_written_leaves_the_others_of_its_batch_alone(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = sorted(scans.iterdir())
    for copy in ("x", "y"):
        (scans / f"{copy}.nii.gz").write_bytes(second.read_bytes())
    alone, together = tmp_path / "alone", tmp_path / "together"
    words = ["predict", str(bundle), str(scans)]
    window = ["--patch_size", "[64,64,64]"]
    assert main([*words, str(alone), *window]) == 0
    (together / "x_seg.nii.gz" / "in the way").mkdir(parents=True)
    assert main([*words, str(together), "--overwrite", "--sw_batch_size", "3", *window]) == 1
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert lines[-2].startswith("3 of 4 scans segmented")
    assert lines[-1].startswith("  refused: x: ")
    for path in (first, second, scans / "y.nii.gz"):
        name = path.name.replace(".nii.gz", "_seg.nii.gz")
        made, wanted = (np.asarray(nib.load(folder / name).dataobj) for folder in (together, alone))
        assert np.mean(made == wanted) > 0.9999


def test_small_cases_are_read_while_others_run_and_no_case_is_read_after_a_large_one() -> None:
    seen: list[str] = []

    def noted(item: dict[str, Any]) -> dict[str, Any]:
        seen.append(item["image"])
        return {"image": torch.zeros(1, 40 if "large" in item["image"] else 8, 8)}

    names = ["a", "b", "c", "d", "large", "large 2", "e"]
    batches = CaseBatches(Dataset([{"image": name} for name in names], noted), ScanInferer((16, 16), sw_batch_size=2))
    read = []
    while batches:
        next(batches)
        if batches._ahead is not None:
            batches._ahead.result()
        read.append((batches.names, list(seen)))
    assert read[0] == (["a", "b"], names[:4])
    assert read[1] == (["c", "d"], names[:5])  # one large scan, and no second one beside it
    assert read[2] == (["large"], names[:5])
    assert seen == names


def test_what_reading_ahead_took_counts_to_the_batch_that_was_read() -> None:
    def slow(item: dict[str, Any]) -> dict[str, Any]:
        with stages.stage("read"):
            time.sleep(0.02)
        return {"image": torch.zeros(1, 8, 8), "name": item["image"]}

    batches = CaseBatches(Dataset([{"image": name} for name in "abcd"], slow), ScanInferer((16, 16), sw_batch_size=2))
    for _ in range(2):
        stages.begin()
        next(batches)
        assert stages.seconds("read") >= 0.04
    stages.end()
