"""Radiographs, label tables, cohorts, preprocessing and the pixel cache."""
