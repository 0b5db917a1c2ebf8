"""Explain and analyse networks that read bone age from hand radiographs."""

__version__ = "0.1.0"
