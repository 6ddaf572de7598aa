"""What MONAI's Ignite engines get from us: steps, data order, schedule, checkpoints, logs."""

from unet_bundle.precision import resolve_precision
from unet_bundle.training.augmentation import PrepareBatch, collate
from unet_bundle.training.averaging import WeightAverage
from unet_bundle.training.checkpoints import CheckpointLoader
from unet_bundle.training.data import CaseDataset, CaseSampler
from unet_bundle.training.distributed import case_shares, local_device, start_processes
from unet_bundle.training.events import ConfusionPicture, EventWriter, ValidationSlices
from unet_bundle.training.handlers import EarlyStop, Progress, StageTimes, TrainingLog, shared_handler
from unet_bundle.training.ignore_loss import IgnoreDiceCELoss
from unet_bundle.training.losses import WeightedDeepSupervisionLoss, WeightedDiceCELoss
from unet_bundle.training.pretrained import Pretrained
from unet_bundle.training.publishing import PublishModel, weights_to_score
from unet_bundle.training.recipe import (
    check_mlflow,
    check_seed,
    compiles,
    make_optimizer,
    mlflow_handler,
    prepare_network,
)
from unet_bundle.training.region_loss import RegionDiceBCELoss
from unet_bundle.training.run_checkpoints import RunCheckpoints
from unet_bundle.training.run_record import RunRecord
from unet_bundle.training.run_state import goes_on
from unet_bundle.training.schedule import LearningRate, TimeBudget
from unet_bundle.training.steps import EvaluationStep, TrainStep
from unet_bundle.training.stopping import start_worker
from unet_bundle.training.trained_cases import Origin

__all__ = [
    "CaseDataset",
    "CaseSampler",
    "CheckpointLoader",
    "ConfusionPicture",
    "EarlyStop",
    "EvaluationStep",
    "EventWriter",
    "IgnoreDiceCELoss",
    "LearningRate",
    "Origin",
    "PrepareBatch",
    "Pretrained",
    "Progress",
    "PublishModel",
    "RegionDiceBCELoss",
    "RunCheckpoints",
    "RunRecord",
    "StageTimes",
    "TimeBudget",
    "TrainStep",
    "TrainingLog",
    "ValidationSlices",
    "WeightAverage",
    "WeightedDeepSupervisionLoss",
    "WeightedDiceCELoss",
    "case_shares",
    "check_mlflow",
    "check_seed",
    "collate",
    "compiles",
    "goes_on",
    "local_device",
    "make_optimizer",
    "mlflow_handler",
    "prepare_network",
    "resolve_precision",
    "shared_handler",
    "start_processes",
    "start_worker",
    "weights_to_score",
]
