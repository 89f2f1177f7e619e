"""A whole experiment: its configuration, its stages, its trials, and who works on them."""
