"""The configs of a bundle, from a plan: the one template there is.

Every knob a person turns is a top-level value; the wiring stands below and refers to it by ``@``. Each config names the
files it is made of, so that a run can refuse keys it does not know.
"""

from __future__ import annotations

from unet_bundle.planning.plan import Plan
from unet_bundle.planning.template.inference import (
    evaluate_config,
    inference_config,
    inference_trt_config,
    multi_gpu_evaluate_config,
)
from unet_bundle.planning.template.shared import Config
from unet_bundle.planning.template.training import multi_gpu_train_config, train_config


def configs(plan: Plan) -> dict[str, Config]:
    """All configs of a bundle by file name, but for metadata.json."""
    return {
        "train.json": train_config(plan),
        "evaluate.json": evaluate_config(plan),
        "inference.json": inference_config(plan),
        "inference_trt.json": inference_trt_config(),
        "multi_gpu_train.json": multi_gpu_train_config(),
        "multi_gpu_evaluate.json": multi_gpu_evaluate_config(),
    }
