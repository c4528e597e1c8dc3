"""Selections on disk, in formats that people load."""
