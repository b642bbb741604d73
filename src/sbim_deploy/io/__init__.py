"""Files to records and back: fastMRI, MRD, BART, results, DICOM, NIfTI, PNG, model folders; no maths."""
