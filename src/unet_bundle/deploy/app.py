"""The app: ``python -m unet_bundle.deploy.app -i STUDY -o OUTPUT -m BUNDLE``, or packaged by ``monai-deploy package``.

Two operators. The stock ones for DICOM are not used: they take a series with missing slices or a tilted gantry for a
regular one, and their writer knows no coded terms of a bundle. The bundle is a folder; the device is the one of its
inference.json: CUDA where it is, else the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Fragment, Operator, OperatorSpec, init_app_context

from unet_bundle.deploy.segmentation import find_series, segment_all
from unet_bundle.predictor import Predictor

SERIES = "series"
"""Name of the port between the operators."""


class FindSeriesOperator(Operator):
    """Emits which series of a study the bundle can segment, as `Work`.

    Args:
        fragment: the app.
        args: conditions.
        bundle: folder of the bundle.
        study: folder of the study.
        kwargs: for the SDK, such as ``name``.
    """

    def __init__(self, fragment: Fragment, *args: Any, bundle: Path, study: Path, **kwargs: Any) -> None:
        self.bundle, self.study = bundle, study
        super().__init__(fragment, *args, **kwargs)  # the SDK wants it last

    def setup(self, spec: OperatorSpec) -> None:
        """One output."""
        spec.output(SERIES)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Look at the study."""
        del op_input, context
        op_output.emit(find_series(self.bundle, self.study), SERIES)


class SegmentSeriesOperator(Operator):
    """Writes a DICOM SEG for each series it receives.

    Args:
        fragment: the app.
        args: conditions.
        bundle: folder of the bundle.
        output: folder for the results.
        kwargs: for the SDK, such as ``name``.
    """

    def __init__(self, fragment: Fragment, *args: Any, bundle: Path, output: Path, **kwargs: Any) -> None:
        self.bundle, self.output = bundle, output
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One input."""
        spec.input(SERIES)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Load the network and segment."""
        del op_output, context
        segment_all(Predictor(self.bundle), op_input.receive(SERIES), self.output)


class UnetBundleApp(Application):
    """A study through a bundle; input, output and model are those of the app's context."""

    def compose(self) -> None:
        """Join the operators."""
        context = init_app_context(self.argv)
        bundle = Path(context.model_path)
        find = FindSeriesOperator(
            self, CountCondition(self, 1), bundle=bundle, study=Path(context.input_path), name="find_series"
        )
        segment = SegmentSeriesOperator(self, bundle=bundle, output=Path(context.output_path), name="segment_series")
        self.add_flow(find, segment, {(SERIES, SERIES)})


if __name__ == "__main__":
    UnetBundleApp().run()
