"""Hand regions: label maps on disk and on the network's grid, and attribution per region."""
