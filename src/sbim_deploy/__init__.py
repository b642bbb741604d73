"""Score-based MRI reconstruction without PyTorch: export, validate, reconstruct.

Research use only: the images are not for diagnosis.
"""

__version__ = "0.1.0"
