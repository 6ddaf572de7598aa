"""Air round a body is cut away, on a real CT, and comes back as background."""

from collections.abc import Callable
from pathlib import Path

import torch
from monai.transforms import CropForegroundd

from unet_bundle.inferers import ScanInferer
from unet_bundle.io import LoadImaged
from unet_bundle.transforms import is_above


def test_labels_inside_the_body_stay_where_they_are(shared_data: Callable[[str], Path]) -> None:
    path = shared_data("totalsegmentator_examples") / "ct" / "example_ct_sm.nii.gz"
    scan = LoadImaged("image", channels=1)({"image": str(path)})["image"]
    crop = CropForegroundd("image", "image", select_fn=lambda image: is_above(image, 100), start_coord_key=None)
    cropped = crop({"image": scan})["image"]
    assert cropped.numel() < scan.numel()

    def bones(window: torch.Tensor) -> torch.Tensor:
        return torch.cat([window * 0, window - 100], 1)

    found = ScanInferer((32, 32, 16))(cropped[None], bones)
    assert torch.equal(found[0].as_tensor() > 0, scan.as_tensor() > 100)


def test_nothing_above_keeps_everything() -> None:
    assert is_above(torch.zeros(1, 4, 4), 5).all()
