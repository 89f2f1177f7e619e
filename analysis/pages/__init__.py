"""The generated pages of the documentation's site; ``make docs`` builds it."""
