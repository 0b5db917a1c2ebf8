"""Training of the region locator from phantoms: examples, randomisation, recipe and loop."""
