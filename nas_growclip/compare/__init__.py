"""Comparisons: arms of one experiment over seeds, compared pair by pair."""
