"""Training recipes and the training engine."""
