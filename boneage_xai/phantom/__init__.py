"""Procedural hand radiographs whose maturity, regions and nuisances are known."""
