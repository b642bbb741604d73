"""A client like a scanner, for any MRD server."""
