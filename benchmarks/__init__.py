"""Side-by-side measurements; each prints its table with the command, seed and commit."""
