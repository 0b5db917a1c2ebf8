"""What predictions are worth: errors, subgroups, agreement with the reference, baselines."""
