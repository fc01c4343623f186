"""Kinds of open tagger, and what all of them share. Standard library only."""

from __future__ import annotations

__all__ = ["EXAMPLES", "MOST_TAGS", "VOCABULARY_KINDS"]

EXAMPLES = {
    "siglip": "google/siglip2-base-patch16-224",
    "clip": "openai/clip-vit-large-patch14",
    "florence2": "florence-community/Florence-2-base",
    "ram": "./ram",
}
"""Kinds of tagger, each with a place where one is."""
VOCABULARY_KINDS = ("siglip", "clip")
"""Kinds that choose from a list of tags; the others bring their own words."""
MOST_TAGS = 10
"""Tags that a tagger gives one picture at most: few and sure ones."""
