"""Files and folders, whoever wrote them: atomic writing, HDF5, hashing, records from JSON and YAML."""
