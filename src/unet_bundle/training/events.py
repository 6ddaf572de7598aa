"""What TensorBoard shows of a run: its curves, and one slice of a validation case with truth and prediction."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS = "events.out.tfevents.*"
EARLIER = "earlier_events"
"""Folder for the event files of the run before, where TensorBoard shows them as a run of their own."""


class EventWriter:
    """One TensorBoard writer for all of a run, opened when there is something to write.

    A new run then moves the event files of the run before into ``earlier_events``, in the place of those that are
    there; a resumed run goes on beside its own.

    Args:
        folder: of the run.
        resume: whether the run goes on with the one whose files are there.
    """

    def __init__(self, folder: str, resume: bool = False) -> None:
        self.folder = Path(folder)
        self.resume = resume
        self._opened: SummaryWriter | None = None

    @property
    def _writer(self) -> SummaryWriter:
        if self._opened is None:
            from torch.utils.tensorboard import SummaryWriter

            if not self.resume:
                self._set_earlier_aside()
            self._opened = SummaryWriter(str(self.folder))
        return self._opened

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Write one point of a curve."""
        self._writer.add_scalar(tag, value, step)

    def add_image(self, tag: str, image: npt.NDArray[np.uint8], step: int) -> None:
        """Write a grey image [height, width]."""
        self._writer.add_image(tag, image, step, dataformats="HW")

    def flush(self) -> None:
        """Put on disk what was written."""
        if self._opened is not None:
            self._opened.flush()

    def close(self) -> None:
        """Close the file; what is written later goes to another."""
        if self._opened is not None:
            self._opened.close()
            self._opened, self.resume = None, True

    def _set_earlier_aside(self) -> None:
        earlier = sorted(self.folder.glob(EVENTS))
        if not earlier:
            return
        shutil.rmtree(self.folder / EARLIER, ignore_errors=True)
        (self.folder / EARLIER).mkdir()
        for path in earlier:
            path.replace(self.folder / EARLIER / path.name)


class ValidationSlices:
    """After a validation, image, label and prediction of its last case side by side, in the slice with most foreground.

    Args:
        writer: where the picture goes.
        num_classes: number of classes, background included: the highest is white.
    """

    def __init__(self, writer: EventWriter, num_classes: int) -> None:
        self.writer = writer
        self.num_classes = num_classes

    def attach(self, engine: Engine) -> None:
        """Draw after each epoch of `engine`."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw the last case."""
        output: Any = engine.state.output
        image, label, prediction = (_array(output[-1][key][0]) for key in ("image", "label", "pred"))
        label = np.where(label < self.num_classes, label, 0)  # without the voxels that nobody labelled
        picture = slice_picture(image, label, prediction, self.num_classes)
        self.writer.add_image("image, label, prediction", picture, engine.state.epoch)
        self.writer.flush()


def slice_picture(
    image: npt.NDArray[Any], label: npt.NDArray[Any], prediction: npt.NDArray[Any], num_classes: int
) -> npt.NDArray[np.uint8]:
    """Image, label and prediction side by side, grey, in the slice with most foreground.

    Args:
        image: one channel, [right, anterior, superior], or a plane [right, down].
        label: class indices of the same shape.
        prediction: the same.
        num_classes: number of classes, background included.

    Returns:
        [rows, 3 x columns], 0 to 255; of volumes from the front down.
    """
    flat = image.ndim == 2
    if not flat:
        foreground = (label > 0) if (label > 0).any() else (prediction > 0)
        at = int(foreground.sum(axis=(0, 1)).argmax()) if foreground.any() else image.shape[2] // 2
        image, label, prediction = image[..., at], label[..., at], prediction[..., at]
    low, high = np.percentile(image, [1, 99])
    grey = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1)
    panels = [grey, label / (num_classes - 1), prediction / (num_classes - 1)]
    # Planes and pictures count downwards, volumes from back to front.
    whole = np.concatenate([panel.T if flat else np.flipud(panel.T) for panel in panels], axis=1)
    picture: npt.NDArray[np.uint8] = (np.clip(whole, 0, 1) * 255).round().astype(np.uint8)
    return picture


def _array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = tensor.detach().as_subclass(torch.Tensor).float().cpu().numpy()
    return values
