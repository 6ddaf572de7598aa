"""Our side of `benchmark_training.py` that has no command line of its own: how many samples a second are trained on.

    python training_ours.py throughput STAGE.json

The last line it prints is JSON with what was measured.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

Settings = dict[str, Any]


class _EnoughError(Exception):
    """The time for measuring is over."""


class Stopwatch:
    """Times the iterations of a training, and ends it after some seconds.

    Args:
        skipped: iterations that are not timed: the first ones, and all up to the trial validation.
        seconds: how long is measured.
        least: iterations that are measured at least.
    """

    def __init__(self, skipped: int, seconds: float, least: int) -> None:
        self.skipped, self.seconds, self.least = skipped, seconds, least
        self.iterations, self.elapsed = -skipped, 0.0
        self._start = 0.0

    def __call__(self, _engine: Any) -> None:
        """An iteration is complete."""
        self.iterations += 1
        if self.iterations == 0:
            self._start = time.monotonic()
        self.elapsed = time.monotonic() - self._start
        if self.iterations >= self.least and self.elapsed >= self.seconds:
            raise _EnoughError


def throughput(settings: Settings) -> dict[str, Any]:
    """Our training, by the bundle's train.json, with the network, patch and batch of nnU-Net's plan put into it."""
    from ignite.engine import Events

    from unet_bundle.cli.workflow import load_workflow
    from unet_bundle.training.schedule import MEASURED_ITERATIONS

    bundle = Path(settings["bundle"])
    train = bundle / "configs" / "train.json"
    config = json.loads(train.read_text(encoding="utf-8"))
    theirs = json.loads(Path(settings["plans"]).read_text(encoding="utf-8"))["configurations"]["3d_fullres"]
    config["network_def"] = network_of(theirs, config["network_def"])
    config["patch_size"] = theirs["patch_size"][::-1]
    config["batch_size"] = theirs["batch_size"]
    train.write_text(json.dumps(config), encoding="utf-8")
    overrides = {
        "dataset_dir": settings["dataset"],
        "splits_file": settings["splits"],
        "output_dir": settings["output"],
        "max_epochs": 10**6,
        "val_interval": 10**6,
        "validate::dataset::data": settings["validation"],
    }
    workflow = load_workflow(bundle, ["train.json"], overrides, "train")
    trainer = workflow.parser.get_parsed_content("train::trainer")
    watch = Stopwatch(MEASURED_ITERATIONS + 1, settings["seconds"], settings["warm_up"])
    trainer.add_event_handler(Events.ITERATION_COMPLETED, watch)
    with contextlib.suppress(_EnoughError):
        trainer.run()
    network = workflow.parser.get_parsed_content("network")
    return {
        "iterations": watch.iterations,
        "samples_per_second": watch.iterations * theirs["batch_size"] / watch.elapsed,
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def network_of(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """The network of a configuration of nnU-Net's plans, as ours is defined; its axes run the other way round."""
    arguments = theirs["architecture"]["arch_kwargs"]
    return {
        **{key: ours[key] for key in ("_target_", "spatial_dims", "in_channels", "out_channels")},
        "channels": arguments["features_per_stage"],
        "kernel_sizes": [kernel[::-1] for kernel in arguments["kernel_sizes"]],
        "strides": [stride[::-1] for stride in arguments["strides"]],
        "convolutions_per_stage": arguments["n_conv_per_stage"],
        # From the coarsest stage on there, from the finest here.
        "decoder_convolutions_per_stage": arguments["n_conv_per_stage_decoder"][::-1],
        "norm": "instance",
        "activation": "leaky_relu",
        "dropout": 0.0,
        "deep_supervision": True,
    }


if __name__ == "__main__":
    result = throughput(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    sys.stdout.write("\n" + json.dumps(result) + "\n")
