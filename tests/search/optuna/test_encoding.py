"""Encodings: samples are legal candidates, every candidate can be drawn, names keep choices."""

import itertools
import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution, json_to_distribution
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler
from optuna.trial import FixedTrial

from nas_growclip.growth.candidates import NO_GROWTH, Candidate, GrowthStep
from nas_growclip.growth.encoding import ConditionalEncoding, OrdinalEncoding
from nas_growclip.growth.parameters import grow_value
from nas_growclip.growth.space import Combination, GrowthSpace, SizeChoices
from nas_growclip.models.arch import ClipArch
from nas_growclip.search.export_space import FORMATS, space_document
from nas_growclip.search.nni.space import candidate_from_nni, nni_space
from nas_growclip.search.optuna.samplers import grid
from tests.support.strategies import archs

Sizes = Mapping[str, Sequence[int]]
ENCODINGS = [ConditionalEncoding, OrdinalEncoding]
SIZES: Sizes = {
    "image.width": (96, 128),
    "text.depth": (3, 4, 5),
    "shared.depth": (2,),
    "embed_dim": (64,),
}
TINY = ClipArch.preset("tiny")


def made(
    sizes: Sizes, together: int, momenta: Sequence[float] = (), share: float = 1.0, seed: int = 0
) -> tuple[Candidate, ...]:
    """Candidates of up to ``together`` dimensions; a random share of them is legal."""
    rng = random.Random(seed)
    candidates = (
        Candidate(
            steps=tuple(
                GrowthStep(dimension=dimension, old=1, new=new)
                for dimension, new in zip(chosen, news, strict=True)
            ),
            momentum=momentum,
        )
        for count in range(1, together + 1)
        for chosen in itertools.combinations(sizes, count)
        for news in itertools.product(*(sizes[d] for d in chosen))
        for momentum in (momenta or (None,))
    )
    return (NO_GROWTH, *(c for c in candidates if rng.random() < share))


SPACES: dict[str, tuple[Candidate, ...]] = {
    f"{share:.0%} legal, {len(momenta)} momenta": made(SIZES, 3, momenta, share, seed=2)
    for share in (1.0, 0.6, 0.2)
    for momenta in ((), (0.9,), (1.0, 0.5))
} | {"no growth only": (NO_GROWTH,), "one candidate": made({"text.depth": (3,)}, 1)}

PATCHES = GrowthSpace(
    dimensions={
        "shared.mlp_width": SizeChoices(sizes=(300,)),
        "image.patch_size": SizeChoices(sizes=(4, 6, 24)),
        "image.image_size": SizeChoices(sizes=(40, 48, 72)),
        "text.depth": SizeChoices(add=(1, 2)),
        "shared.depth": SizeChoices(add=(1,)),
    },
    combine=(Combination(from_pairs=0, num_dimensions=2),),
    momenta=(1.0, 0.5),
)
"""A space of which many combinations are illegal: patches must fill the image."""

WIDE = GrowthSpace(
    dimensions={
        "image.width": SizeChoices(ratios=(1.5, 2.0)),
        "image.heads": SizeChoices(add=(1, 2)),
        "image.patch_size": SizeChoices(sizes=(2, 3, 6)),
        "image.image_size": SizeChoices(add=(1, 5)),
        "shared.depth": SizeChoices(add=(1,)),
        "shared.mlp_width": SizeChoices(ratios=(1.5, 2.0)),
        "embed_dim": SizeChoices(add=(1, 6)),
    },
    combine=(Combination(from_pairs=0, num_dimensions=2),),
)


@pytest.fixture(params=SPACES)
def candidates(request: pytest.FixtureRequest) -> tuple[Candidate, ...]:
    return SPACES[request.param]


@pytest.fixture(params=ENCODINGS)
def encoding(request: pytest.FixtureRequest, candidates: tuple[Candidate, ...]) -> Any:
    return request.param(candidates)


class Space(NamedTuple):
    """What random candidates are made of, outside the strategy: checking types draws numbers."""

    sizes: Sizes
    together: int
    num_momenta: int
    share: float
    seed: int

    def candidates(self) -> tuple[Candidate, ...]:
        momenta = (1.0, 0.9, 0.5)[: self.num_momenta]
        return made(self.sizes, self.together, momenta, self.share, self.seed)


RANDOM_SPACES = st.builds(
    Space,
    sizes=st.dictionaries(
        st.sampled_from(["image.width", "text.depth", "shared.depth", "embed_dim"]),
        st.lists(st.integers(2, 9), min_size=1, max_size=3, unique=True).map(sorted).map(tuple),
        max_size=4,
    ),
    together=st.integers(1, 3),
    num_momenta=st.integers(0, 3),
    share=st.sampled_from([0.2, 0.6, 1.0]),
    seed=st.integers(0, 99),
)


def labels(candidates: Sequence[Candidate]) -> list[str]:
    return sorted(c.label for c in candidates)


def distributions(encoding: Any) -> dict[str, Any]:
    """Every parameter of an encoding as Optuna has it."""
    if isinstance(encoding, OrdinalEncoding):
        return {name: IntDistribution(0, top) for name, top in encoding.tops().items()}
    return {name: CategoricalDistribution(c) for name, c in encoding.choices().items()}


def drawn(encoding: Any, sampler: BaseSampler, most: int) -> Iterator[Candidate]:
    """What a study draws, until it stops itself or has drawn the most."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: list[Candidate] = []
    known = distributions(encoding)

    def objective(trial: optuna.Trial) -> float:
        found.append(encoding.suggest(trial))
        assert trial.distributions == {name: known[name] for name in trial.distributions}
        return float(trial.number % 5)

    optuna.create_study(sampler=sampler).optimize(objective, n_trials=most)
    yield from found


# Optuna


def test_parameters_give_their_candidate_back(encoding: Any) -> None:
    for candidate in encoding.candidates:
        params = encoding.params(candidate)
        trial = FixedTrial(params)
        assert encoding.suggest(trial) == candidate
        assert trial.params == params


@settings(max_examples=20)
@given(RANDOM_SPACES)
def test_parameters_give_their_candidate_back_in_any_space(space: Space) -> None:
    candidates = space.candidates()
    for encode in ENCODINGS:
        encoding = encode(candidates)
        params = [encoding.params(candidate) for candidate in candidates]
        assert [encoding.suggest(FixedTrial(p)) for p in params] == list(candidates)
        assert {name for p in params for name in p} == set(distributions(encoding))


@settings(max_examples=6)
@given(archs(), st.integers(0, 2))
def test_every_encoding_holds_for_growth_spaces_of_any_parent(
    parent: ClipArch, num_momenta: int
) -> None:
    candidates = WIDE.candidates(parent, 1)
    if num_momenta:
        grown = (replace(candidate, momentum=1 / num_momenta) for candidate in candidates[1:])
        candidates = (NO_GROWTH, *grown)
    for encode in ENCODINGS:
        encoding = encode(candidates)
        for candidate in candidates:
            assert encoding.suggest(FixedTrial(encoding.params(candidate))) == candidate
    assert labels(nni_samples(nni_space(candidates), candidates)) == labels(candidates)


def test_study_accepts_every_draw_and_every_draw_is_legal(encoding: Any) -> None:
    for candidate in drawn(encoding, RandomSampler(seed=1), most=200):
        assert candidate in encoding.candidates


@settings(max_examples=10)
@given(RANDOM_SPACES)
def test_study_accepts_every_draw_in_any_space(space: Space) -> None:
    candidates = space.candidates()
    for encode in ENCODINGS:
        for candidate in drawn(encode(candidates), RandomSampler(seed=1), most=40):
            assert candidate in candidates


@pytest.mark.parametrize("space", SPACES)
def test_optuna_reaches_every_candidate_once_by_brute_force(space: str) -> None:
    found = list(drawn(ConditionalEncoding(SPACES[space]), grid(seed=0), most=1000))
    assert labels(found) == labels(SPACES[space])


@pytest.mark.parametrize("space", ["100% legal, 1 momenta", "60% legal, 2 momenta"])
def test_cmaes_takes_the_levels(space: str) -> None:
    sampler = CmaEsSampler(seed=1, n_startup_trials=2, warn_independent_sampling=False)
    found = list(drawn(OrdinalEncoding(SPACES[space]), sampler, most=20))
    assert len(set(found)) > 1
    assert set(found) <= set(SPACES[space])


def test_conditional_names_are_plain_where_every_size_is_legal() -> None:
    encoding = ConditionalEncoding(PATCHES.candidates(TINY, 1))
    plain = encoding.choices()
    assert plain["text.depth"] == (3, 4)
    assert plain["momentum"] == (1.0, 0.5)
    asked = [encoding.params(candidate) for candidate in encoding.candidates]
    qualified = {n for p in asked for n in p if "|" in n}
    assert qualified
    assert {n.partition("|")[0] for n in qualified} <= {"image.patch_size", "image.image_size"}


def test_conditional_parameters_read_as_the_dimensions_do() -> None:
    candidates = made({"image.width": (96, 128), "text.depth": (3, 4)}, 2, momenta=(0.9, 1.0))
    steps = (
        GrowthStep(dimension="image.width", old=1, new=96),
        GrowthStep(dimension="text.depth", old=1, new=4),
    )
    both = Candidate(steps=steps, momentum=0.9)
    assert ConditionalEncoding(candidates).params(both) == {
        "grow": "image.width+text.depth",
        "image.width": 96,
        "text.depth": 4,
        "momentum": 0.9,
    }
    assert ConditionalEncoding(candidates).params(NO_GROWTH) == {"grow": "none"}
    assert OrdinalEncoding(candidates).params(both) == {
        "image.width": 1,
        "text.depth": 2,
        "momentum": 0,
    }
    assert OrdinalEncoding(candidates).params(NO_GROWTH) == {
        "image.width": 0,
        "text.depth": 0,
        "momentum": 0,
    }


def test_levels_of_no_candidate_give_the_nearest_and_of_equals_the_earlier(
    candidates: tuple[Candidate, ...],
) -> None:
    encoding = OrdinalEncoding(candidates)
    names = list(encoding.tops())
    for levels in itertools.product(*(range(top + 1) for top in encoding.tops().values())):
        chosen = dict(zip(names, levels, strict=True))
        distances = [level_distance(candidates, c, chosen) for c in candidates]
        nearest = candidates[distances.index(min(distances))]
        assert encoding.suggest(FixedTrial(chosen)) == nearest


def level_distance(
    candidates: Sequence[Candidate], candidate: Candidate, levels: Mapping[str, Any]
) -> int:
    """How far levels are from a candidate, counted from the candidates alone."""
    distance = 0
    for name, level in levels.items():
        if name == "momentum":
            momenta = list(dict.fromkeys(c.momentum for c in candidates if c.grows))
            own = momenta.index(candidate.momentum) if candidate.grows else level
        else:
            sizes = sorted({s.new for c in candidates for s in c.steps if s.dimension == name})
            own = sum(1 + sizes.index(s.new) for s in candidate.steps if s.dimension == name)
        distance += abs(level - own)
    return distance


@pytest.mark.parametrize("encode", ENCODINGS)
def test_candidate_of_another_space_is_refused(encode: Any) -> None:
    encoding = encode(made({"text.depth": (3,)}, 1))
    other = made({"text.depth": (9,)}, 1)[1]
    with pytest.raises(ValueError, match=r"'text.depth=9' must be one of the space's 2 candid"):
        encoding.params(other)


# NNI


def nni_samples(space: Mapping[str, Any], candidates: Sequence[Candidate]) -> list[Candidate]:
    """Every sample that a search space allows, decoded."""
    samples = [
        {"grow": {"_name": item["_name"], **dict(zip(names, values, strict=True))}}
        for item in space["grow"]["_value"]
        for names in [[name for name in item if name != "_name"]]
        for values in itertools.product(*(item[name]["_value"] for name in names))
    ]
    return [candidate_from_nni(sample, candidates) for sample in samples]


@settings(max_examples=20)
@given(RANDOM_SPACES)
def test_nni_space_allows_every_candidate_once(space: Space) -> None:
    candidates = space.candidates()
    written = json.loads(json.dumps(nni_space(candidates)))
    assert labels(nni_samples(written, candidates)) == labels(candidates)
    assert labels(nni_samples(nni_space(candidates[1:]), candidates)) == labels(candidates[1:])


def test_nni_space_is_a_nested_choice() -> None:
    assert nni_space(made({"image.width": (96, 128)}, 1, momenta=(0.9, 1.0))) == {
        "grow": {
            "_type": "choice",
            "_value": [
                {"_name": "none"},
                {
                    "_name": "image.width",
                    "image.width": {"_type": "choice", "_value": [96, 128]},
                    "momentum": {"_type": "choice", "_value": [0.9, 1.0]},
                },
            ],
        }
    }


def test_nni_space_is_cut_into_products_where_it_is_none() -> None:
    sizes = {"image.width": (96, 128), "text.depth": (3, 4)}
    whole = [c for c in made(sizes, 2) if len(c.steps) == 2]
    assert [item["_name"] for item in nni_space(whole)["grow"]["_value"]] == [
        "image.width+text.depth"
    ]
    assert nni_space(whole[:-1])["grow"]["_value"] == [
        {
            "_name": "image.width=96+text.depth",
            "image.width": {"_type": "choice", "_value": [96]},
            "text.depth": {"_type": "choice", "_value": [3, 4]},
        },
        {
            "_name": "image.width=128+text.depth",
            "image.width": {"_type": "choice", "_value": [128]},
            "text.depth": {"_type": "choice", "_value": [3]},
        },
    ]


def make_tuner(name: str) -> Any:
    pytest.importorskip("nni")
    from nni.algorithms.hpo import (  # noqa: PLC0415  NNI is optional
        evolution_tuner,
        gridsearch_tuner,
        random_tuner,
        tpe_tuner,
    )

    for module in (evolution_tuner, gridsearch_tuner, random_tuner, tpe_tuner):
        logging.getLogger(module.__name__).setLevel(logging.ERROR)
    makers = {
        "TPE": lambda: tpe_tuner.TpeTuner(seed=1),
        "Random": lambda: random_tuner.RandomTuner(seed=1),
        "Evolution": lambda: evolution_tuner.EvolutionTuner(population_size=20),
        "GridSearch": gridsearch_tuner.GridSearchTuner,
    }
    return makers[name]()


def asked_of(tuner: Any, space: Mapping[str, Any], most: int) -> Iterator[Any]:
    """What a tuner of NNI asks for, until it has no more."""
    import nni  # noqa: PLC0415  NNI is optional

    tuner.update_search_space(space)
    for number in range(most):
        try:
            sample = tuner.generate_parameters(number)
        except nni.NoMoreTrialError:
            return
        yield sample
        tuner.receive_trial_result(number, sample, float(number % 7))


@pytest.mark.parametrize("name", ["TPE", "Random", "Evolution", "GridSearch"])
def test_samples_of_nni_tuners_are_legal(name: str, candidates: tuple[Candidate, ...]) -> None:
    space = json.loads(json.dumps(nni_space(candidates)))
    for sample in asked_of(make_tuner(name), space, most=60):
        assert candidate_from_nni(sample, candidates) in candidates


@pytest.mark.parametrize("name", ["TPE", "Random", "GridSearch"])
def test_nni_tuners_reach_every_candidate_once(
    name: str, candidates: tuple[Candidate, ...]
) -> None:
    """TPE and Random propose nothing twice, and give up where they find nothing new."""
    tuner = make_tuner(name)
    samples = asked_of(tuner, nni_space(candidates), most=1000)
    found = [candidate_from_nni(sample, candidates) for sample in samples]
    assert len(set(found)) == len(found)
    if name == "GridSearch":
        assert labels(found) == labels(candidates)
    else:
        assert len(found) > len(candidates) / 2


def test_nni_tuners_take_a_growth_space_with_illegal_combinations() -> None:
    candidates = PATCHES.candidates(TINY, 1)
    assert any("=" in item["_name"] for item in nni_space(candidates)["grow"]["_value"])
    tuner = make_tuner("GridSearch")
    samples = asked_of(tuner, nni_space(candidates), most=1000)
    assert labels([candidate_from_nni(s, candidates) for s in samples]) == labels(candidates)


@pytest.mark.parametrize("size", [96, 96.0, np.float64(96), np.int64(96), "96"])
def test_size_as_nni_gives_it(size: Any) -> None:
    candidates = made({"image.width": (96, 128)}, 1, momenta=(0.9, 1.0))
    inner = {"_name": "image.width", "image.width": size, "momentum": np.float64(0.9)}
    assert candidate_from_nni({"grow": inner}, candidates).label == "image.width=96@0.9"


@pytest.mark.parametrize("sample", [{}, {"grow": {"_name": "none"}}, {"grow": "none"}])
def test_no_growth_as_nni_gives_it(sample: dict[str, Any]) -> None:
    assert candidate_from_nni(sample, made(SIZES, 1)) == NO_GROWTH


@pytest.mark.parametrize(
    "sample",
    [
        {"grow": {"_name": "image.width"}},
        {"grow": {"_name": "image.width", "image.width": 100}},
        {"grow": {"_name": "image.width", "image.width": 96.4}},
        {"grow": {"_name": "image.width", "image.width": None}},
        {"grow": {"_name": "image.width", "image.width": "wide"}},
        {"grow": {"_name": "image.width", "image.width": 96, "momentum": 0.9}},
        {"grow": {"_name": "image.width", "text.depth": 3}},
        {"grow": {"_name": "image.width=96", "image.width": 128}},
        {"grow": {"image.width": 96}},
        {"grow": {"_name": ["none"]}},
        {"grow": {"_name": "none"}, "learning_rate": 0.1},
        {"grow": None},
        {"learning_rate": 0.1},
    ],
    ids=str,
)
def test_bad_nni_sample_is_refused(sample: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be one of the stage's 8 candidates, but got {"):
        candidate_from_nni(sample, made(SIZES, 1))


# Files


def test_nni_document_is_the_search_space_that_nni_accepts() -> None:
    document = json.loads(space_document(TINY, 5, PATCHES, "nni"))
    assert document == nni_space(PATCHES.candidates(TINY, 5))
    hpo_utils = pytest.importorskip("nni.common.hpo_utils")
    assert hpo_utils.validate_search_space(document)


def sample_document(document: Mapping[str, Any], trial: optuna.Trial) -> dict[str, Any]:
    """Draw from a written document as its reader would, with Optuna alone."""
    params: dict[str, Any] = {}
    for parameter in document["parameters"]:
        name = parameter["name"]
        if any(when.items() <= params.items() for when in parameter["when"]):
            distribution = json_to_distribution(json.dumps(parameter["distribution"]))
            params[name] = trial._suggest(name, distribution)
    return params


@pytest.mark.parametrize("num_pairs", [1, 10])
@pytest.mark.parametrize("sampler", [grid(seed=0), RandomSampler(seed=0)], ids=["grid", "random"])
def test_optuna_document_is_sampled_with_optuna_alone(num_pairs: int, sampler: BaseSampler) -> None:
    text = space_document(TINY, num_pairs, PATCHES, "optuna")
    document = json.loads(text)
    label_of = {json.dumps(p): label for label, p in document["candidates"].items()}
    found: list[str] = []

    def objective(trial: optuna.Trial) -> float:
        found.append(label_of[json.dumps(sample_document(document, trial))])
        return 0.0

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(sampler=sampler).optimize(objective, n_trials=400)
    if not isinstance(sampler, RandomSampler):
        assert sorted(found) == labels(PATCHES.candidates(TINY, num_pairs))


def test_optuna_document_says_what_it_was_made_from() -> None:
    document = json.loads(space_document(TINY, 7, PATCHES, "optuna"))
    assert document["num_pairs"] == 7
    assert document["parent"] == TINY.sizes()
    candidates = PATCHES.candidates(TINY, 7)
    assert list(document["candidates"]) == [c.label for c in candidates]
    grow, *others = document["parameters"]
    assert grow["name"] == "grow"
    assert grow["when"] == [{}]
    assert grow["distribution"]["attributes"]["choices"] == list(
        dict.fromkeys(map(grow_value, candidates))
    )
    text_depth = next(p for p in others if p["name"] == "text.depth")
    assert {"grow": "text.depth"} in text_depth["when"]
    assert all(list(when) == ["grow"] for when in text_depth["when"])


@pytest.mark.parametrize("format", FORMATS)
def test_space_with_no_growth_only_is_written(format: str) -> None:
    nothing = GrowthSpace(dimensions={"text.depth": SizeChoices(sizes=(1,))})
    assert "none" in space_document(TINY, 1, nothing, format)


@pytest.mark.parametrize(
    ("num_pairs", "format", "message"),
    [
        (1, "ray", "format: must be one of optuna, nni, but got 'ray'"),
        (0, "nni", "The number of pairs must be 1 or more, but got 0"),
    ],
)
def test_bad_document_is_refused(num_pairs: int, format: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space_document(TINY, num_pairs, PATCHES, format)
