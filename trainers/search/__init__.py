"""Hyper-parameter search over training recipes, with Optuna."""
