"""An app for MONAI Deploy: a DICOM study in, DICOM SEG out, through a bundle. Needs the extra ``deploy``."""
