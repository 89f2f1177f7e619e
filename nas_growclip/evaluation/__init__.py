"""Zero-shot classification, retrieval and the table of metrics."""
