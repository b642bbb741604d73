"""From a PyTorch checkpoint to a model folder: the network, the checkpoint, the graphs, their parity."""
