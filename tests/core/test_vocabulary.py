"""Tags as people type them, their ids, and taggers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.errors import ConfigError
from linearsr.tags.tagger import FixedTagger, Tagger
from linearsr.tags.vocabulary import (
    COMPACT_VOCABULARY,
    DEGRADATIONS,
    MAX_CONTENT_TAGS,
    MAX_TAGS,
    closed_vocabulary,
    parse_tags,
    tag_ids,
)

CONTENT = ("fur", "night street", "facade", "water", "leaves", "text")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clean", ("clean",)),
        ("", ()),
        (" , ", ()),
        ("jpeg:strong, noise:weak", ("noise:weak", "jpeg")),
        ("JPEG,Blur", ("blur", "jpeg")),
        ("blur,blur:strong", ("blur",)),
        (["noise", "blur:weak"], ("blur:weak", "noise")),
        ((), ()),
    ],
)
def test_parse_tags_gives_canonical_names_in_vocabulary_order(text: str, expected: tuple[str, ...]) -> None:
    assert parse_tags(text) == expected


@pytest.mark.parametrize(
    ("text", "close"), [("nois", "noise"), ("jpg", "jpeg"), ("blury", "blur"), ("jpeg:weka", "jpeg:weak")]
)
def test_parse_tags_suggests_the_closest_name(text: str, close: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown tag '{text}', expected clean, blur:weak") as caught:
        parse_tags(text)
    assert caught.value.hint == f"did you mean {close!r}?"


@pytest.mark.parametrize("text", ["noise,noise:weak", "blur:strong,blur:weak", "jpeg,jpeg:weak,clean"])
def test_parse_tags_refuses_two_strengths_of_one_degradation(text: str) -> None:
    with pytest.raises(ConfigError, match="contradict each other"):
        parse_tags(text)


def test_parse_tags_refuses_clean_beside_a_degradation() -> None:
    with pytest.raises(ConfigError, match="'clean' means no degradation"):
        parse_tags("clean, jpeg")


def test_parse_tags_follows_a_checkpoints_own_vocabulary() -> None:
    assert parse_tags("fog, rain", ("rain", "fog")) == ("rain", "fog")
    with pytest.raises(ConfigError, match="unknown tag 'clean', expected rain, fog"):
        parse_tags("clean", ("rain", "fog"))


@given(st.dictionaries(st.sampled_from(DEGRADATIONS), st.sampled_from(["", ":weak", ":strong"])))
def test_any_strength_of_each_degradation_fits_the_network(chosen: dict[str, str]) -> None:
    names = parse_tags([kind + strength for kind, strength in chosen.items()])
    assert len(names) == len(chosen) <= MAX_TAGS
    assert parse_tags(names) == names
    assert [COMPACT_VOCABULARY[i - 1] for i in tag_ids(names)] == list(names)


def test_tag_ids_leave_zero_to_the_null_tag() -> None:
    assert [tag_ids((name,)) for name in COMPACT_VOCABULARY] == [[i] for i in range(1, 8)]
    assert tag_ids(()) == []


def test_content_tags_follow_the_degradations_in_the_vocabulary() -> None:
    assert closed_vocabulary() == COMPACT_VOCABULARY
    assert closed_vocabulary(CONTENT) == (*COMPACT_VOCABULARY, *CONTENT)
    assert tag_ids(("clean", "fur", "text"), closed_vocabulary(CONTENT)) == [1, 8, 13]


@pytest.mark.parametrize("name", ["", " fur", "Fur", "fur,hair", "fur:weak", "fur\nhair"])
def test_closed_vocabulary_refuses_names_that_cannot_be_typed(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used, expected lower case"):
        closed_vocabulary((name,))


def test_closed_vocabulary_refuses_repeated_and_taken_names() -> None:
    with pytest.raises(ConfigError, match="'fur' is listed twice"):
        closed_vocabulary(("fur", "text", "fur"))
    with pytest.raises(ConfigError, match="'clean' is the name of a degradation"):
        closed_vocabulary(("clean",))


@given(
    st.dictionaries(st.sampled_from(DEGRADATIONS), st.sampled_from(["", ":weak", ":strong"])),
    st.sets(st.sampled_from(CONTENT), max_size=MAX_CONTENT_TAGS),
)
def test_content_tags_go_with_each_other_and_with_any_degradation(chosen: dict[str, str], content: set[str]) -> None:
    vocabulary = closed_vocabulary(CONTENT)
    degraded = parse_tags([kind + strength for kind, strength in chosen.items()])
    expected = (*(degraded or ("clean",)), *(name for name in CONTENT if name in content))
    assert parse_tags([*content, *(degraded or ("clean",))], vocabulary) == expected
    assert [vocabulary[i - 1] for i in tag_ids(expected, vocabulary)] == list(expected)


def test_parse_tags_refuses_more_content_tags_than_a_picture_carries() -> None:
    vocabulary = closed_vocabulary(CONTENT)
    assert len(parse_tags([*CONTENT[:MAX_CONTENT_TAGS], "noise"], vocabulary)) == MAX_CONTENT_TAGS + 1
    with pytest.raises(ConfigError, match=f"6 content tags are given .*, expected at most {MAX_CONTENT_TAGS}"):
        parse_tags(CONTENT, vocabulary)


def test_content_tags_do_not_lift_the_rules_for_degradations() -> None:
    vocabulary = closed_vocabulary(CONTENT)
    with pytest.raises(ConfigError, match="'clean' means no degradation"):
        parse_tags("fur, clean, jpeg:weak", vocabulary)
    with pytest.raises(ConfigError, match="contradict each other"):
        parse_tags("fur, jpeg, jpeg:weak", vocabulary)


def test_fixed_tagger_is_a_tagger_that_ignores_the_picture() -> None:
    tagger = FixedTagger(("noise",))
    assert isinstance(tagger, Tagger)
    assert tagger.tag(torch.rand(3, 4, 4)) == tagger.tag(torch.zeros(3, 9, 9)) == ("noise",)
