"""Where pairs come from: one module a source, and what they share."""
