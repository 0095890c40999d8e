"""What a method sets, and what a user sets beside it."""

import pytest

from serl_trl.self_play import SelfPlaySettings
from serl_trl.self_play.settings import METHODS


PAPER = {
    "min_pass_rate": 0.2,
    "max_pass_rate": 0.8,
    "nearness_level": 0.0,
    "first_generations": 0,
    "confirm_majority": False,
    "evidence_seeds": 0,
    "sentinel_checks": 0,
}


def trust_settings(**given) -> dict:
    settings = SelfPlaySettings(**given)
    return {name: getattr(settings, name) for name in PAPER}


def test_the_default_is_the_papers():
    assert SelfPlaySettings().method == "paper"
    assert trust_settings() == trust_settings(method="paper") == PAPER  # the published band, and nothing beside it


def test_each_method_sets_the_same_settings():
    for method, values in METHODS.items():
        assert values.keys() == PAPER.keys()
        assert trust_settings(method=method) == values
    assert all(METHODS["trusted"][name] != value for name, value in PAPER.items() if name != "min_pass_rate")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_pass_rate", 0.5),
        ("min_pass_rate", 0.0),  # what is set to nothing is set, too
        ("max_pass_rate", 1.0),
        ("nearness_level", 2.0),
        ("nearness_level", 0.0),
        ("first_generations", 4),
        ("first_generations", 0),
        ("confirm_majority", True),
        ("confirm_majority", False),
        ("evidence_seeds", 10),
        ("evidence_seeds", 0),
        ("sentinel_checks", 3),
        ("sentinel_checks", 0),
    ],
)
def test_an_explicit_value_wins(method, name, value):
    # Without evidence no seeds are watched.
    others = {"sentinel_checks": 0} if (name, value) == ("evidence_seeds", 0) else {}
    given = {"evidence_seeds": 64} if name == "sentinel_checks" else {}
    assert trust_settings(method=method, **given, **{name: value}) == METHODS[method] | given | others | {name: value}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "best"}, "method is 'best'. Set it to one of None, paper, trusted"),
        ({"method": ""}, "method is ''. Set it to one of"),
        ({"method": "trusted", "confirm_majority": "yes"}, "confirm_majority is 'yes'. Set it to true or false"),
        ({"method": "trusted", "evidence_seeds": -1}, "evidence_seeds is -1. Set it to at least 0"),
        ({"method": "trusted", "evidence_seeds": 2.5}, "evidence_seeds is 2.5. Set it to a whole number"),
        ({"method": "trusted", "first_generations": -8}, "first_generations is -8"),
        ({"method": "paper", "sentinel_checks": 8}, "sentinel_checks is 8, and evidence_seeds is 0"),
        ({"method": "trusted", "sentinel_checks": 1001}, "sentinel_checks is 1001. Set it within"),
        ({"slow_decay": 1.5}, "slow_decay is 1.5. Set it within"),
        ({"method": "trusted", "min_pass_rate": 0.95}, "min_pass_rate and max_pass_rate are 0.95 and 0.9"),
        ({"min_pass_rate": 0.85}, "min_pass_rate and max_pass_rate are 0.85 and 0.8"),  # the paper's upper bound
    ],
)
def test_bad_settings_of_trust_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        SelfPlaySettings(**given)
