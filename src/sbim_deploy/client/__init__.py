"""A client that behaves like a scanner, for any MRD server."""
