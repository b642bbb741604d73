"""The MRD (ISMRMRD) format: header, messages, stream, socket, files, images."""
