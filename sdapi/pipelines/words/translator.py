"""A translator of the mBART-50 kind: from its folder to the device, and from words of 51 languages to English ones.

Greedy search of a few beams, so that the same words become the same words again. Read without transformers' tokenizer, which takes
half a minute to convert the 250,000 pieces of the original's vocabulary that sentencepiece opens at once.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import torch

from sdapi.catalog import Refused
from sdapi.catalog.translators import VOCABULARY, InstalledTranslator
from sdapi.domain.languages import ENGLISH
from sdapi.pipelines.loading.loader import quiet_loading
from sdapi.pipelines.loading.mapped_weights import own_memory
from sdapi.pipelines.loading.reading_errors import told_as_broken

_ALL_CODES = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX ro_RO ru_RU "
    "si_LK tr_TR vi_VN zh_CN af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE "
    "sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
)
_CODES = _ALL_CODES.split()
"""In the order of their ids, which follow those of the pieces (transformers: FAIRSEQ_LANGUAGE_CODES)."""
_PAD_ID, _END_ID, _UNKNOWN_ID = 1, 2, 3
_OFFSET = 1
"""What a piece's id is more than sentencepiece's, because fairseq has one special token more."""
_SPECIAL_PIECES = 3
"""sentencepiece's own: unknown, begin, end."""
_MAX_TOKENS = 200
"""Of a stretch of a prompt; what is longer is cut off. Models have at least so many positions, as far as a prompt needs them."""
_BEAMS = 3
_REMEMBERED = 512
"""Stretches whose translations are kept: clients send the same words again and again."""
_SYNTAX = re.compile(r"[()\[\]<>]+")


class Translator:
    """Used from one thread at a time."""

    def __init__(self, network: Any, pieces: Any, *, size_bytes: int) -> None:
        self._network = network
        self._pieces = pieces
        self._piece_count: int = pieces.get_piece_size()
        self._remembered: OrderedDict[tuple[str, str], str] = OrderedDict()
        self.size_bytes = size_bytes

    def english(self, words: str, language: str) -> str:
        """A stretch of a prompt in English. `language` is a code of LANGUAGES. Words it can make nothing of stay as they are."""
        key = words, language
        if key not in self._remembered:
            self._remembered[key] = _in_manner_of(words, self._translated(words, language))
        self._remembered.move_to_end(key)
        while len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return self._remembered[key]

    @torch.inference_mode()
    def _translated(self, words: str, language: str) -> str:
        longest = min(_MAX_TOKENS, int(self._network.config.max_position_embeddings) - 2)
        ids = self.source_ids(words, language, at_most=longest)
        given = torch.tensor([ids], device=self._network.device)
        made = self._network.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            decoder_start_token_id=_END_ID,
            forced_bos_token_id=self._language_id(ENGLISH),
            forced_eos_token_id=_END_ID,
            pad_token_id=_PAD_ID,
            eos_token_id=_END_ID,
            num_beams=_BEAMS,
            do_sample=False,
            early_stopping=True,
            length_penalty=1.0,
            max_new_tokens=min(longest - 1, 2 * len(ids) + 10),
        )
        return self.text(made[0].tolist())

    def source_ids(self, text: str, language: str, *, at_most: int = _MAX_TOKENS) -> list[int]:
        """What the network reads: the language, the pieces of the text, the end."""
        pieces = [piece + _OFFSET if piece else _UNKNOWN_ID for piece in self._pieces.encode(text)]
        return [self._language_id(language), *pieces[: at_most - 2], _END_ID]

    def text(self, ids: list[int]) -> str:
        """What ids of pieces say; other ids say nothing."""
        said: str = self._pieces.decode([one - _OFFSET for one in ids if _SPECIAL_PIECES <= one - _OFFSET < self._piece_count])
        return said

    def _language_id(self, code: str) -> int:
        return self._piece_count + _OFFSET + _CODES.index(code)


def read_translator(installed: InstalledTranslator, *, device: torch.device, dtype: torch.dtype) -> Translator:
    """Blocks for seconds. Raises ModelBroken where the files are damaged or something else, and torch.OutOfMemoryError."""
    with told_as_broken(installed.id, f"The translator in models/translators/{installed.id}/"):
        return _read(installed, device, dtype)


def _read(installed: InstalledTranslator, device: torch.device, dtype: torch.dtype) -> Translator:
    # Imported here, because they take seconds of whoever draws without any.
    import sentencepiece
    import transformers

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(installed.path / VOCABULARY))
    with quiet_loading():
        network, loaded = transformers.MBartForConditionalGeneration.from_pretrained(
            installed.path, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    # transformers only warns of missing weights, and fills them with random numbers.
    if loaded["missing_keys"]:
        raise Refused(f"It lacks weights such as {min(loaded['missing_keys'])}.")
    needed = pieces.get_piece_size() + _OFFSET + len(_CODES)
    if network.config.vocab_size < needed:
        raise Refused(f"It has {network.config.vocab_size} words, and {VOCABULARY} with the 52 languages needs {needed}.")
    # Everything is said at every call; what a file adds to that could ask for words this model doesn't have.
    network.generation_config = transformers.GenerationConfig()
    network = network.eval().requires_grad_(requires_grad=False).to(device)
    own_memory(network)
    size_bytes = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    return Translator(network, pieces, size_bytes=size_bytes)


def _in_manner_of(words: str, said: str) -> str:
    """The translation as the words it stands for: no full stop or capital they didn't have, and nothing that a prompt's syntax reads."""
    told = " ".join(_SYNTAX.sub(" ", said).split())
    if not words.endswith("."):
        told = told.rstrip(". ")
    first = told.partition(" ")[0]
    if first and first != "I" and first[1:] == first[1:].lower() and not words[:1].isupper():
        told = told[:1].lower() + told[1:]
    return told or words
