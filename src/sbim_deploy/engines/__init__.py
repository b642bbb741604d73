"""Engines run graphs: named arrays go in, named arrays come out. They know no MRI."""
