"""Figures from plain arrays and tables, returned as matplotlib figures."""
