"""Which DICOM objects are scans, and why the others are none."""

from unet_bundle.io.dicom.headers import Header
from unet_bundle.io.dicom.marks import image_type

MODALITIES = ("CT", "MR", "PT")
"""Modalities whose objects are stacks of planes in patient space."""

OTHER_MODALITIES = (
    *("ANN", "AR", "ASMT", "AU", "BDUS", "BI", "BMD", "CFM", "CR", "CTPROTOCOL", "DG", "DMS", "DOC", "DX", "ECG"),
    *("EEG", "EMG", "EOG", "EPS", "ES", "FID", "GM", "HC", "HD", "IO", "IOL", "IVOCT", "IVUS", "KER", "KO", "LEN"),
    *("LS", "M3D", "MG", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PA"),
    *("PLAN", "POS", "PR", "PX", "REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE", "RTINTENT", "RTPLAN", "RTRAD"),
    *("RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR", "SRF", "STAIN", "TEXTUREMAP", "TG"),
    *("US", "VA", "XA", "XAPROTOCOL", "XC"),
)
"""The other modalities of PS3.3 C.7.3.1.1.1: known to be no such stack. What is neither here nor above is damaged."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""SOP class UID of screenshots and scanned films; those of several frames have it as their start."""

_NO_SCANS = {
    "1.2.840.10008.5.1.4.1.1.66": "raw data or a spectrum, not a scan",
    "1.2.840.10008.5.1.4.1.1.4.2": "raw data or a spectrum, not a scan",
    "1.2.840.10008.5.1.4.1.1.30": "a map computed from scans, not a scan",
}
"""Raw Data, MR Spectroscopy and Parametric Map Storage, which have a scan's modality."""

_STANDARD = "1.2.840.10008."


def left_out(header: Header) -> str | None:
    """Why an object is none of the images that are read, or None if it may be one, or a damaged one."""
    sop_class = header.text("SOPClassUID")
    if sop_class == SECONDARY_CAPTURE or sop_class.startswith(f"{SECONDARY_CAPTURE}."):
        return "a secondary capture, not a scan"
    if sop_class in _NO_SCANS:
        return _NO_SCANS[sop_class]
    if sop_class and not (sop_class.startswith(_STANDARD) or has_place(header) or "Rows" in header.dataset):
        return "a maker's own object without an image"
    modality = header.text("Modality").upper()
    if modality in OTHER_MODALITIES:
        return f"of modality {modality}, not a scan by {', '.join(MODALITIES[:-1])} or {MODALITIES[-1]}"
    if is_localizer(header):
        return "a localizer, not a scan to segment"
    return None


def is_localizer(header: Header) -> bool:
    """Whether an image was made to plan others."""
    return "LOCALIZER" in image_type(header.values)


def has_place(header: Header) -> bool:
    """Whether an object says where in the patient it lies, as slices do and reports and screenshots need not."""
    return "ImagePositionPatient" in header.dataset or "PerFrameFunctionalGroupsSequence" in header.dataset
