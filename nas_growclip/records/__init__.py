"""What a run writes down, and the frames that are read from it."""
