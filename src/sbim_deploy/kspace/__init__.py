"""What comes in: fastMRI, MRD and BART files of k-space, and readouts that become slices."""
