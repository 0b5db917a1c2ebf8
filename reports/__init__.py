"""Self-contained HTML reports made from an analysis folder."""
