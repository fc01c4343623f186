"""The `linearsr` program with a stand-in for the model: nearest-neighbour enlargement, no torch, no weights.

Run as a script it is the whole command line, for tests that need a process of their own. FAKE_SECONDS makes every
picture take that long; FAKE_FAILURE raises that error from `linearsr.errors` while the model loads.
"""

from __future__ import annotations

import os
import sys
import time
import types
from dataclasses import replace


class FakeUpscaler:
    """Same signatures as `linearsr.pipeline.Upscaler`; every call is kept in `calls`."""

    calls: list[tuple[str, dict]] = []
    tags_ahead = False
    failures: dict[str, BaseException] = {}
    """Error to raise by the name of the input file."""

    def __init__(self, model, tagger):
        self.model = model
        self.tagger = SizeTagger() if tagger == "auto" and model == "tagging" else None

    @classmethod
    def from_pretrained(
        cls,
        model="compact",
        *,
        device="auto",
        dtype="auto",
        offload="none",
        compile=False,
        vae_tile="auto",
        tagger="auto",
        tag_vocabulary=None,
        loras=(),
        on_download=None,
        on_licence=None,
    ):
        given = {name: value for name, value in locals().items() if name not in ("cls", "on_download", "on_licence")}
        cls.calls.append(("from_pretrained", given))
        if "FAKE_FAILURE" in os.environ:
            import linearsr.errors

            raise getattr(linearsr.errors, os.environ["FAKE_FAILURE"])("asked to fail", hint="ask for something else")
        return cls(model, tagger)

    def validate(
        self,
        *,
        steps=None,
        tags=None,
        negative_tags=None,
        cfg_scale=None,
        tile="auto",
        tile_overlap=None,
        color_fix=None,
        alpha="auto",
        batch_size=1,
        color_strength=1.0,
    ):
        given = {name: value for name, value in locals().items() if name != "self"}
        self.calls.append(("validate", given))
        self.find_tags(None, "" if tags is None else tags)
        if tile == 7:
            from linearsr.errors import ConfigError

            raise ConfigError("tile is 7, expected at least 64", hint="use `--tile 64`")

    def find_tags(self, picture, tags=None):
        from linearsr.tags.vocabulary import parse_tags

        if tags is None:
            return () if self.tagger is None else self.tagger.tag(picture.rgb)
        return parse_tags(tags)

    def upscale_picture(
        self,
        picture,
        *,
        scale=None,
        size=None,
        long_side=None,
        steps=None,
        seed=0,
        tags=None,
        negative_tags=None,
        cfg_scale=None,
        tile="auto",
        tile_overlap=None,
        batch_size=1,
        alpha="auto",
        color_fix=None,
        color_strength=1.0,
        progress=None,
    ):
        given = {name: value for name, value in locals().items() if name not in ("self", "picture", "progress")}
        self.calls.append(("upscale_picture", given))
        name = "" if picture.info.path is None else os.path.basename(picture.info.path)
        if name in self.failures:
            raise self.failures[name]
        seconds = float(os.environ.get("FAKE_SECONDS", "0"))
        for part in range(1, 11):
            time.sleep(seconds / 10)
            progress(part / 10)
        return enlarge(replace(picture, alpha=None) if alpha == "drop" else picture, *size)


class SizeTagger:
    """Calls wide pictures noisy; the model `tagging` has it."""

    def tag(self, rgb):
        return ("noise",) if rgb.shape[1] > 20 else ()


def enlarge(picture, width, height):
    rows = [y * picture.rgb.shape[0] // height for y in range(height)]
    columns = [x * picture.rgb.shape[1] // width for x in range(width)]
    alpha = None if picture.alpha is None else picture.alpha[rows][:, columns]
    return replace(picture, rgb=picture.rgb[rows][:, columns], alpha=alpha)


def fake_pipeline() -> types.ModuleType:
    module = types.ModuleType("linearsr.pipeline")
    module.Upscaler = FakeUpscaler
    return module


if __name__ == "__main__":
    sys.modules["linearsr.pipeline"] = fake_pipeline()
    from linearsr_cli.app import main

    sys.exit(main())
