"""Pairs, stages and zero-shot tasks."""
