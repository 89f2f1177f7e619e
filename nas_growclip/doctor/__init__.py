"""What is wrong on this machine or in a run folder, and the remedy."""
