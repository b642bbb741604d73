"""What comes out: result files, DICOM, NIfTI and MRD images, and where they lie in the patient."""
