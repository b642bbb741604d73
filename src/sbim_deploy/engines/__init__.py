"""Engines that run a graph: named arrays in, named arrays out; they know no MRI."""
