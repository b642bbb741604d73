"""One slice: from raw k-space to an image, on whichever graph and engine."""
