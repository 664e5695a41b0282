"""Run a target under Atheris: ``python tests/fuzz/fuzz.py messages [libFuzzer's options]``.

What it found is kept beside it, and runs first the next time.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ovs_l2pop", "targets"]):
    from targets import SEEDS, TARGETS


def main() -> None:
    name = sys.argv[1]
    corpus = Path(tempfile.gettempdir()) / f"ovs-l2pop-fuzz-{name}"
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *sys.argv[2:], str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
