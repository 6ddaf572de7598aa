"""What MONAI's Ignite engines get from us: steps, data order, schedule, checkpoints, logs."""

from unet_bundle.precision import resolve_precision
from unet_bundle.training.augmentation import PrepareBatch, collate
from unet_bundle.training.checkpoints import CheckpointLoader, RunCheckpoints
from unet_bundle.training.data import CaseDataset, CaseSampler
from unet_bundle.training.distributed import case_shares, local_device, start_processes
from unet_bundle.training.events import EventWriter, ValidationSlices
from unet_bundle.training.handlers import Progress, StageTimes, TrainingLog
from unet_bundle.training.pretrained import Pretrained
from unet_bundle.training.publishing import PublishModel, weights_to_score
from unet_bundle.training.schedule import LearningRate, TimeBudget
from unet_bundle.training.steps import EvaluationStep, TrainStep

__all__ = [
    "CaseDataset",
    "CaseSampler",
    "CheckpointLoader",
    "EvaluationStep",
    "EventWriter",
    "LearningRate",
    "PrepareBatch",
    "Pretrained",
    "Progress",
    "PublishModel",
    "RunCheckpoints",
    "StageTimes",
    "TimeBudget",
    "TrainStep",
    "TrainingLog",
    "ValidationSlices",
    "case_shares",
    "collate",
    "local_device",
    "resolve_precision",
    "start_processes",
    "weights_to_score",
]
