"""Signed attribution maps in months, activation maps, and both over a cohort."""
