"""Open tags and the prompts made of them."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linearsr.errors import ConfigError
from linearsr.tags.prompts import MAX_OPEN_TAGS, MAX_TAG_CHARS, make_prompt, normalise_prompt, parse_open_tags

WORDS = st.text(string.ascii_letters + " -'\t", max_size=20)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", ()),
        (" , ,", ()),
        ("Stone  Bridge , river", ("stone bridge", "river")),
        ("river, trees, RIVER", ("river", "trees")),
        (["b", "a", "b, c"], ("b", "a", "c")),
        ("\u00c9glise, \u6728", ("\u00e9glise", "\u6728")),
    ],
)
def test_parse_open_tags_gives_canonical_names_in_the_order_given(typed, expected):
    assert parse_open_tags(typed) == expected


@given(st.lists(WORDS, max_size=MAX_OPEN_TAGS))
def test_parse_open_tags_reads_its_own_prompt(words):
    names = parse_open_tags(words)
    assert parse_open_tags(make_prompt(names)) == names
    assert len(set(names)) == len(names)
    assert all(name == name.lower().strip() and "  " not in name for name in names)


def test_parse_open_tags_counts_tags_without_repeats():
    names = [f"tag {i}" for i in range(MAX_OPEN_TAGS)]
    assert parse_open_tags(names + names) == tuple(names)
    with pytest.raises(ConfigError, match="16 tags are given .* at most 15"):
        parse_open_tags([*names, "one more"])


def test_parse_open_tags_refuses_a_sentence():
    assert parse_open_tags("x" * MAX_TAG_CHARS) == ("x" * MAX_TAG_CHARS,)
    with pytest.raises(ConfigError, match="has 101 characters, expected at most 100"):
        parse_open_tags("river, " + "x" * 101)


@pytest.mark.parametrize(
    ("tags", "suffix", "expected"),
    [
        ((), "", ""),
        (("river",), "", "river"),
        (("stone bridge", "river"), "", "stone bridge, river"),
        ((), " Clean ", "clean"),
        (("river",), "clean, high-resolution", "river, clean, high-resolution"),
    ],
)
def test_make_prompt_joins_by_comma_and_space(tags, suffix, expected):
    assert make_prompt(tags, suffix) == expected
    assert normalise_prompt(expected) == expected
