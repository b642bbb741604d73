"""K-space records in, reconstruction records out: wires the operators, the sampler and the engine."""
