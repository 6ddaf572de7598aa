"""The side of `compare_nnunet_import.py` that runs in nnU-Net's environment: fit small models, predict with them.

python nnunet_import_peer.py fit CASE.json
python nnunet_import_peer.py predict MODEL_FOLDER OUTPUT SCANS.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import mend_torchvision

LEARNING_RATE = 3e-3


def fit(case: dict[str, Any]) -> None:
    """Write a model folder as nnU-Net's trainer does, its network fitted to the scans for some seconds a fold."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder = Path(case["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("plans", "dataset"):
        (folder / f"{name}.json").write_text(json.dumps(case[name]), encoding="utf-8")
    plans = PlansManager(case["plans"])
    configuration = plans.get_configuration(case["configuration"])
    labels = plans.get_label_manager(case["dataset"])
    prepared = [
        configuration.preprocessor_class(verbose=False).run_case(files, label, plans, configuration, case["dataset"])[
            :2
        ]
        for files, label in zip(case["scans"], case["labels"], strict=True)
    ]
    for fold in range(case["folds"]):
        torch.manual_seed(fold)
        network = get_network_from_plans(
            configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import, len(case["scans"][0]), labels.num_segmentation_heads,
            deep_supervision=False,
        )  # fmt: skip
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        begun, step = time.monotonic(), 0
        while time.monotonic() - begun < case["seconds"]:
            image, target = _patch(prepared, configuration.patch_size, np.random.default_rng(1000 * fold + step))
            loss = _loss(network(image), target, labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
            optimizer.step()
            step += 1
        sys.stderr.write(f"{folder.name} fold {fold}: {step} steps, loss {float(loss):.3f}\n")
        (folder / f"fold_{fold}").mkdir(exist_ok=True)
        axes = tuple(range(len(configuration.patch_size)))
        state = {
            "network_weights": network.state_dict(), "optimizer_state": optimizer.state_dict(),
            "grad_scaler_state": None, "current_epoch": 1, "_best_ema": np.float64(0.5),
            "logging": {"mean_fg_dice": [np.float32(0.5), np.float64(0.5)], "dice_per_class": [[np.float64(0.1)]]},
            "init_args": {
                "plans": case["plans"], "configuration": case["configuration"], "fold": fold,
                "dataset_json": case["dataset"], "device": torch.device("cuda"),
            },
            "trainer_name": "nnUNetTrainer", "inference_allowed_mirroring_axes": axes,
        }  # fmt: skip
        torch.save(state, folder / f"fold_{fold}" / "checkpoint_final.pth")


def _patch(prepared: list[Any], size: list[int], random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A patch of a scan, two times in three round a labelled voxel; smaller scans are padded with zeros."""
    data, seg = (np.asarray(part) for part in prepared[random.integers(len(prepared))])
    full = [1, *size] if len(size) == 2 else list(size)
    sides = list(seg.shape[1:])
    centre = [int(random.integers(side)) for side in sides]
    if random.random() < 2 / 3:
        values = [value for value in np.unique(seg) if value > 0]
        found = np.argwhere(seg[0] == random.choice(values))
        centre = list(found[random.integers(len(found))])
    starts = [max(0, min(c - edge // 2, side - edge)) for c, edge, side in zip(centre, full, sides, strict=True)]
    window = (slice(None), *(slice(start, start + edge) for start, edge in zip(starts, full, strict=True)))
    missing = [max(edge - side, 0) for edge, side in zip(full, sides, strict=True)]
    pads = [(0, 0), *((amount // 2, amount - amount // 2) for amount in missing)]
    image, label = np.pad(data[window], pads), np.pad(seg[window], pads).clip(0)
    if len(size) == 2:
        image, label = image[:, 0], label[:, 0]
    return torch.from_numpy(image.astype(np.float32))[None], torch.from_numpy(label.astype(np.int64))


def _loss(logits: torch.Tensor, label: torch.Tensor, labels: Any) -> torch.Tensor:
    if labels.has_regions:
        regions = [np.atleast_1d(region).tolist() for region in labels.foreground_regions]
        target = torch.stack([torch.isin(label[0], torch.tensor(region)) for region in regions])[None].float()
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    return torch.nn.functional.cross_entropy(logits, label)


def predict(folder: str, output: str, scans: str) -> None:
    """Segment scans with nnU-Net's predictor in float32, without mirroring."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_gaussian=True, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(folder, None, "checkpoint_final.pth")
    reader = predictor.plans_manager.image_reader_writer_class()
    for number, files in enumerate(json.loads(Path(scans).read_text(encoding="utf-8"))):
        image, properties = reader.read_images(files)
        begun = time.perf_counter()
        seg = predictor.predict_single_npy_array(image, properties)
        sys.stderr.write(f"nnU-Net: {time.perf_counter() - begun:.1f} s\n")
        target = Path(output) / f"{number}{predictor.dataset_json['file_ending']}"
        reader.write_seg(seg, str(target), properties)


if __name__ == "__main__":
    os.environ.update(nnUNet_raw=".", nnUNet_preprocessed=".", nnUNet_results=".")  # asked for, not used
    mended = mend_torchvision()
    if sys.argv[1] == "fit":
        fit(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    else:
        predict(*sys.argv[2:])
