"""Search backends, objectives and the ask-tell loop."""
