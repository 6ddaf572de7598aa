"""The verdicts on real series, as written down before the reader."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from monai.bundle import ConfigParser

from unet_bundle.errors import InputError
from unet_bundle.geometry import check_affine, spacing_of

VERDICTS = yaml.safe_load((Path(__file__).parent / "verdicts.yaml").read_text())


def _paths(shared_data, path):
    names = [path] if isinstance(path, str) else path
    roots = [shared_data(name.split("/")[0]).parent / name for name in names]
    return roots[0] if isinstance(path, str) else roots


def _label(verdict):
    path = verdict["path"] if isinstance(verdict["path"], str) else "+".join(verdict["path"])
    options = ",".join(f"{key}={value}" for key, value in verdict.get("options", {}).items())
    return f"{path}{f'[{options}]' if options else ''}"


@pytest.mark.parametrize("verdict", VERDICTS, ids=_label)
def test_every_real_series_is_read_right_or_refused_with_its_reason(shared_data, verdict):
    path = _paths(shared_data, verdict["path"])
    config = ConfigParser(
        {"load": {"_target_": "unet_bundle.io.LoadImaged", "keys": "image", "dicom": verdict.get("options", {})}}
    )
    load = config.get_parsed_content("load")
    if "refused" in verdict:
        with pytest.raises(InputError, match=verdict["refused"]) as refusal:
            load({"image": path})
        assert "\n" not in str(refusal.value)
        return
    image = load({"image": path})["image"][0]
    array, meta = image.numpy(), image.meta
    check_affine(meta["affine"], "it")
    assert array.shape == tuple(meta["spatial_shape"])
    assert np.ptp(array) > 0
    if "shape" in verdict:
        assert array.shape == tuple(verdict["shape"])
        np.testing.assert_allclose(spacing_of(meta["affine"]), verdict["spacing"], atol=1e-4)
