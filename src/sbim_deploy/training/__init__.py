"""Denoising score matching on synthetic brains."""
