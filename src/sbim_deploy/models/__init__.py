"""Model folders, the engines that are built from them, and the choice of a backend."""
