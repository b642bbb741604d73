"""A server behind a scanner: MRD raw data in, images out, slice by slice."""
