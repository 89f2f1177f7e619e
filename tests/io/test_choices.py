import pytest

from nas_growclip.io.choices import did_you_mean, look_up, require_choice

TABLE = {"exact": 1, "average": 2, "net2net": 3}


def test_a_name_in_the_table_gives_what_it_stands_for() -> None:
    assert look_up(TABLE, "average", "operator") == 2


def test_an_unknown_name_gets_the_list_and_the_nearest_one() -> None:
    with pytest.raises(
        ValueError, match=r"^growth\.operator: must be one of exact, average, net2ne"
    ) as e:
        look_up(TABLE, "exakt", "growth.operator")
    assert str(e.value).endswith("but got 'exakt'. Did you mean 'exact'?")


def test_a_name_unlike_any_gets_no_question() -> None:
    with pytest.raises(ValueError, match=r"but got 'zzz'\.$"):
        require_choice("zzz", TABLE, "operator")
    assert did_you_mean("zzz", TABLE) == ""


def test_a_long_table_is_not_listed_and_a_long_name_is_cut() -> None:
    names = [f"ViT-B-{size}" for size in range(100)]
    with pytest.raises(
        ValueError, match=r"must be one of 100 names, but got 'ViT-B'\. Did you mean"
    ):
        require_choice("ViT-B", names, "model")
    with pytest.raises(ValueError, match=r"must be one of 100 names") as error:
        require_choice("x" * 10_000, names, "model")
    assert len(str(error.value)) < 120
