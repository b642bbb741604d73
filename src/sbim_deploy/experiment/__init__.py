"""Compares methods over accelerations, as the thesis does, and writes a table and a page."""
