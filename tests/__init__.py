"""The run-time type checker of the tests: beartype, with ints allowed where floats are."""

from beartype import BeartypeConf, beartype

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
