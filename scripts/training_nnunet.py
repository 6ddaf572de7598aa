"""nnU-Net's side of `benchmark_training.py`, in the environment of nnU-Net; each stage in a process of its own.

    python training_nnunet.py STAGE STAGE.json

The last line it prints is JSON with what the stage measured.
"""

from __future__ import annotations

import time

STARTED = time.monotonic()
"""Before the libraries are read: importing them is part of a training's time."""

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from peers import mend_torchvision  # noqa: E402

MENDED = mend_torchvision()  # in nnU-Net's child processes too, which import this file

import torch  # noqa: E402
from nnunetv2.experiment_planning.plan_and_preprocess_api import (  # noqa: E402
    extract_fingerprints,
    plan_experiments,
    preprocess,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: E402
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: E402

DATASET = 4
CONFIGURATION = "3d_fullres"
STEPS_OF_THE_RATE = 200
"""Into about so many epochs training is cut: nnU-Net lowers its learning rate once an epoch."""

Settings = dict[str, Any]


class TimedTrainer(nnUNetTrainer):
    """nnU-Net's trainer, given as many iterations as fit, without its validation and its plot in each epoch.

    Augmentation, loss, optimiser, network and the polynomial learning rate are nnU-Net's. All time goes to training.
    """

    started = 0.0

    def limit(self, iterations: int) -> None:
        """Train for so many iterations, with a learning rate that falls to zero over them."""
        self.num_iterations_per_epoch = max(1, round(iterations / STEPS_OF_THE_RATE))
        self.num_epochs = max(1, round(iterations / self.num_iterations_per_epoch))
        self.num_val_iterations_per_epoch = 0
        self.lr_scheduler.max_steps = self.num_epochs  # it was made for the 1000 epochs that are nnU-Net's default

    def run_training(self) -> None:
        """Note when the first batch was there."""
        self.started = time.monotonic()
        super().run_training()

    def on_validation_epoch_end(self, val_outputs: list[Any]) -> None:
        """There was no validation."""

    def on_epoch_end(self) -> None:
        """Count the epoch; the last checkpoint is the one that counts."""
        self.logger.log("epoch_end_timestamps", time.time(), self.current_epoch)
        self.current_epoch += 1


# Its checkpoint holds an nnU-Net that any predictor of nnU-Net knows.
TimedTrainer.__name__ = "nnUNetTrainer"


def plan(settings: Settings) -> dict[str, Any]:
    """Fingerprint, plan and preprocess, as ``nnUNetv2_plan_and_preprocess`` does."""
    extract_fingerprints([DATASET], num_processes=settings["cores"], check_dataset_integrity=True)
    plan_experiments([DATASET])
    plans = Path(settings["preprocessed"], "nnUNetPlans.json")
    content = json.loads(plans.read_text(encoding="utf-8"))
    if settings["batch_size"] is not None:
        content["configurations"][CONFIGURATION]["batch_size"] = settings["batch_size"]
        plans.write_text(json.dumps(content), encoding="utf-8")
    preprocess([DATASET], configurations=[CONFIGURATION], num_processes=[settings["cores"]])
    return {"seconds": time.monotonic() - STARTED}


def throughput(settings: Settings) -> dict[str, Any]:
    """Iterations of nnU-Net's training for some seconds, timed after the first few."""
    trainer = _trainer(settings)
    trainer.on_train_start()
    ready = time.monotonic() - STARTED
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    for _ in range(settings["warm_up"]):
        trainer.train_step(next(trainer.dataloader_train))
    start, iterations = time.monotonic(), 0
    while iterations < settings["warm_up"] or time.monotonic() - start < settings["seconds"]:
        trainer.train_step(next(trainer.dataloader_train))
        iterations += 1
    seconds = time.monotonic() - start
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        if hasattr(loader, "_finish"):
            loader._finish()  # noqa: SLF001  (as its own trainer ends it)
    return {
        "iterations": iterations,
        "seconds_per_iteration": seconds / iterations,
        "samples_per_second": iterations * trainer.batch_size / seconds,
        "start_up": ready,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
    }


def train(settings: Settings) -> dict[str, Any]:
    """A whole training in the time that is left of the process's."""
    trainer = _trainer(settings)
    left = settings["seconds"] - settings["start_up"] - settings["closing"]
    trainer.limit(max(1, int(left / settings["seconds_per_iteration"])))
    trainer.run_training()
    iterations = trainer.num_epochs * trainer.num_iterations_per_epoch
    last = trainer.optimizer.param_groups[0]["lr"]
    if last > 2 * trainer.initial_lr / trainer.num_epochs**0.9:
        sys.exit(f"the learning rate ended at {last:g}, not near zero")
    return {
        "seconds": time.monotonic() - STARTED,
        "iterations": iterations,
        "samples": iterations * trainer.batch_size,
        "folder": str(trainer.output_folder_base),
    }


def predict(settings: Settings) -> dict[str, Any]:
    """Segment scans with nnU-Net's predictor, as its command line sets it."""
    device = torch.device(settings["device"])
    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_gaussian=True, use_mirroring=settings["mirroring"],
        perform_everything_on_device=device.type == "cuda", device=device, allow_tqdm=False,
    )  # fmt: skip
    predictor.initialize_from_trained_model_folder(settings["folder"], (0,), "checkpoint_final.pth")
    output = Path(settings["output"])
    output.mkdir(parents=True, exist_ok=True)
    results = [str(output / name) for name in settings["scans"]]
    predictor.predict_from_files_sequential([[file] for file in settings["scans"].values()], results)
    return {"seconds": time.monotonic() - STARTED}


def _trainer(settings: Settings) -> TimedTrainer:
    folder = Path(settings["preprocessed"])
    plans = json.loads((folder / "nnUNetPlans.json").read_text(encoding="utf-8"))
    dataset = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    device = torch.device(settings["device"])
    torch.set_num_threads(settings["cores"])
    trainer = TimedTrainer({**plans, "continue_training": False}, CONFIGURATION, 0, dataset, device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    trainer.initialize()
    return trainer


STAGES = {"plan": plan, "throughput": throughput, "train": train, "predict": predict}

if __name__ == "__main__":
    result = STAGES[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    sys.stdout.write("\n" + json.dumps(result) + "\n")
