"""Planning: from labelled scans and a task card to the values a bundle is written from."""

from unet_bundle.planning.card import load_card
from unet_bundle.planning.fingerprint import measure_fingerprint
from unet_bundle.planning.memory import inference_memory_bytes, training_memory_bytes
from unet_bundle.planning.plan import Plan, make_plan
from unet_bundle.planning.targets import TARGETS, MemoryTarget
from unet_bundle.planning.task_card import TaskCard

__all__ = [
    "TARGETS",
    "MemoryTarget",
    "Plan",
    "TaskCard",
    "inference_memory_bytes",
    "load_card",
    "make_plan",
    "measure_fingerprint",
    "training_memory_bytes",
]
