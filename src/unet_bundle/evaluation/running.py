"""Running what scores, whichever config evaluate.json is laid over."""

from __future__ import annotations

from pathlib import Path

from unet_bundle.errors import ConfigError
from unet_bundle.networks.checkpoint import load_checkpoint, load_weights, short_name
from unet_bundle.runtime import running_workflow


def run_evaluator() -> None:
    """Run the evaluator of the running workflow: that of inference.json, or the validation of train.json.

    The model zoo lays evaluate.json over train.json, whose validation is part of a training and loads no weights: here
    it gets those of the key ``checkpoint``.

    Raises:
        CheckpointError: the weights are missing, damaged or of another network.
        ConfigError: no workflow is running.
    """
    workflow = running_workflow()
    if workflow is None:
        raise ConfigError("evaluate.json is run by `python -m monai.bundle run` or a MONAI ConfigWorkflow")
    content = workflow.parser.get_parsed_content
    if "_target_" in workflow.parser["evaluator"]:
        content("evaluator").run()
        return
    weights = Path(content("checkpoint"))
    load_weights(content("network"), load_checkpoint(weights), short_name(weights))
    content("validate::evaluator").run()
