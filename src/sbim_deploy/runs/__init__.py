"""A file in, a file out: reconstruct, simulate, evaluate, describe, measure."""
