"""The text encoder against transformers itself, and the cache of its embeddings. Tiny random Gemma-2, made here."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from linearsr.config import TagsConfig
from linearsr.errors import ConfigError, ShapeError, WeightsError

pytest.importorskip("transformers")

from transformers import AutoModel, AutoTokenizer, Gemma2ForCausalLM

from linearsr.tags.encoder import (
    EmbeddingCache,
    PromptEmbedder,
    check_width,
    default_cache_folder,
    encoder_key,
    load_text_encoder,
    make_embedder,
    pad_embeddings,
)
from linearsr_train.stand_ins.text import write_text_encoder

PROMPTS = ["", "stone bridge", "a red car, two bicycles, a shop window at night", "river"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "encoder"
    write_text_encoder(path)
    return path


@pytest.fixture
def own_folder(folder: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "encoder"))


def tags_config(max_tokens: int = 300) -> TagsConfig:
    return TagsConfig(kind="text", encoder="./encoder", max_tokens=max_tokens)


@pytest.fixture(scope="module")
def encoder(folder: Path):
    return load_text_encoder(folder, tags_config())


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_write_text_encoder_is_equal_for_equal_seeds(folder, tmp_path):
    for seed in (0, 1):
        write_text_encoder(tmp_path / str(seed), seed=seed)
    first = (folder / "model.safetensors").read_bytes()
    assert (tmp_path / "0" / "model.safetensors").read_bytes() == first
    assert (tmp_path / "0" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert (tmp_path / "1" / "model.safetensors").read_bytes() != first


def test_encode_equals_the_model_on_one_prompt(folder, encoder):
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("stone bridge, river", return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs)[0][0]
    (found,) = encoder.encode(["  Stone Bridge, river "])
    assert found.dtype == torch.float32 and not found.is_inference()
    assert torch.equal(found, expected)
    assert found.shape == (inputs["input_ids"].shape[1], encoder.width)


def test_encode_equals_sanas_right_padded_batch(folder, encoder):
    """SANA pads every prompt to 300 tokens and masks them; only the real ones are read."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "right"
    inputs = tokenizer(PROMPTS, padding="max_length", max_length=300, truncation=True, return_tensors="pt")
    with torch.no_grad():
        padded = model(inputs["input_ids"], attention_mask=inputs["attention_mask"])[0]
    for found, row, mask in zip(encoder.encode(PROMPTS), padded, inputs["attention_mask"].bool(), strict=True):
        assert (found - row[mask]).abs().max() <= 1e-5 * row[mask].abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_encode_does_not_depend_on_the_other_prompts(folder, dtype):
    encoder = load_text_encoder(folder, tags_config(), dtype=dtype)
    together = encoder.encode(PROMPTS)
    alone = [encoder.encode([prompt])[0] for prompt in reversed(PROMPTS)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_encode_of_nothing_is_the_token_of_the_beginning(folder, encoder):
    (empty,) = encoder.encode(["  "])
    assert empty.shape == (1, encoder.width)
    # A causal model sees nothing but this token at the start of any prompt.
    assert torch.allclose(empty[0], encoder.encode(["river"])[0][0], atol=1e-6)


def test_encode_cuts_long_prompts_and_says_so_once(folder, caplog):
    encoder = load_text_encoder(folder, tags_config(max_tokens=6))
    with caplog.at_level(logging.WARNING, logger="linearsr"):
        long, again, short = encoder.encode(
            ["brick wall, wooden door, iron gate", "a red car and two bicycles", "river"]
        )
    whole = load_text_encoder(folder, tags_config()).encode(["brick wall, wooden door, iron gate"])[0]
    assert len(long) == len(again) == 6 < len(whole) and len(short) < 6
    assert torch.allclose(long, whole[:6], atol=1e-5)
    assert [record.getMessage().count("is cut to 6") for record in caplog.records] == [1]


def test_load_text_encoder_takes_the_decoder_of_a_causal_model(folder, own_folder, encoder):
    model = Gemma2ForCausalLM.from_pretrained(folder)
    model.save_pretrained(own_folder)
    assert json.loads((own_folder / "config.json").read_text())["architectures"] == ["Gemma2ForCausalLM"]
    found = load_text_encoder(own_folder, tags_config()).encode(["river"])[0]
    assert torch.equal(found, encoder.encode(["river"])[0])


def test_load_text_encoder_replaces_float16_by_float32(folder, encoder, caplog):
    with caplog.at_level(logging.WARNING, logger="linearsr"):
        found = load_text_encoder(folder, tags_config(), dtype=torch.float16)
    assert torch.equal(found.encode(["river"])[0], encoder.encode(["river"])[0])
    assert "float16 is too narrow" in caplog.text


def test_load_text_encoder_makes_no_connection(folder, monkeypatch):
    from huggingface_hub import constants

    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load_text_encoder(folder, tags_config()).encode(["river"])[0].shape[1] == 16


def test_load_text_encoder_names_what_is_missing(own_folder):
    weights = own_folder / "model.safetensors"
    tensors = load_file(weights)
    torch.save(tensors, own_folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(WeightsError, match=r"has only pytorch_model\.bin, a pickle, which can run code"):
        load_text_encoder(own_folder, tags_config())
    save_file({k: v for k, v in tensors.items() if k != "norm.weight"}, weights, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"do not fit its config: missing norm\.weight"):
        load_text_encoder(own_folder, tags_config())
    save_file({**tensors, "norm.weight": torch.ones(8)}, weights, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"of another shape norm\.weight"):
        load_text_encoder(own_folder, tags_config())
    weights.write_bytes(b"\0" * 100)
    with pytest.raises(WeightsError, match="cannot be loaded") as caught:
        load_text_encoder(own_folder, tags_config())
    assert caught.value.hint is not None and "fetch" in caught.value.hint


def test_load_text_encoder_needs_its_tokenizer(own_folder):
    (own_folder / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="the tokenizer in .* cannot be loaded"):
        load_text_encoder(own_folder, tags_config())


def test_load_text_encoder_needs_a_token_for_the_beginning(own_folder):
    edit_json(own_folder / "tokenizer_config.json", bos_token=None)
    with pytest.raises(WeightsError, match="no token for the beginning"):
        load_text_encoder(own_folder, tags_config())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_encoder_decoder": True}, "expected a decoder-only language model"),
        ({"model_type": "no-such-model", "auto_map": {"AutoModel": "evil.Model"}}, "cannot be loaded"),
    ],
)
def test_load_text_encoder_refuses_other_models(own_folder, changes, message):
    edit_json(own_folder / "config.json", **changes)
    (own_folder / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    with pytest.raises(WeightsError, match=message):
        load_text_encoder(own_folder, tags_config())


def test_load_text_encoder_needs_transformers(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="the text encoder needs transformers") as caught:
        load_text_encoder(folder, tags_config())
    assert caught.value.hint == 'run `pip install "linearsr[full]"`'


def test_check_width_compares_with_the_network(folder, own_folder, tmp_path):
    check_width(folder, 16)
    with pytest.raises(WeightsError, match=r"\(gemma2\) gives embeddings of width 16, expected 2304"):
        check_width(folder, 2304)
    with pytest.raises(WeightsError, match="is no folder"):
        check_width(tmp_path / "nowhere", 16)
    (own_folder / "config.json").write_text("[1]")
    with pytest.raises(WeightsError, match="holds no settings"):
        check_width(own_folder, 16)
    (own_folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="is not valid JSON"):
        check_width(own_folder, 16)
    (own_folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        check_width(own_folder, 16)


def test_encoder_key_follows_what_embeddings_depend_on(folder, own_folder):
    key = encoder_key(folder, 300, None)
    assert encoder_key(own_folder, 300, torch.float32) == key == encoder_key(folder, 300, torch.float16)
    assert encoder_key(folder, 299, None) != key != encoder_key(folder, 300, torch.bfloat16)
    (own_folder / "README.md").write_text("about")
    assert encoder_key(own_folder, 300, None) == key
    weights = own_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    longer = encoder_key(own_folder, 300, None)
    edit_json(own_folder / "tokenizer.json", version="other")
    assert len({key, longer, encoder_key(own_folder, 300, None)}) == 3


@pytest.mark.parametrize(("dtype", "most_bytes"), [(torch.bfloat16, 2), (torch.float32, 4)])
def test_cached_embedding_equals_a_fresh_one_bit_for_bit(folder, tmp_path, dtype, most_bytes):
    prompt = "a red car, two bicycles, a shop window at night"
    fresh = load_text_encoder(folder, tags_config(), dtype=dtype).encode([prompt])[0]
    first = make_embedder(folder, tags_config(), 16, dtype=dtype, cache_folder=tmp_path / "cache")
    assert torch.equal(first.embed([prompt])[0], fresh)

    def refuse():
        raise AssertionError("the encoder was loaded")

    key = encoder_key(folder, 300, dtype)
    again = PromptEmbedder(refuse, EmbeddingCache(tmp_path / "cache", key)).embed([f" {prompt.upper()} ", prompt])
    assert all(value.dtype == torch.float32 and torch.equal(value, fresh) for value in again)
    (stored,) = (tmp_path / "cache").rglob("*.safetensors")
    assert load_file(stored)["embedding"].nbytes == fresh.numel() * most_bytes


def test_embedder_loads_once_for_what_is_not_cached(folder, tmp_path):
    loads = []

    def load():
        loads.append(1)
        return load_text_encoder(folder, tags_config())

    embedder = PromptEmbedder(load, EmbeddingCache(tmp_path, "key"))
    first = embedder.embed([*PROMPTS, *PROMPTS])
    assert len(loads) == 1 and len(list(tmp_path.rglob("*.safetensors"))) == len(PROMPTS)
    embedder.free()
    second = embedder.embed(PROMPTS)
    assert len(loads) == 1 and all(torch.equal(a, b) for a, b in zip(first, second + second, strict=True))
    embedder.embed(["something new"])
    assert len(loads) == 2


def test_embedder_without_a_disk_keeps_embeddings_in_memory(folder):
    loads = []

    def load():
        loads.append(1)
        return load_text_encoder(folder, tags_config())

    embedder = PromptEmbedder(load, None)
    first = embedder.embed(PROMPTS)
    embedder.free()
    assert all(torch.equal(a, b) for a, b in zip(first, embedder.embed(PROMPTS), strict=True))
    assert len(loads) == 1


def test_free_lets_the_model_go(folder):
    models = []

    def load():
        encoder = load_text_encoder(folder, tags_config())
        models.append(weakref.ref(encoder._held.model))
        return encoder

    embedder = PromptEmbedder(load, None)
    embedder.embed(["river"])
    assert models[0]() is not None
    embedder.free()
    embedder.free()
    assert models[0]() is None


def test_freed_encoder_says_so(folder):
    encoder = load_text_encoder(folder, tags_config())
    encoder.free()
    with pytest.raises(WeightsError, match="was freed"):
        encoder.encode(["river"])


def test_encode_refuses_values_that_are_not_finite(folder):
    encoder = load_text_encoder(folder, tags_config())
    encoder._held.model.norm.weight.fill_(float("nan"))
    with pytest.raises(WeightsError, match="not finite for 'river'"):
        encoder.encode(["river"])


@pytest.mark.parametrize("damage", ["cut", "flip", "other", "empty"])
def test_cache_takes_a_damaged_file_for_none_and_writes_it_again(tmp_path, damage):
    cache, value = EmbeddingCache(tmp_path, "key"), torch.randn(5, 16)
    assert cache.get("river") is None
    assert cache.put("river", value) and cache.put("lake", value + 1)
    path = cache.path("river")
    data = path.read_bytes()
    changed = {"cut": data[:-3], "flip": data[:-1] + bytes([data[-1] ^ 1]), "empty": b""}
    path.write_bytes(changed[damage] if damage in changed else cache.path("lake").read_bytes())
    assert cache.get("river") is None
    assert cache.put("river", value)
    assert torch.equal(cache.get("river"), value)


def test_cache_keeps_encoders_and_prompts_apart(tmp_path):
    paths = {EmbeddingCache(tmp_path, key).path(prompt) for key in ("a", "b", "ab") for prompt in ("", "b", "c")}
    assert len(paths) == 9


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, 1.0 + 2**-7, 1.0 + 2**-8, 3e38, 1e-40])
def test_cache_gives_back_every_bit(tmp_path, value):
    cache, stored = EmbeddingCache(tmp_path, "key"), torch.full((2, 3), value)
    cache.put("x", stored)
    assert torch.equal(cache.get("x").view(torch.int32), stored.view(torch.int32))


def test_cache_goes_on_without_a_folder_it_can_write_to(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = EmbeddingCache(tmp_path / "file" / "cache", "key")
    with caplog.at_level(logging.WARNING, logger="linearsr"):
        assert not cache.put("a", torch.ones(1, 2)) and not cache.put("b", torch.ones(1, 2))
    assert cache.get("a") is None
    assert len(caplog.records) == 1 and "are not kept in" in caplog.text


def test_default_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    home = Path(os.environ["HOME"])
    assert default_cache_folder() == home / ".cache" / "linearsr"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_cache_folder() == home / ".cache" / "linearsr"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_folder() == tmp_path / "xdg" / "linearsr"
    monkeypatch.setenv("LINEARSR_CACHE", "~/own")
    assert default_cache_folder() == home / "own"


def test_pad_embeddings_pads_on_the_right():
    short, long = torch.randn(2, 4), torch.randn(5, 4)
    tags, mask = pad_embeddings([short, long])
    assert mask.tolist() == [[True, True, False, False, False], [True] * 5]
    assert torch.equal(tags[0, :2], short) and torch.equal(tags[1], long) and not tags[0, 2:].any()


@pytest.mark.parametrize("shapes", [[], [(0, 4)], [(2, 4), (2, 5)], [(4,)]])
def test_pad_embeddings_refuses_what_does_not_fit(shapes):
    with pytest.raises(ShapeError, match="expected at least one"):
        pad_embeddings([torch.zeros(shape) for shape in shapes])
