"""Candidates for tests."""

from nas_growclip.growth.candidates import Candidate, GrowthStep


def grown(dimension: str, old: int, new: int) -> Candidate:
    """A candidate of one step."""
    return Candidate(steps=(GrowthStep(dimension=dimension, old=old, new=new),))
