"""Which of the documented languages a prompt is written in, told without any network by py3langid (its model is in its package)."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any

from sdapi.domain.english_words import ENGLISH_WORDS
from sdapi.domain.languages import ENGLISH, LANGUAGES, LITTLE_WORDS, SCRIPTS
from sdapi.domain.prompt_words import has_letters

_WORD = re.compile(r"[^\s\d_,.;:!?()\[\]{}<>|\"/\\*+=~#@&%$^-]+")
"""Not of word characters only, of which Python doesn't think Indian vowel signs are."""
_NAMES = re.compile(r"\bby\b.*", re.IGNORECASE | re.DOTALL)
"""Artists, whose names are of any language."""
_MORE_USUAL = 2.0
_ALSO_ENGLISH = 3.0
"""So many times as likely as English a language must be."""
_SURE = 0.5
_SURE_WITH_ACCENTS = 0.25
"""How likely a language must be; letters that English doesn't have are evidence of their own."""
_SURE_OF_TWO = 0.65
"""How likely the two best must be together: Spanish and Galician, Croatian and Slovene share most short phrases."""
_SURELY_ENGLISH = 5.0
"""So many times as likely as the language of the whole prompt English must be for a stretch of it to be left alone."""


class LanguageDetector:
    """Any thread may use it. What it works with takes a second and 100 MB, so it is loaded by the first prompt that needs it."""

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._identifier: Any = None

    def language_of(self, texts: list[str]) -> str:
        """The code of the language that these stretches of one prompt are written in.

        English unless another one is likely: lists of tags, names and words that could be of any language are left alone. Stretches
        of English words don't count beside others, nor do Latin letters.
        """
        telling = [_NAMES.sub("by", text) for text in texts]
        telling = [text for text in telling if not all(word.lower() in ENGLISH_WORDS for word in _words(text))]
        words = [word for text in telling for word in _words(text)]
        written = [codes for word in words for char in word if (codes := _languages_of(char))]
        if written:
            # Kana tell Japanese among Chinese characters; otherwise the letters' languages differ in statistics only.
            fewest = min(written, key=len)
            return self._likeliest(" ".join(word for word in words if not _is_latin(word)), fewest)
        if not all(map(_is_latin, words)) or 2 * sum(word.lower() in ENGLISH_WORDS for word in words) >= len(words):
            return ENGLISH
        likely = self._likely(", ".join(telling))
        english = dict(likely)[ENGLISH]
        (best, first), (_, second) = likely[:2]
        if best == ENGLISH:
            return self._told_by_little_words(words, dict(likely))
        sure = _SURE_WITH_ACCENTS if any(not word.isascii() for word in words) else _SURE
        is_clear = first >= sure or (first + second >= _SURE_OF_TWO and english < 1 - _SURE_OF_TWO)
        return best if is_clear and first >= _ALSO_ENGLISH * english else self._told_by_little_words(words, dict(likely))

    def is_english(self, text: str, *, beside: str) -> bool:
        """Whether a stretch of a prompt that is otherwise written in the language `beside` is English."""
        words = _words(text)
        if any(not _is_latin(word) for word in words):
            return False
        if all(word.lower() in ENGLISH_WORDS for word in words) or not _is_written_in_latin(beside):
            return True
        if not all(word.isascii() for word in words):
            return False
        likely = dict(self._likely(text))
        return likely[ENGLISH] > _SURELY_ENGLISH * likely[beside]

    def _likeliest(self, text: str, codes: tuple[str, ...]) -> str:
        """The first of them where the text tells little."""
        likely = dict(self._likely(text)) if len(codes) > 1 else {}
        return max(codes, key=lambda code: likely.get(code, 0.0) * (_MORE_USUAL if code == codes[0] else 1))

    @staticmethod
    def _told_by_little_words(words: list[str], likely: Mapping[str, float]) -> str:
        """The likeliest of the languages whose little words make up a quarter of the prompt; English where there is none."""
        lower = [word.lower() for word in words]
        counts = {code: sum(word in little for word in lower) for code, little in LITTLE_WORDS.items()}
        told = [code for code, count in counts.items() if 4 * count >= len(lower)]
        return max(told, key=lambda code: (counts[code], likely[code]), default=ENGLISH)

    def _likely(self, text: str) -> list[tuple[str, float]]:
        """Every language with its probability, the best first."""
        codes = {code.partition("_")[0]: code for code in LANGUAGES}
        with self._loading:
            if self._identifier is None:
                # Imported here, because most servers never see a prompt that needs it.
                from py3langid.langid import MODEL_FILE, LanguageIdentifier

                self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
                self._identifier.set_languages(list(codes))
        return [(codes[iso], float(share)) for iso, share in self._identifier.rank(text)]


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text) if has_letters(word)]


def _is_latin(word: str) -> bool:
    return all(_letter_is_latin(char) for char in word if char.isalpha())


@cache
def _letter_is_latin(char: str) -> bool:
    return unicodedata.name(char, "").startswith(("LATIN", "FEMININE ORDINAL", "MASCULINE ORDINAL", "FULLWIDTH LATIN"))


@cache
def _languages_of(char: str) -> tuple[str, ...]:
    return SCRIPTS.get(re.split(r"[ -]", unicodedata.name(char, ""))[0], ())


def _is_written_in_latin(code: str) -> bool:
    return not any(code in codes for codes in SCRIPTS.values())
