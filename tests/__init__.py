"""The tests: what every one of their processes starts with, and the run-time type checker.

Models this small are fastest, and repeatable, with one thread: ``GROWCLIP_TEST_THREADS`` asks for
another number. A process that finds no bytecode of its libraries on the disk compiles them for ten
seconds, so the tests and what they start keep it. The type checker is beartype, with ints allowed
where floats are.

jaxtyping binds the signature of every call and checks its arguments twice, for the sake of shapes
that argument and result share. Where no annotation is of a shape, beartype checks alone: that is
most functions, and took more than half of the time of tests that grow models.
"""

import os
import sys
import typing
from collections.abc import Callable
from types import FunctionType
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

os.environ["OMP_NUM_THREADS"] = os.environ.get("GROWCLIP_TEST_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))
_jaxtyped = jaxtyping.jaxtyped


def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """jaxtyping's decorator for classes and where shapes are annotated, else beartype's."""

    def decorated(target: Any) -> Any:
        is_plain = isinstance(target, FunctionType) and not any(
            has_shape(annotation) for annotation in target.__annotations__.values()
        )
        return check_types(target) if is_plain else _jaxtyped(target, typechecker=typechecker)

    return decorated


def has_shape(annotation: Any) -> bool:
    """Whether an annotation is, or holds, an array of jaxtyping's; of names nobody knows yet."""
    if isinstance(annotation, str):
        return True
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    parts = annotation if isinstance(annotation, list) else typing.get_args(annotation)
    return any(has_shape(part) for part in parts)


jaxtyping.jaxtyped = jaxtyped
