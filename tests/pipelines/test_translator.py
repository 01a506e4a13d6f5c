"""The translator on the device: that it reads the layout of the original as transformers does, and what it leaves behind."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import transformers

from sdapi.catalog import Assets, ModelBroken
from sdapi.domain.generation import Translation, Txt2Img
from sdapi.domain.languages import LANGUAGES
from sdapi.domain.prompt_words import PromptPiece
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.scheduling.tickets import Pictures
from sdapi.pipelines.words.translations import Translations
from sdapi.pipelines.words.translator import Translator, read_translator
from tests.fixtures.translator import MODEL, damage, install

from .device import Wish, open_device
from .drawing import a_request

FRENCH = "un cercle rouge sur un fond bleu"
ENGLISH = "a red circle on a blue background"
GERMAN = "ein grüner Stern auf schwarzem Hintergrund"


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    install(folder)
    return folder


@pytest.fixture(scope="module")
def translator(models_dir: Path) -> Translator:
    installed = Assets(models_dir).translators.installed()["tiny"]
    return read_translator(installed, device=torch.device("cpu"), dtype=torch.float32)


def a_french_request(words: str = FRENCH, **changes: object) -> Txt2Img:
    pieces = (PromptPiece(text=words, language="fr_XX"), PromptPiece(text=", (sharp:1.2)"))
    translation = Translation(translator="tiny", prompt=pieces, negative_prompt=())
    return a_request(prompt=f"{words}, (sharp:1.2)", translation=translation, **changes)


@contextmanager
def translations(models_dir: Path, budget_bytes: int = 2**30) -> Iterator[Translations]:
    opened = Translations(Assets(models_dir).translators, Memory(budget_bytes), device=torch.device("cpu"), dtype=torch.float32)
    try:
        yield opened
    finally:
        opened.close()


def in_english(opened: Translations, job_id: int, request: Txt2Img) -> Txt2Img:
    """Looks again and again, as the loop does between steps."""
    deadline = time.monotonic() + 60
    while (done := opened.in_english(job_id, request)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert isinstance(done, Txt2Img)
    return done


def tokenizer_of(code: str) -> Any:
    """transformers' own, given the pieces: to read them from their file it needs a library more."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(MODEL / "sentencepiece.bpe.model"))
    vocabulary = [(pieces.id_to_piece(place), pieces.get_score(place)) for place in range(pieces.get_piece_size())]
    return transformers.MBart50Tokenizer(vocab=vocabulary, src_lang=code)


@pytest.mark.parametrize("words", [FRENCH, "青い背景に赤い丸", "ein Ж großer  𒀀 Kreis"])
def test_ids_are_those_of_transformers_own_tokenizer_in_all_52_languages(translator: Translator, words: str) -> None:
    tokenizer = tokenizer_of("fr_XX")
    for code in LANGUAGES:
        tokenizer.src_lang = code
        assert translator.source_ids(words, code) == tokenizer(words)["input_ids"], code


def test_words_are_translated_as_transformers_translates_them(translator: Translator) -> None:
    tokenizer = tokenizer_of("de_DE")
    network = transformers.MBartForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32)
    given = tokenizer(GERMAN, return_tensors="pt")
    made = network.generate(**given, forced_bos_token_id=tokenizer.convert_tokens_to_ids("en_XX"), num_beams=3, max_new_tokens=40)
    expected = tokenizer.batch_decode(made, skip_special_tokens=True)[0]
    assert translator.english(GERMAN, "de_DE") == expected == "a green star on a black background"


def test_what_is_too_long_or_unknown_ends_in_words_without_syntax(translator: Translator) -> None:
    for words in ("rouge " * 3000, "𒀀𒀀𒀀", "?", "x"):
        said = translator.english(words, "fr_XX")
        assert said
        assert not set("()[]<>") & set(said)


def test_only_what_has_a_language_is_translated_and_nothing_is_left_to_do(models_dir: Path) -> None:
    with translations(models_dir) as opened:
        done = in_english(opened, 1, a_french_request())
    assert done.prompt == f"{ENGLISH}, (sharp:1.2)"
    assert (done.negative_prompt, done.translation) == ("", None)


def test_the_translator_leaves_when_others_need_the_memory_and_comes_back(models_dir: Path) -> None:
    with translations(models_dir, budget_bytes=0) as opened:
        for job_id in range(3):
            assert in_english(opened, job_id, a_french_request()).prompt.startswith(ENGLISH)
            assert opened.size_bytes == 0
    with translations(models_dir) as opened:
        in_english(opened, 1, a_french_request())
        assert opened.size_bytes > 2**20
        assert opened.clear() > 2**20


def test_no_thread_outlives_what_it_translated(models_dir: Path) -> None:
    with translations(models_dir) as opened:
        in_english(opened, 1, a_french_request())
        for thread in ours():
            thread.join(10)
        assert ours() == []


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in ("sdapi-translator", "sdapi-loader")]


def test_a_job_that_is_cancelled_meanwhile_leaves_nothing_behind(models_dir: Path) -> None:
    with translations(models_dir) as opened:
        in_english(opened, 1, a_french_request())
        assert opened.in_english(2, a_french_request("un cercle vert")) is None
        opened.forget(2)
        opened.forget(3)
        assert opened.clear() > 2**20


def test_a_translator_that_is_gone_or_damaged_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = install(tmp_path)
    damage(folder)
    with translations(tmp_path) as opened, pytest.raises(ModelBroken, match="models/translators/tiny/ can't be loaded"):
        in_english(opened, 1, a_french_request())
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    assert "model_type 'gpt2'" in Assets(tmp_path).problems()[0].sentence
    with translations(tmp_path) as opened, pytest.raises(ModelBroken, match="any more"):
        in_english(opened, 1, a_french_request())


def test_pictures_in_flight_go_on_while_others_are_translated(models_dir: Path) -> None:
    """One that is drawn and many that wait for their words end each as it would alone."""
    with open_device(models_dir, cache_bytes=2**30, at_once=8) as device:
        alone = Wish(a_request(prompt=f"{ENGLISH}, (sharp:1.2)"))
        device.draw(alone)
        wishes = [Wish(a_french_request()), Wish(a_request(prompt=f"{ENGLISH}, (sharp:1.2)")), Wish(a_french_request())]
        wishes.append(Wish(a_french_request("un carré vert"), cancelled_at_step=0))
        device.draw(*wishes)
    assert isinstance(alone.result, Pictures)
    expected = torch.tensor(list(alone.result.images[0].tobytes()), dtype=torch.int16)
    for wish in wishes[:3]:
        assert isinstance(wish.result, Pictures), wish.result
        drawn = torch.tensor(list(wish.result.images[0].tobytes()), dtype=torch.int16)
        assert int((drawn - expected).abs().max()) <= 2
    assert isinstance(wishes[0].result, Pictures)
    assert wishes[0].result.request is not None
    assert not isinstance(wishes[3].result, Pictures)
    assert threading.active_count() < 50


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library of Linux to give memory back")
def test_after_fifty_translations_no_more_memory_is_taken_than_after_ten(models_dir: Path) -> None:
    command = [sys.executable, "-m", "tests.pipelines.translating_process", str(models_dir)]
    environment = os.environ | {"PYTHONPATH": "models/demo", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    taken = [int(line) for line in ran.stdout.split()]
    assert len(taken) == 10
    assert statistics.median(taken[-3:]) / statistics.median(taken[1:4]) - 1 < 0.02, taken
