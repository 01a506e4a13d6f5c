"""The words a drawing is made from: the client's, in English or on their way there, among those of its model."""

from __future__ import annotations

from dataclasses import dataclass

from sdapi.catalog import UNET_FAMILIES, Assets, Checkpoint
from sdapi.catalog.translators import FOLDER
from sdapi.dialects.base import Asked
from sdapi.domain.enhancing import NO_WORDS, STOCK_NEGATIVE_WORDS, STOCK_WORDS, EnhanceWith, enhancing_words
from sdapi.domain.errors import InvalidRequest
from sdapi.domain.generation import Translation
from sdapi.domain.joined_pieces import pieces_around, pieces_around_each
from sdapi.domain.languages import ENGLISH, LANGUAGES
from sdapi.domain.prompt_words import PromptPiece, in_ascii_marks, taken_apart, together
from sdapi.language_detection import LanguageDetector

from .additions_check import Looked

_INSTALL = (
    f"put an mBART-50 model in transformers' format, such as facebook/mbart-large-50-many-to-one-mmt, into models/{FOLDER}/<id>/ "
    "(config.json, sentencepiece.bpe.model and .safetensors files)"
)


@dataclass(frozen=True)
class Worded:
    """The words of one request."""

    prompt: str
    negative_prompt: str
    multi_lingual: bool
    """Whether they are drawn in English whatever they were written in."""
    translation: Translation | None
    """What of them isn't English yet."""


@dataclass(frozen=True)
class _Parts:
    """A request's words, apart."""

    prompt: str
    negative_prompt: str
    before: str
    after: str
    stock: str
    """Negative words, after the client's."""
    is_joined: bool
    """Whether AND joins prompts."""


class Wording:
    """Words requests. Blocks: it looks into folders, and the first prompt that may be foreign takes a second more."""

    def __init__(self, assets: Assets, *, enhance_with: EnhanceWith = "model") -> None:
        self._assets = assets
        self._enhance_with = enhance_with
        self._detector = LanguageDetector()

    def of(self, asked: Asked, looked: Looked, checkpoint: Checkpoint) -> Worded:
        """Raises InvalidRequest where the prompt is to be translated and there is nothing to translate it with."""
        parts = self._parts(asked, looked.prompt, checkpoint)
        translators = self._assets.translators.installed() if asked.multi_lingual is not False else {}
        # A call that translates unless told otherwise does so where that is possible.
        is_wanted = bool(translators) if asked.multi_lingual is None else asked.multi_lingual
        names = self._names(asked, looked, checkpoint) if is_wanted else frozenset()
        language, negative_language = self._languages(parts, names) if is_wanted else (ENGLISH, ENGLISH)
        prompt = self._pieces(parts, language, names)
        negative = self._negative_pieces(parts, negative_language, names)
        if all(piece.language is None for piece in (*prompt, *negative)):
            prompt, negative = self._pieces(parts, ENGLISH, names), self._negative_pieces(parts, ENGLISH, names)
            return Worded(together(prompt), together(negative), is_wanted, None)
        if not translators:
            raise InvalidRequest.of("multi_lingual", self._why_not(language if language != ENGLISH else negative_language))
        translation = Translation(translator=next(iter(translators)), prompt=prompt, negative_prompt=negative)
        return Worded(together(prompt), together(negative), is_wanted, translation)

    def _parts(self, asked: Asked, prompt: str, checkpoint: Checkpoint) -> _Parts:
        own, own_negative = (checkpoint.enhance, checkpoint.negative) if asked.enhance_prompt else (NO_WORDS, NO_WORDS)
        enhance = enhancing_words(own, STOCK_WORDS, enhance_with=self._enhance_with)
        stock = enhancing_words(own_negative, STOCK_NEGATIVE_WORDS, enhance_with=self._enhance_with)
        return _Parts(
            prompt,
            asked.negative_prompt,
            before=f"{checkpoint.trigger} " if checkpoint.trigger else "",
            after=f", {enhance}" if enhance else "",
            stock=stock,
            is_joined=checkpoint.family in UNET_FAMILIES,
        )

    def _names(self, asked: Asked, looked: Looked, checkpoint: Checkpoint) -> frozenset[str]:
        """What means something to models as it is written: names of textual inversions, and trigger words."""
        embeddings = self._assets.all("embedding")
        wanted = {use.id for use in looked.loras}
        triggers = [checkpoint.trigger, *(lora.trigger for lora in self._assets.all("lora") if lora.id in wanted)]
        known = {name for one in embeddings for name in (one.id, *one.aliases)}
        return frozenset(name for name in {*known, *asked.embeddings, *triggers} if name.strip())

    def _languages(self, parts: _Parts, names: frozenset[str]) -> tuple[str, str]:
        """Of the prompt and of the negative one, which is written in the same one where it doesn't tell."""
        prompt, negative = (self._language(text, names) for text in (parts.prompt, parts.negative_prompt))
        return prompt, prompt if negative == ENGLISH else negative

    def _language(self, text: str, names: frozenset[str]) -> str:
        words = [part for part, is_words in taken_apart(text, names=names) if is_words]
        return self._detector.language_of(words) if words else ENGLISH

    def _pieces(self, parts: _Parts, language: str, names: frozenset[str]) -> tuple[PromptPiece, ...]:
        around = pieces_around_each if parts.is_joined else pieces_around
        return around(parts.prompt, lambda text: self._taken_apart(text, language, names), before=parts.before, after=parts.after)

    def _negative_pieces(self, parts: _Parts, language: str, names: frozenset[str]) -> tuple[PromptPiece, ...]:
        after = f", {parts.stock}" if parts.stock and parts.negative_prompt else parts.stock
        return pieces_around(parts.negative_prompt, lambda text: self._taken_apart(text, language, names), after=after)

    def _taken_apart(self, text: str, language: str, names: frozenset[str]) -> list[PromptPiece]:
        if language == ENGLISH:
            return [PromptPiece(text=text)]
        pieces = []
        for part, is_words in taken_apart(text, names=names):
            if not is_words:
                pieces.append(PromptPiece(text=in_ascii_marks(part)))
            else:
                is_english = self._detector.is_english(part, beside=language)
                pieces.append(PromptPiece(text=part, language=None if is_english else language))
        return pieces

    def _why_not(self, language: str) -> str:
        """What is to be installed, and what is wrong with what lies there."""
        broken = next(iter(self._assets.translators.problems()), None)
        reason = "" if broken is None else f" {broken.path.name} in models/{FOLDER}/ can't be used: {broken.sentence}"
        lacking = f"The prompt is in {LANGUAGES[language]}, and this server has no model that translates it: {_INSTALL},"
        return f"{lacking} or send it in English, or multi_lingual as no.{reason}"
