"""The command line: parsers, and what each command does with them."""
