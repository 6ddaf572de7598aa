"""Scores on the original grid, and the pictures and curves that go with them."""

from unet_bundle.evaluation.scores import MeanDice, SaveScores

__all__ = ["MeanDice", "SaveScores"]
