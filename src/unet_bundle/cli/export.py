"""``unet-bundle export``: the bundle's network as a file for another runtime, checked against PyTorch."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from unet_bundle.cli.workflow import OVERRIDES_HELP, add_bundle, parse_overrides, read_config, say
from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.runtime import EXIT_OK

FORMATS = ("torchscript", "torch-export", "onnx", "openvino", "tensorrt")
"""`unet_bundle.export.FORMATS`, said here too, since a line of help must not wait for MONAI."""
CARRIED = ("metadata.json", "inference.json")
"""Configs that TorchScript takes along, as MONAI Deploy wants them."""

EPILOG = f"""\
The file is put in its place only if at least 99.99 % of the voxels have the label PyTorch gives: of --check SCAN on the
scan's own grid, else of an image that is made for it. The largest difference between logits is printed.
It knows the weights it was made of: after a new training it is refused until it is made again.
torchscript carries metadata.json and inference.json, as `python -m monai.bundle ckpt_export` does; openvino has a
second file, .bin, beside it; tensorrt needs a CUDA GPU and torch-tensorrt, and fits that kind of GPU alone.
{OVERRIDES_HELP}

examples:
  unet-bundle export bundle --to onnx --check scans/case_17.nii.gz
  unet-bundle predict bundle scans/ segmentations/ --runtime models/model.onnx
  unet-bundle export bundle --to torchscript --output model.ts --checkpoint bundle/runs/fold_1/best.pt"""


def add_parser(verbs: Any) -> None:
    """Add this verb to the command line."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "export",
        help="write the network as a file for another runtime",
        description="Write a bundle's network as a file for another runtime, and compare it with PyTorch.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_bundle(parser)
    parser.add_argument("--to", required=True, choices=FORMATS, help="which runtime the file is for")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the file (default: model.* in BUNDLE/models)")
    parser.add_argument("--check", type=Path, metavar="SCAN", help="a scan on which labels are compared")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, compare, and put the file in its place."""
    configs = {name: read_config(args.bundle, name) for name in CARRIED}
    own = {"runtime": "torch", "precision": "float32", "ensemble": [], "inferer::output": "labels"}
    overrides = parse_overrides(args.overrides, own)
    if args.check is not None and not args.check.exists():
        raise ConfigError(f"{args.check} does not exist: give a scan.")

    from unet_bundle.export import DEFAULT_FILES, Source, compare, made_image, write
    from unet_bundle.inferers.exported import Exported
    from unet_bundle.predictor import Predictor

    output = args.output or args.bundle / DEFAULT_FILES[args.to]
    predictor = Predictor(args.bundle, overrides=overrides)
    inferer: Any = predictor.inferer
    slice_axis, window = inferer.settings.slice_axis, tuple(inferer.settings.roi_size)
    source = Source(predictor.network, configs["inference.json"]["network_def"]["in_channels"], window, configs)
    output.parent.mkdir(parents=True, exist_ok=True)
    # The archive's name is inside of it, and OpenVINO's two files name each other: no other name while it is written.
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
        made = Path(folder, output.name)
        write(args.to, source, made)
        if args.check is None:
            image, name = made_image(source.channels, source.window, slice_axis), "an image made for it"
        else:
            image, name = predictor.prepared(args.check)["image"][None], "the scan"
        parity = compare(inferer, image.to(predictor.device), predictor.network, Exported(made))
        say(f"Compared with PyTorch on {name}: {parity}.")
        if not parity.passed:
            raise CheckpointError(f"{output.name} is not written: its labels are not PyTorch's; try another runtime.")
        size = sum(each.stat().st_size for each in Path(folder).iterdir())
        for each in sorted(Path(folder).iterdir(), key=lambda each: each.name == output.name):
            each.replace(output.parent / each.name)
    say(f"{output}: {size / 1e6:.1f} MB. Use it: --runtime {_as_runtime(output, args.bundle)}")
    return EXIT_OK


def _as_runtime(output: Path, bundle: Path) -> str:
    """The file as the key `runtime` names it: from the bundle's folder if it lies there."""
    file, folder = output.resolve(), bundle.resolve()
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)
