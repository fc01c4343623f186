"""Layout of tags for a batch, and the null condition."""

from __future__ import annotations

import torch

from linearsr.model.conditioning import Conditioning, TagEmbedding, pad_tag_ids


def test_pad_tag_ids_puts_the_null_token_first_then_the_tags_then_padding() -> None:
    ids, mask = pad_tag_ids([[3, 7], [], [1, 2, 5]])
    assert ids.tolist() == [[0, 3, 7, 0], [0, 0, 0, 0], [0, 1, 2, 5]]
    assert mask.tolist() == [[True, True, True, False], [True, False, False, False], [True, True, True, True]]
    assert ids.dtype == torch.int64


def test_pad_tag_ids_grows_with_the_longest_list_beyond_the_degradations() -> None:
    ids, mask = pad_tag_ids([[2, 4, 6, 8, 9], [7]])
    assert ids.tolist() == [[0, 2, 4, 6, 8, 9], [0, 7, 0, 0, 0, 0]]
    assert mask.sum(1).tolist() == [6, 2]
    assert pad_tag_ids([[1, 2, 8], [9]])[0].shape == (2, 4)
    assert pad_tag_ids([])[0].shape == (0, 4)


def test_without_tags_keeps_only_the_null_token_and_the_picture() -> None:
    ids, mask = pad_tag_ids([[3, 7], [1]])
    cond = Conditioning(lr=torch.rand(2, 3, 4, 4), tags=ids, tag_mask=mask, log2_scale=torch.ones(2))
    null = cond.without_tags()
    expected = pad_tag_ids([[], []])
    assert torch.equal(null.tags, expected[0])
    assert torch.equal(null.tag_mask, expected[1])
    assert null.lr is cond.lr
    assert null.log2_scale is cond.log2_scale
    assert ids.tolist() == [[0, 3, 7, 0], [0, 1, 0, 0]], "the condition itself is left alone"


def test_tag_embedding_has_a_row_for_each_tag_and_the_null_tag() -> None:
    embedding = TagEmbedding(7, 5)
    out = embedding(torch.tensor([[0, 7, 3]]))
    assert embedding.weight.shape == (8, 5)
    assert torch.equal(out[0], embedding.weight[[0, 7, 3]])
