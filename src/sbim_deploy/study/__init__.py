"""Reconstructs many files on many processes: Dask hands out the tasks, and recon computes."""
