"""Reconstructs one slice, from raw k-space to an image, on any graph and engine."""
