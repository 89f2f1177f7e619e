"""Growth: the space, the operators, inheriting and momentum."""
