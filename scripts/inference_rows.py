"""The rows of `benchmark_inference.py`: each segments a scan, or a folder of pictures, in a process of its own.

    python inference_rows.py ROW CASE.json INPUT OUTPUT

The last line it prints is JSON: seconds from the files of the weights and the scan to that of the label map, with
libraries imported.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from inference_case import IMPORTED, Case, config, network, read_case
from peers import mend_torchvision

HALF = ["--precision", "bfloat16"]
OPENVINO = ["--runtime", "openvino"]
OURS: dict[str, list[str]] = {
    "ours_float32": [],
    "ours_float32_openvino": OPENVINO,
    "ours_bfloat16": HALF,
    "ours_bfloat16_openvino": [*HALF, *OPENVINO],
    "ours_bfloat16_openvino_skipping": [*HALF, *OPENVINO, "--inferer::remember_constant", "true"],
    "ours_bfloat16_openvino_cropped": [*HALF, *OPENVINO, "--crop_above", "-500"],
}
"""Overrides of our config; all windows are run where nothing else is said."""

MONAI: dict[str, dict[str, Any]] = {
    "monai_float32": {},
    "monai_float32_adapt": {"adapt": True},
    "monai_float32_buffered": {"buffer_steps": 4, "buffer_dim": -1},
    "monai_bfloat16": {"bfloat16": True},
    "monai_bfloat16_buffered": {"bfloat16": True, "buffer_steps": 4, "buffer_dim": -1},
}
NNUNET = ("nnunet", "nnunet_sequential")


def ours(case: Case, source: Path, output: Path, overrides: list[str], bundle: str = IMPORTED) -> float:
    """``unet-bundle predict``."""
    import monai.bundle
    import monai.engines  # noqa: F401  (imported before the clock starts)
    import openvino  # noqa: F401  (the same)

    from unet_bundle import cli, evaluation, inferers, io, networks, training, transforms  # noqa: F401

    words = ["predict", str(case.path(bundle)), str(source), str(output), "--overwrite"]
    if "--inferer::remember_constant" not in overrides:
        overrides = [*overrides, "--inferer::remember_constant", "false"]
    start = time.perf_counter()
    if cli.main([*words, *overrides]):
        sys.exit("unet-bundle predict failed")
    return time.perf_counter() - start


def nnunet(case: Case, source: Path, output: Path, sequential: bool, bundle: str = "bundle", workers: int = 1) -> float:
    """nnU-Net's predictor, set as nnU-Net's users without a GPU set it: no mirroring, half a window's step."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    start = time.perf_counter()  # before the weights are read, as for ours
    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_gaussian=True, use_mirroring=False, perform_everything_on_device=False,
        device=torch.device("cpu"), allow_tqdm=False,
    )  # fmt: skip
    predictor.initialize_from_trained_model_folder(str(case.path(f"nnunet_{bundle}")), (0,), "checkpoint_final.pth")
    ending = predictor.dataset_json["file_ending"]
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    results = [str(output / file.name.removesuffix(ending)) for file in files]
    lists = [[str(file)] for file in files]
    if sequential:
        predictor.predict_from_files_sequential(lists, results)
    else:
        predictor.predict_from_files(
            lists, results, num_processes_preprocessing=workers, num_processes_segmentation_export=workers
        )
    return time.perf_counter() - start


def monai(case: Case, source: Path, output: Path, options: dict[str, Any]) -> float:
    """Preprocessing, sliding window and postprocessing as bundles of MONAI's model zoo have them."""
    import contextlib

    import torch
    from monai.inferers import SlidingWindowInferer, SlidingWindowInfererAdapt
    from monai.transforms import (
        AsDiscreted,
        Compose,
        EnsureChannelFirstd,
        Invertd,
        LoadImaged,
        Orientationd,
        SaveImaged,
        ScaleIntensityRanged,
        Spacingd,
    )

    from unet_bundle.networks import blocks, unet

    # As autocast alone would have it, and faster: our network keeps its ends in float32.
    blocks.precise_end = unet.precise_end = lambda layer, x, _weight: layer(x)  # type: ignore[assignment]
    start = time.perf_counter()
    settings, model = config(case, "bundle"), network(case, "bundle")
    scheme = settings["normalization"][0]
    low, high = ((scheme[bound] - scheme["mean"]) / scheme["std"] for bound in ("lower", "upper"))
    before = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=settings["spacing"], mode="bilinear", dtype=torch.float32),
            ScaleIntensityRanged("image", scheme["lower"], scheme["upper"], low, high, clip=True),
        ]
    )
    after = Compose(
        [
            Invertd("pred", transform=before, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted("pred", argmax=True),
            SaveImaged(
                "pred", output_dir=output, output_postfix="seg", output_dtype="uint8", resample=False,
                separate_folder=False, print_log=False,
            ),
        ]
    )  # fmt: skip
    kind = SlidingWindowInfererAdapt if options.get("adapt") else SlidingWindowInferer
    buffered = {key: value for key, value in options.items() if key.startswith("buffer")}
    infer = kind([case.patch] * 3, sw_batch_size=1, overlap=0.5, mode="gaussian", padding_mode="constant", **buffered)
    half = torch.autocast("cpu", torch.bfloat16) if options.get("bfloat16") else contextlib.nullcontext()
    with torch.no_grad():
        scan = before({"image": str(source)})
        with half:
            scan["pred"] = infer(scan["image"][None], model)[0]
        after(scan)
    return time.perf_counter() - start


def read_only(case: Case, source: Path, output: Path) -> float:
    """What a process of ours takes that only reads and prepares the scan."""
    del output
    import monai.bundle
    import monai.engines
    import openvino  # noqa: F401  (the same)

    from unet_bundle import cli, evaluation, inferers, io, networks, training, transforms  # noqa: F401

    parser = monai.bundle.ConfigParser()
    parser.read_config(case.path(IMPORTED, "configs", "inference.json"))
    preprocessing = parser.get_parsed_content("preprocessing")
    start = time.perf_counter()
    preprocessing({"image": str(source)})
    return time.perf_counter() - start


Row = Callable[[Case, Path, Path], float]
ROWS: dict[str, Row] = {
    **{name: partial(ours, overrides=overrides) for name, overrides in OURS.items()},
    **{name: partial(monai, options=options) for name, options in MONAI.items()},
    "nnunet": partial(nnunet, sequential=False),
    "nnunet_sequential": partial(nnunet, sequential=True),
    "pictures_ours": partial(ours, overrides=OPENVINO, bundle="picture_bundle"),
    "pictures_ours_bfloat16": partial(ours, overrides=[*HALF, *OPENVINO], bundle="picture_bundle"),
    "pictures_ours_torch": partial(ours, overrides=[], bundle="picture_bundle"),
    "pictures_nnunet": partial(nnunet, sequential=False, bundle="picture_bundle"),
    "pictures_nnunet_2_workers": partial(nnunet, sequential=False, bundle="picture_bundle", workers=2),
    "pictures_nnunet_sequential": partial(nnunet, sequential=True, bundle="picture_bundle"),
    "read": read_only,
    "ours_bfloat16_openvino_105_classes": partial(
        ours, overrides=[*HALF, *OPENVINO, "--memory", "4GB"], bundle="bundle_105"
    ),
}


def main() -> None:
    """Run one row and say what it took."""
    name, case_file, source, output = sys.argv[1:]
    import torch

    case = read_case(case_file)
    torch.set_num_threads(case.threads)
    Path(output).mkdir(parents=True, exist_ok=True)
    seconds = ROWS[name](case, Path(source), Path(output))
    sys.stdout.write("\n" + json.dumps({"seconds": seconds, "own_peak_gb": own_peak()}) + "\n")


def own_peak() -> float:
    """GB that this process alone had at its peak (Linux): who looks from outside may miss it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e9


if "nnunet" in "".join(sys.argv[1:2]) and __name__ in {"__main__", "__mp_main__"}:
    mended = mend_torchvision()  # in nnU-Net's child processes too, which import this file

if __name__ == "__main__":
    main()
