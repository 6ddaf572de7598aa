"""What functional groups say of a frame tells volumes apart, by the standard's own names."""

import numpy as np
import pytest

from unet_bundle.errors import InputError
from unet_bundle.io.dicom import DicomSeriesReader


def read(path, **options):
    reader = DicomSeriesReader(**options)
    return reader.get_data(reader.read(path))


def nested(synthetic, element, value, *sequences):
    """A data set that holds an element below sequences."""
    dataset = synthetic.Dataset()
    setattr(dataset, element, value)
    for name in reversed(sequences):
        outer = synthetic.Dataset()
        setattr(outer, name, [dataset])
        dataset = outer
    return dataset


def marked(synthetic, folder, modality, kinds, *, repeated, sequences, element):
    """An enhanced object whose frames differ in one functional group: all positions in each kind, or every other."""
    times = len(kinds) if repeated else 1
    series, path = synthetic.write_multiframe(folder, times=times, modality=modality)
    dataset = synthetic.pydicom.dcmread(path)
    classes = {"MR": "1.2.840.10008.5.1.4.1.1.4.1", "CT": "1.2.840.10008.5.1.4.1.1.2.1"}
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = classes[modality]
    heights = [float(position[2]) for position in series.positions]
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        content = groups.FrameContentSequence[0]
        time = content.TemporalPositionIndex - 1
        del content.TemporalPositionIndex
        place = heights.index(float(groups.PlanePositionSequence[0].ImagePositionPatient[2]))
        value = kinds[time if repeated else place % len(kinds)]
        if value is not None:
            groups.update(nested(synthetic, element, value, *sequences))
    synthetic.save(dataset, path)
    return series, path


MARKED = [
    ("MR", ("MREchoSequence",), "EffectiveEchoTime", (10.0, 80.0), "EchoTime 10; .*EchoTime 80"),
    ("MR", ("MRModifierSequence",), "InversionTimes", ([700.0], [2500.0]), "InversionTime 700; .*2500"),
    ("MR", ("MRDiffusionSequence",), "DiffusionBValue", (0.0, 1000.0), "DiffusionBValue 0; .*1000"),
    (
        "MR",
        ("MRImageFrameTypeSequence",),
        "FrameType",
        (["ORIGINAL", "PRIMARY", "DIXON", "FAT"], ["ORIGINAL", "PRIMARY", "DIXON", "WATER"]),
        r"DIXON\\FAT; .*DIXON\\WATER",
    ),
    ("MR", ("MRImageFrameTypeSequence",), "ComplexImageComponent", ("MAGNITUDE", "PHASE"), "MAGNITUDE; .*PHASE"),
    (
        "CT",
        ("CTImageFrameTypeSequence",),
        "FrameType",
        (["DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"], ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]),
        r"MAXIMUM; .*NONE",
    ),
]
REPEATED = [
    ("CT", ("CTReconstructionSequence",), "ConvolutionKernel", ("BR40", "BR64"), "BR40; .*BR64"),
    ("CT", ("CTXRayDetailsSequence",), "KVP", (80.0, 140.0), "KVP 80; .*140"),
    ("MR", ("CardiacSynchronizationSequence",), "NominalCardiacTriggerDelayTime", (0.0, 40.0), "DelayTime 0; .*40"),
    ("MR", ("TemporalPositionSequence",), "TemporalPositionTimeOffset", (0.0, 2.5), "TimeOffset 0; .*2.5"),
    (
        "MR",
        ("MRDiffusionSequence", "DiffusionGradientDirectionSequence"),
        "DiffusionGradientOrientation",
        ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
        "DiffusionGradientOrientation",
    ),
]


@pytest.mark.parametrize(("modality", "sequences", "element", "kinds", "told"), [*MARKED, *REPEATED])
def test_volumes_in_one_object_are_told_apart(synthetic, tmp_path, modality, sequences, element, kinds, told):
    series, path = marked(synthetic, tmp_path, modality, kinds, repeated=True, sequences=sequences, element=element)
    with pytest.raises(InputError, match=f"holds 2 volumes.*{told}"):
        read(path)
    found = {int((read(path, volume=number)[0] - series.voxels.transpose(2, 1, 0)).mean()) for number in (1, 2)}
    assert found == {-1000, -990}  # the second time is 10 brighter


@pytest.mark.parametrize(("modality", "sequences", "element", "kinds", "told"), MARKED)
def test_frames_that_mean_different_things_are_not_one_volume(
    synthetic, tmp_path, modality, sequences, element, kinds, told
):
    _, path = marked(synthetic, tmp_path, modality, kinds, repeated=False, sequences=sequences, element=element)
    with pytest.raises(InputError, match=f"holds 2 volumes.*{told}"):
        read(path)
    assert read(path, volume=1)[0].shape == (12, 10, 4)


@pytest.mark.parametrize(
    ("modality", "sequence", "element", "kinds"),
    [
        ("MR", "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", tuple(range(0, 320, 40))),
        ("CT", "CTXRayDetailsSequence", "KVP", (120.0, 140.0)),
        ("CT", "CTReconstructionSequence", "ConvolutionKernel", ("H31S", "H45S")),
    ],
)
def test_settings_that_vary_from_frame_to_frame_keep_a_volume_together(
    synthetic, tmp_path, modality, sequence, element, kinds
):
    _, path = marked(synthetic, tmp_path, modality, kinds, repeated=False, sequences=(sequence,), element=element)
    assert read(path)[0].shape == (12, 10, 8)


def test_the_frame_counts_before_the_object(synthetic, tmp_path):
    """An object of mixed frames says so once for all; each frame says what it is."""
    kinds = (["ORIGINAL", "PRIMARY", "AXIAL", "NONE"],)
    series, path = marked(
        synthetic,
        tmp_path,
        "CT",
        kinds,
        repeated=False,
        sequences=("CTImageFrameTypeSequence",),
        element="FrameType",
    )
    np.testing.assert_array_equal(read(path)[0], series.voxels.transpose(2, 1, 0) - 1000)


def test_a_damaged_functional_group_is_refused_in_one_line(synthetic, tmp_path):
    _, path = marked(
        synthetic, tmp_path, "MR", (10.0,), repeated=False, sequences=("MREchoSequence",), element="EffectiveEchoTime"
    )
    contents = path.read_bytes()
    path.write_bytes(contents.replace(b"\x18\x00\x14\x91SQ", b"\x18\x00\x14\x91UT", 1))
    with pytest.raises(InputError, match="functional groups are damaged") as refused:
        read(path)
    assert "\n" not in str(refused.value)
