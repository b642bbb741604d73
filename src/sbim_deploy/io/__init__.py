"""Files to records and back: fastMRI HDF5, results, NIfTI, PNG, model folders; no maths."""
