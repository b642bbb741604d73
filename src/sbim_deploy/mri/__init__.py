"""MRI operators and calibration in numpy: no file, no engine, no sampler."""
