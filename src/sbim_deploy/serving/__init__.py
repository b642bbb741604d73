"""A server behind a scanner, which takes MRD raw data and sends images, slice by slice."""
