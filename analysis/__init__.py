"""Figures and tables drawn from the product and from run folders."""
