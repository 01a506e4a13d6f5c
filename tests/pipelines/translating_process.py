"""A process that translates fifty different prompts, bringing the translator anew for each, and prints what memory
it takes after every fifth."""

from __future__ import annotations

import sys
from pathlib import Path

from .memory_process import resident_bytes
from .test_translator import a_french_request, in_english, translations

COLOURS = ("rouge", "vert", "bleu", "jaune", "noir")


def main(models_dir: Path) -> None:
    with translations(models_dir, budget_bytes=0) as opened:
        for number in range(50):
            words = f"un cercle {COLOURS[number % 5]} sur un fond {COLOURS[number // 5 % 5]} " * (1 + number % 3)
            in_english(opened, number, a_french_request(words.strip()))
            if number % 5 == 4:
                sys.stdout.write(f"{resident_bytes()}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
