"""Many files on many processes: Dask distributed plans, recon computes."""
