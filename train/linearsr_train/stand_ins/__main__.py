"""`python -m linearsr_train.stand_ins OUT`: tiny random stand-ins of all that is public, to try every command on.

Writes OUT/sana (as diffusers has SANA), OUT/autoencoder, OUT/text_encoder, OUT/tagger and OUT/model, a whole checkpoint
of four experts. Its pictures are noise; its files, names and settings are those of a real one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from linearsr.errors import LinearSRError
from linearsr_train.stand_ins.autoencoder import write_autoencoder
from linearsr_train.stand_ins.checkpoint import HIDDEN, write_checkpoint
from linearsr_train.stand_ins.sana import write_sana
from linearsr_train.stand_ins.taggers import write_siglip
from linearsr_train.stand_ins.text import write_text_encoder


def main() -> int:
    """Write the stand-ins; paths on stdout, errors on stderr."""
    parser = argparse.ArgumentParser(prog="python -m linearsr_train.stand_ins", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder, made if need be; must be empty")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.out.exists() and (not given.out.is_dir() or any(given.out.iterdir())):
        parser.error(f"{str(given.out)!r} is not an empty folder, expected a new one")
    try:
        write_sana(given.out / "sana", seed=given.seed)
        write_autoencoder(given.out / "autoencoder", seed=given.seed)
        write_text_encoder(given.out / "text_encoder", hidden=HIDDEN, seed=given.seed)
        write_siglip(given.out / "tagger", seed=given.seed)
        write_checkpoint(given.out / "model", seed=given.seed)
    except LinearSRError as error:
        sys.stderr.write(f"error: {error.message}\n" + ("" if error.hint is None else f"hint: {error.hint}\n"))
        return 2
    sys.stdout.writelines(f"{path}\n" for path in sorted(given.out.iterdir()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
