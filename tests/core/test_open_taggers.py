"""Open taggers against transformers' own answers, and the lists of tags they choose from. Tiny random models."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import socket
import sys
import weakref
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from linearsr.errors import ConfigError, ShapeError, WeightsError
from linearsr.resize import resize
from linearsr.tags.florence2 import Florence2Tagger, read_phrases, unique_tags
from linearsr.tags.open_taggers import (
    EXAMPLES,
    MOST_TAGS,
    default_vocabulary,
    load_open_tagger,
    read_vocabulary,
    split_tagger,
)
from linearsr.tags.prompts import parse_open_tags
from linearsr.tags.tagger import Tagger
from linearsr.tags.zero_shot import THRESHOLDS
from linearsr_train.stand_ins.taggers import SIDE, write_clip, write_florence2, write_siglip

transformers = pytest.importorskip("transformers")

WRITERS = {"siglip": write_siglip, "clip": write_clip, "florence2": write_florence2}
KINDS = sorted(WRITERS)
TAGS = default_vocabulary()
FEW_TOKENS = 40
TEXTS = [f"a photo of {tag}." for tag in TAGS]


def few_words(tagger):
    """Random networks rarely end an answer by themselves."""
    if isinstance(tagger, Florence2Tagger):
        tagger.max_new_tokens = FEW_TOKENS
    return tagger


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("taggers")
    for kind, write in WRITERS.items():
        write(root / kind)
    return {kind: root / kind for kind in WRITERS}


@pytest.fixture(scope="module")
def taggers(folders):
    return {kind: few_words(load_open_tagger(kind, folder)) for kind, folder in folders.items()}


def picture(seed: int, height: int = 20, width: int = 33) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) ** (1 + seed % 3)


def own_inputs(folder: Path, lr: torch.Tensor, text: str | list[str], **settings) -> dict[str, torch.Tensor]:
    """What the processor itself makes of texts, and of a picture that has the model's size already."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "right"
    square = resize(lr, (SIDE, SIDE)).clamp(0, 1).permute(1, 2, 0).numpy()
    # Its own resizing and cropping would go through 8-bit pictures.
    as_is = {"do_resize": False, "do_center_crop": False, "do_rescale": False}
    return processor(text=text, images=square, return_tensors="pt", **as_is, **settings)


def test_siglip_scores_equal_the_models_own_probabilities(folders, taggers):
    model = transformers.AutoModel.from_pretrained(folders["siglip"]).eval()
    for seed in range(3):
        inputs = own_inputs(folders["siglip"], picture(seed), TEXTS, padding="max_length", max_length=64)
        with torch.no_grad():
            logits = model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits_per_image[0]
        assert logits.std() > 0.3
        found = taggers["siglip"].scores(picture(seed))
        assert torch.allclose(found, torch.sigmoid(logits), rtol=1e-3, atol=1e-6)


def test_clip_scores_are_z_scores_of_the_models_own_logits(folders, taggers):
    model = transformers.AutoModel.from_pretrained(folders["clip"]).eval()
    for seed in range(3):
        inputs = own_inputs(folders["clip"], picture(seed), TEXTS, padding=True)
        with torch.no_grad():
            logits = model(**inputs).logits_per_image[0].double()
        expected = (logits - logits.mean()) / (logits - logits.mean()).pow(2).mean().sqrt()
        found = taggers["clip"].scores(picture(seed))
        assert torch.allclose(found.double(), expected, atol=2e-4)


def test_scores_do_not_depend_on_how_texts_are_batched(folders, taggers):
    """The list is embedded in batches of different padding; a tag's score is the same in a list of its own."""
    some = TAGS[60:130]
    alone = load_open_tagger("siglip", folders["siglip"], some)
    both = (taggers["siglip"].scores(picture(1))[60:130], alone.scores(picture(1)))
    assert torch.allclose(*both, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_zero_shot_tags_are_the_surest_above_the_threshold(folders, taggers, kind):
    lr = picture(4)
    scores = taggers[kind].scores(lr)
    order = [TAGS[i] for i in scores.argsort(descending=True).tolist()]
    ranked = scores.sort(descending=True).values
    between = float(ranked[3:5].mean())
    tagger = load_open_tagger(kind, folders[kind], threshold=between)
    assert tagger.tag(lr) == tuple(order[:4])
    few = load_open_tagger(kind, folders[kind], threshold=between, most=2)
    assert few.tag(lr) == tuple(order[:2])
    assert taggers[kind].threshold == THRESHOLDS[kind]
    assert taggers[kind].tag(lr) == tuple(order[: min(MOST_TAGS, int((scores >= THRESHOLDS[kind]).sum()))])


@pytest.mark.parametrize("kind", KINDS)
def test_tags_are_canonical_and_few(taggers, kind):
    for seed, (height, width) in enumerate([(1, 1), (7, 300), (90, 41)]):
        tags = taggers[kind].tag(picture(seed, height, width))
        assert tags == parse_open_tags(tags) and len(tags) <= MOST_TAGS
        assert tags == taggers[kind].tag(picture(seed, height, width))
    assert isinstance(taggers[kind], Tagger)


def test_zero_shot_without_a_sure_tag_gives_none(folders, caplog):
    tagger = load_open_tagger("siglip", folders["siglip"], threshold=1.0)
    with caplog.at_level(logging.DEBUG, logger="linearsr"):
        assert tagger.tag(picture(0)) == ()
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


@pytest.mark.parametrize("kind", KINDS)
def test_tag_refuses_what_is_no_picture(taggers, kind):
    for shape in ((1, 8, 8), (3, 8), (3, 0, 8)):
        with pytest.raises(ShapeError, match="expected \\(3, height, width\\)"):
            taggers[kind].tag(torch.zeros(shape))


@pytest.mark.parametrize("kind", KINDS)
def test_free_lets_the_model_go(folders, kind):
    tagger = few_words(load_open_tagger(kind, folders[kind], TAGS[:30]))
    model = weakref.ref(tagger._held.model)
    tagger.tag(picture(0))
    tagger.free()
    tagger.free()
    assert model() is None
    with pytest.raises(WeightsError, match=f"the {kind} tagger was freed"):
        tagger.tag(picture(0))


@pytest.mark.parametrize("kind", KINDS)
def test_taggers_take_bfloat16(folders, taggers, kind):
    tagger = few_words(load_open_tagger(kind, folders[kind], dtype=torch.bfloat16))
    assert tagger._held.dtype == torch.bfloat16
    tags = tagger.tag(picture(4))
    assert tags == parse_open_tags(tags)
    if kind == "siglip":
        assert torch.allclose(tagger.scores(picture(0)).logit(), taggers[kind].scores(picture(0)).logit(), atol=1.5)


def test_load_open_tagger_makes_no_connection(folders, monkeypatch):
    from huggingface_hub import constants

    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for kind, folder in folders.items():
        few_words(load_open_tagger(kind, folder, TAGS[:30])).tag(picture(0))


def test_zero_shot_reads_older_processor_files(folders, taggers, tmp_path):
    """Published folders name their image processor in a file of its own, some by names that need torchvision."""
    for name in ("SiglipImageProcessor", "SiglipImageProcessorFast"):
        folder = Path(shutil.copytree(folders["siglip"], tmp_path / name))
        settings = json.loads((folder / "processor_config.json").read_text())["image_processor"]
        (folder / "processor_config.json").unlink()
        (folder / "preprocessor_config.json").write_text(
            json.dumps({**settings, "image_processor_type": name, "processor_class": "SiglipProcessor"})
        )
        tagger = load_open_tagger("siglip", folder)
        assert torch.equal(tagger.scores(picture(0)), taggers["siglip"].scores(picture(0)))


def test_florence2_answer_equals_transformers_own(folders, taggers):
    folder, lr = folders["florence2"], picture(5)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.Florence2ForConditionalGeneration.from_pretrained(folder).eval()
    inputs = own_inputs(folder, lr, "<OD>", add_special_tokens=False)
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=FEW_TOKENS, do_sample=False, num_beams=1)
    answer = processor.batch_decode(ids, skip_special_tokens=False)[0]
    assert "<loc_" in answer
    assert taggers["florence2"].answer(lr, "<OD>") == answer


@pytest.mark.parametrize(
    "answer",
    [
        "</s><s>car<loc_52><loc_332><loc_932><loc_774>door handle<loc_425><loc_504><loc_474><loc_516></s>",
        "wheel<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>a lamp<loc_1><loc_2><loc_3><loc_4>",
    ],
)
def test_read_phrases_finds_the_labels_that_transformers_finds(folders, answer):
    processor = transformers.AutoProcessor.from_pretrained(folders["florence2"])
    processor.post_processor.parse_task_config["description_with_bboxes"] = {}
    parsed = processor.post_process_generation(text=answer, task="<OD>", image_size=(64, 64))
    assert list(dict.fromkeys(read_phrases(answer))) == list(dict.fromkeys(parsed["<OD>"]["labels"]))


def test_read_phrases_leaves_out_what_was_cut_off():
    assert read_phrases("car<loc_1><loc_2><loc_3><loc_4>a man in a") == ["car"]
    assert read_phrases("</s><s></s>") == []


def test_unique_tags_are_canonical():
    phrases = ["Car", "the  car.", "A man, walking", "man walking", "", "<", "\ufffd\ufffd", "x" * 101, "tree"]
    assert unique_tags(phrases, 10) == ("car", "man walking", "tree")
    assert unique_tags(phrases, 2) == ("car", "man walking")
    assert unique_tags([], 5) == ()


def test_florence2_puts_objects_before_regions(folders):
    class Scripted(Florence2Tagger):
        def answer(self, lr, task):
            place = "<loc_1><loc_2><loc_3><loc_4>"
            return {"<OD>": f"car{place}tree{place}", "<DENSE_REGION_CAPTION>": f"a red car{place}tree{place}"}[task]

    tagger = load_open_tagger("florence2", folders["florence2"])
    scripted = Scripted(tagger._held.model, tagger._processor, most=3)
    assert scripted.tag(picture(0)) == ("car", "tree", "red car")


def test_florence2_that_names_nothing_gives_none(folders, caplog):
    tagger = load_open_tagger("florence2", folders["florence2"])
    tagger.max_new_tokens = 1
    with caplog.at_level(logging.DEBUG, logger="linearsr"):
        assert tagger.tag(picture(0)) == ()
    assert "names nothing" in caplog.text


def edit_config(folder: Path, target: Path, **changes) -> Path:
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


@pytest.mark.parametrize(
    ("kind", "made_as", "changes", "message", "hint"),
    [
        ("siglip", "clip", {}, "is of type 'clip', expected 'siglip'", "use clip:SOURCE"),
        ("clip", "siglip", {"model_type": "bert"}, "is of type 'bert'", "for example clip:"),
        ("siglip", "siglip", {"model_type": "siglip2"}, "is of type 'siglip2'", "naflex"),
        ("florence2", "clip", {}, "of type 'clip'", "florence-community"),
        ("florence2", "florence2", {"auto_map": {"AutoModel": "x.Y"}}, "code of its own", "florence-community"),
    ],
)
def test_load_open_tagger_refuses_another_model(folders, tmp_path, kind, made_as, changes, message, hint):
    folder = edit_config(folders[made_as], tmp_path / "changed", **changes)
    with pytest.raises(WeightsError, match=message) as caught:
        load_open_tagger(kind, folder)
    assert hint in caught.value.hint


@pytest.mark.parametrize("kind", KINDS)
def test_load_open_tagger_refuses_a_folder_without_its_files(folders, tmp_path, kind):
    with pytest.raises(WeightsError, match="is no folder"):
        load_open_tagger(kind, tmp_path / "nowhere")
    folder = Path(shutil.copytree(folders[kind], tmp_path / "copy"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"only pytorch_model\.bin, a pickle"):
        load_open_tagger(kind, folder)
    (folder / "processor_config.json").unlink()
    with pytest.raises(WeightsError, match=f"the {kind} tagger's processor in .* cannot be loaded"):
        load_open_tagger(kind, folder)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("sigclip", {}, "tagger is of kind 'sigclip', expected siglip, clip, florence2, ram"),
        ("siglip", {"threshold": 1.5}, "threshold is 1.5, expected a probability"),
        ("siglip", {"threshold": float("nan")}, "threshold is nan, expected a probability"),
        ("siglip", {"vocabulary": ()}, "the list of tags is empty"),
        ("clip", {"vocabulary": TAGS[:7]}, "none of 7 tags can reach a z-score of 2.5, expected at least 8 tags"),
        ("clip", {"threshold": float("nan")}, "threshold is nan, expected a z-score"),
        ("siglip", {"most": 0}, "most tags is 0, expected at least 1"),
        ("florence2", {"threshold": 0.5}, "threshold is 0.5 for tagger 'florence2', expected none"),
    ],
)
def test_load_open_tagger_refuses_bad_settings(folders, kind, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_open_tagger(kind, folders.get(kind, Path()), **settings)


def test_load_open_tagger_needs_a_folder():
    with pytest.raises(ConfigError, match="tagger 'siglip' has no folder"):
        load_open_tagger("siglip", None)


def test_eight_tags_are_enough_for_clip(folders):
    """The largest z-score of n values is sqrt(n - 1): of eight it is 2.646, of seven 2.449."""
    assert len(load_open_tagger("clip", folders["clip"], TAGS[:8]).scores(picture(0))) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_load_open_tagger_needs_transformers(folders, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=f"the {kind} tagger needs transformers") as caught:
        load_open_tagger(kind, folders[kind])
    assert caught.value.hint == 'run `pip install "linearsr[full]"`'


def test_ram_says_how_to_get_weights_and_package(tmp_path):
    with pytest.raises(WeightsError, match=r"has no model\.safetensors") as caught:
        load_open_tagger("ram", tmp_path)
    assert "ram_swin_large_14m.pth" in caught.value.hint and "weights_only=True" in caught.value.hint
    (tmp_path / "model.safetensors").write_bytes(b"")
    if importlib.util.find_spec("ram") is None:
        with pytest.raises(ConfigError, match="needs the package ram") as refused:
            load_open_tagger("ram", tmp_path)
        assert "pip install git+" in refused.value.hint


class RamShape(torch.nn.Module):
    """What the adapter uses of RAM, for the package itself cannot be had here."""

    def __init__(self):
        super().__init__()
        self.tag_list = ["Sky", "river", "stone bridge", "person"]
        self.class_threshold = torch.tensor([0.65, 0.8, 0.65, 1.0])
        self.visual_encoder = torch.nn.Linear(3, 4)
        self.fc = torch.nn.Linear(4, 1)

    def generate_tag(self, image):
        assert image.shape == (1, 3, 384, 384)
        embeddings = self.visual_encoder(image.mean((2, 3)))
        self.fc(torch.diag_embed(embeddings))  # (1, 4 tags, 1)
        return ["sky | stone bridge"], ["-"]


def test_ram_gives_its_tags_surest_first(tmp_path, monkeypatch):
    models = ModuleType("ram.models")
    models.ram = lambda pretrained, image_size, vit: RamShape()
    monkeypatch.setitem(sys.modules, "ram", ModuleType("ram"))
    monkeypatch.setitem(sys.modules, "ram.models", models)
    logits = torch.tensor([1.0, 1.2, 3.0, 9.0])  # 0.73, 0.77, 0.95, 0.9999
    weights = {
        "visual_encoder.weight": torch.zeros(4, 3),
        "visual_encoder.bias": logits,
        "fc.weight": torch.ones(1, 4),
        "fc.bias": torch.zeros(1),
    }
    save_file(weights, tmp_path / "model.safetensors")
    tagger = load_open_tagger("ram", tmp_path)
    assert tagger.tag(picture(0)) == ("stone bridge", "sky")
    assert load_open_tagger("ram", tmp_path, most=1).tag(picture(0)) == ("stone bridge",)
    del weights["fc.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"lacks fc\.bias"):
        load_open_tagger("ram", tmp_path)


@pytest.mark.parametrize(
    ("tagger", "expected"),
    [
        ("siglip:google/siglip2-base-patch16-224", ("siglip", "google/siglip2-base-patch16-224")),
        ("clip:owner/name@v1", ("clip", "owner/name@v1")),
        (" ram : C:\\models\\ram ", ("ram", "C:\\models\\ram")),
    ],
)
def test_split_tagger_parts_at_the_first_colon(tagger, expected):
    assert split_tagger(tagger) == expected


@pytest.mark.parametrize("kind", EXAMPLES)
def test_split_tagger_reads_its_own_examples(kind):
    assert split_tagger(f"{kind}:{EXAMPLES[kind]}") == (kind, EXAMPLES[kind])
    for text in (kind, f"{kind}:", f"{kind}: "):
        with pytest.raises(ConfigError, match="names no model") as caught:
            split_tagger(text)
        assert caught.value.hint == f"for example {kind}:{EXAMPLES[kind]}"


def test_split_tagger_suggests_a_kind():
    with pytest.raises(ConfigError, match="tagger is of kind 'florence'") as caught:
        split_tagger("florence:owner/name")
    assert "florence2:" in caught.value.hint


def test_default_vocabulary_is_canonical_and_long():
    assert 350 <= len(TAGS) <= 500
    for tag in TAGS:
        assert parse_open_tags(tag) == (tag,) and tag.isascii()
    assert {"brick wall", "water surface", "knitted wool", "portrait"} <= set(TAGS)


def test_read_vocabulary_cleans_lines_and_notes_repeats(tmp_path, caplog):
    path = tmp_path / "tags.txt"
    path.write_bytes("\ufeff# mine\r\nStone  Bridge\r\n\r\nriver\nstone bridge\n\u00e9glise\n".encode())
    with caplog.at_level(logging.INFO, logger="linearsr"):
        assert read_vocabulary(path) == ("stone bridge", "river", "\u00e9glise")
    assert "1 repeated tags are dropped: stone bridge" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no tags"),
        (b"# only\n\n", "holds no tags"),
        (b"river\n" + b"x" * 101, "line 2: a tag of 101 characters, expected at most 100"),
        (b"# mine\nriver, lake\n", "line 2: 'river, lake' is no tag"),
        (b"river\nla\0ke\n", "line 2: .* is no tag"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_read_vocabulary_refuses_bad_files(tmp_path, content, message):
    path = tmp_path / "tags.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_vocabulary(path)


def test_read_vocabulary_refuses_what_it_cannot_read(tmp_path):
    for path in (tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_vocabulary(path)
