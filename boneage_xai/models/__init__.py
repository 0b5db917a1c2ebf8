"""Networks that read bone age from a grey radiograph and the sex."""
