"""`unet-bundle export`: a file that `predict` takes for a runtime, or nothing at all."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from unet_bundle.cli import main
from unet_bundle.cli.export import FORMATS
from unet_bundle.export import formats


def labels(folder: Path) -> np.ndarray:
    (path,) = folder.glob("*_seg.nii.gz")
    return np.asarray(nib.load(path).dataobj)


def test_formats_are_those_that_can_be_written() -> None:
    assert FORMATS == formats.FORMATS


def test_exported_file_is_compared_on_a_scan_and_used_until_the_weights_change(
    bundle: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = str(min(scans.iterdir()))
    before = sorted((bundle / "models").iterdir())
    assert main(["export", str(bundle), "--to", "torchscript", "--check", scan]) == 0
    text = capsys.readouterr().out
    assert "largest logit difference" in text
    assert "labels equal in 100.0000 % of" in text
    assert "Use it: --runtime models/model.ts" in text
    assert sorted((bundle / "models").iterdir()) == sorted([*before, bundle / "models" / "model.ts"])

    assert main(["predict", str(bundle), scan, str(tmp_path / "torch")]) == 0
    line = ["predict", str(bundle), scan, "--runtime", "models/model.ts"]
    assert main([*line, str(tmp_path / "script")]) == 0
    np.testing.assert_array_equal(labels(tmp_path / "script"), labels(tmp_path / "torch"))

    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save({name: value * 1.01 for name, value in weights.items()}, bundle / "models" / "model.pt")
    assert main([*line, str(tmp_path / "changed")]) == 2
    error = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert error == "Error: models/model.ts was made of other weights than the bundle has now: export it again"
    assert not list((tmp_path / "changed").glob("*.nii.gz"))


def test_a_file_that_differs_is_not_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = formats._torchscript

    def wrong(source: formats.Source, path: Path) -> None:
        notes = source.notes()
        with torch.no_grad():
            saved = {name: value.clone() for name, value in source.network.state_dict().items()}
            for parameter in source.network.parameters():
                parameter.neg_()
            monkeypatch.setattr(formats.Source, "notes", lambda _: notes)
            right(source, path)
            source.network.load_state_dict(saved)

    monkeypatch.setitem(formats._WRITERS, "torchscript", wrong)
    (tmp_path / "out").mkdir()
    line = ["export", str(bundle), "--to", "torchscript", "--output", str(tmp_path / "out" / "model.ts")]
    assert main(line) == 1
    captured = capsys.readouterr()
    assert "Compared with PyTorch on an image made for it: largest logit difference" in captured.out
    assert "model.ts is not written: its labels are not PyTorch's" in captured.err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "tensorrt"], "TensorRT needs a CUDA GPU, and there is none here"),
        (["--to", "onnx", "--check", "none.nii.gz"], "none.nii.gz does not exist"),
        (["--to", "onnx", "--precision", "bfloat16"], "--precision is set by the other arguments"),
        (["--to", "onnx", "--output", "model.pt"], "a file for onnx must end in .onnx"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], words: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[-1] == "tensorrt" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = sorted(bundle.rglob("*"))
    assert main(["export", str(bundle), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert sorted(bundle.rglob("*")) == before
