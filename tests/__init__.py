"""The tests: what every one of their processes starts with, and the run-time type checker.

Models this small are fastest, and repeatable, with one thread: ``GROWCLIP_TEST_THREADS`` asks for
another number. A process that finds no bytecode of its libraries on the disk compiles them for ten
seconds, so the tests and what they start keep it. The type checker is beartype, with ints allowed
where floats are.
"""

import os
import sys

from beartype import BeartypeConf, beartype

os.environ["OMP_NUM_THREADS"] = os.environ.get("GROWCLIP_TEST_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
