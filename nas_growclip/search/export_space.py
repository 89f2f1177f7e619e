"""A growth space as a file for other tools: NNI's search space, or Optuna's distributions.

NNI's file is what ``nnictl`` takes. Optuna has no file of its own, its spaces being code; ours
holds each parameter's distribution as Optuna writes it, and when it is asked for: a parameter is
asked if, of its ``when``, one entry agrees with everything asked before. ``candidates`` gives
each candidate's parameters by its label, to be read off or put into a study's queue.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution, distribution_to_json

from nas_growclip.growth.encoding import ConditionalEncoding, Value
from nas_growclip.growth.parameters import GROW, MOMENTUM
from nas_growclip.growth.space import GrowthSpace
from nas_growclip.io.choices import look_up
from nas_growclip.models.arch import ClipArch
from nas_growclip.search.nni.space import nni_space

Params = Mapping[str, Value]


def space_document(parent: ClipArch, num_pairs: int, space: GrowthSpace, format: str) -> str:
    """The growth space from a parent at a data size, as another tool's search space.

    Args:
        parent: The architecture that grows.
        num_pairs: Pairs that the stage trains on.
        space: What may grow, and how that widens with the data.
        format: A name in ``FORMATS``.

    Returns:
        JSON text; for ``nni`` the same as a stage's ``search_space.json``.

    Raises:
        ValueError: If the format is unknown or there are no pairs.
    """
    document = look_up(FORMATS, format, "format")
    if num_pairs < 1:
        raise ValueError(f"The number of pairs must be 1 or more, but got {num_pairs}.")
    return json.dumps(document(parent, num_pairs, space), indent=2) + "\n"


def nni_document(parent: ClipArch, num_pairs: int, space: GrowthSpace) -> dict[str, Any]:
    """NNI's search space and nothing else, since ``nnictl`` takes no other key."""
    return nni_space(space.candidates(parent, num_pairs))


def optuna_document(parent: ClipArch, num_pairs: int, space: GrowthSpace) -> dict[str, Any]:
    """Optuna's distributions with their conditions, and what they were made from."""
    encoding = ConditionalEncoding(space.candidates(parent, num_pairs))
    params = {c.label: encoding.params(c) for c in encoding.candidates}
    order = (GROW, *space.dimensions, MOMENTUM)
    parameters = sorted(
        encoding.choices().items(), key=lambda item: order.index(item[0].partition("|")[0])
    )
    return {
        "num_pairs": num_pairs,
        "parent": parent.sizes(),
        "parameters": [
            {
                "name": name,
                "distribution": json.loads(distribution_to_json(CategoricalDistribution(choices))),
                "when": asked_when(name, list(params.values())),
            }
            for name, choices in parameters
        ],
        "candidates": params,
    }


def asked_when(name: str, params: Sequence[Params]) -> list[dict[str, Value]]:
    """Values of earlier parameters with which a parameter is asked for.

    Args:
        name: The parameter.
        params: Every candidate's parameters, in the order of asking.

    Returns:
        Alternatives; in each, everything must agree. Of dimensions that are all asked the same
        ``grow`` is enough; the first parameter needs nothing: one empty alternative.
    """
    if name == GROW:
        return [{}]
    alternatives: list[dict[str, Value]] = []
    for grow in dict.fromkeys(p[GROW] for p in params if name in p):
        same = [p for p in params if p[GROW] == grow]
        is_always = all(name in p for p in same)
        found = [{GROW: grow}] if is_always else [_before(name, p) for p in same if name in p]
        alternatives += [a for place, a in enumerate(found) if a not in found[:place]]
    return alternatives


def _before(name: str, params: Params) -> dict[str, Value]:
    """The parameters asked before one."""
    names = list(params)
    return {earlier: params[earlier] for earlier in names[: names.index(name)]}


FORMATS: Mapping[str, Callable[[ClipArch, int, GrowthSpace], dict[str, Any]]] = {
    "optuna": optuna_document,
    "nni": nni_document,
}
"""What a growth space can be written as."""
