"""Scores on the original grid, and the pictures and curves that go with them."""

from unet_bundle.evaluation.choosing import ChooseCleaning
from unet_bundle.evaluation.running import run_evaluator
from unet_bundle.evaluation.scores import MeanDice, SaveScores
from unet_bundle.evaluation.volumes import SaveVolumes

__all__ = ["ChooseCleaning", "MeanDice", "SaveScores", "SaveVolumes", "run_evaluator"]
