"""Which language a prompt is taken for, and which of its words are translated."""

from __future__ import annotations

import pytest

from sdapi.domain.enhancing import STOCK_WORDS, enhancing_words
from sdapi.domain.joined_pieces import pieces_around_each
from sdapi.domain.joined_prompts import around_each
from sdapi.domain.languages import ENGLISH, LANGUAGES, SCRIPTS
from sdapi.domain.prompt_words import PromptPiece, in_ascii_marks, taken_apart, together
from sdapi.language_detection import LanguageDetector

RED_CIRCLE = {
    "af_ZA": "'n rooi sirkel op 'n blou agtergrond",
    "ar_AR": "دائرة حمراء على خلفية زرقاء",
    "az_AZ": "mavi fonda qırmızı dairə",
    "bn_IN": "নীল পটভূমিতে একটি লাল বৃত্ত",
    "my_MM": "အပြာရောင်နောက်ခံပေါ်ရှိ အနီရောင်စက်ဝိုင်း",
    "zh_CN": "蓝色背景上的红色圆圈",
    "hr_HR": "crveni krug na plavoj pozadini",
    "cs_CZ": "červený kruh na modrém pozadí",
    "nl_XX": "een rode cirkel op een blauwe achtergrond",
    "en_XX": "a red circle on a blue background",
    "et_EE": "punane ring sinisel taustal",
    "fi_FI": "punainen ympyrä sinisellä taustalla",
    "fr_XX": "un cercle rouge sur fond bleu",
    "gl_ES": "un círculo vermello sobre un fondo azul",
    "ka_GE": "წითელი წრე ლურჯ ფონზე",
    "de_DE": "ein roter Kreis auf blauem Hintergrund",
    "gu_IN": "વાદળી પૃષ્ઠભૂમિ પર લાલ વર્તુળ",
    "he_IL": "עיגול אדום על רקע כחול",
    "hi_IN": "नीली पृष्ठभूमि पर एक लाल घेरा है",
    "id_ID": "lingkaran merah di latar belakang biru",
    "it_IT": "un cerchio rosso su sfondo blu",
    "ja_XX": "青い背景に赤い丸",
    "kk_KZ": "көк фондағы қызыл шеңбер",
    "km_KH": "រង្វង់ក្រហមនៅលើផ្ទៃខាងក្រោយពណ៌ខៀវ",
    "ko_KR": "파란 배경에 빨간 원",
    "lv_LV": "sarkans aplis uz zila fona",
    "lt_LT": "raudonas apskritimas mėlyname fone",
    "mk_MK": "црвен круг на сина позадина",
    "ml_IN": "നീല പശ്ചാത്തലത്തിൽ ഒരു ചുവന്ന വൃത്തം",
    "mr_IN": "निळ्या पार्श्वभूमीवर एक लाल वर्तुळ",
    "mn_MN": "цэнхэр дэвсгэр дээрх улаан тойрог",
    "ne_NP": "नीलो पृष्ठभूमिमा रातो घेरा",
    "ps_AF": "په شنه شالید کې سور دایره",
    "fa_IR": "یک دایره قرمز روی پس زمینه آبی",
    "pl_PL": "czerwone koło na niebieskim tle",
    "pt_XX": "um círculo vermelho sobre um fundo azul",
    "ro_RO": "un cerc roșu pe un fundal albastru",
    "ru_RU": "красный круг на синем фоне",
    "si_LK": "නිල් පසුබිමක රතු කවයක්",
    "sl_SI": "rdeč krog na modrem ozadju",
    "es_XX": "un círculo rojo sobre un fondo azul",
    "sw_KE": "duara jekundu kwenye mandhari ya bluu",
    "sv_SE": "en röd cirkel på en blå bakgrund",
    "tl_XX": "isang pulang bilog sa asul na background",
    "ta_IN": "நீல பின்னணியில் ஒரு சிவப்பு வட்டம்",
    "te_IN": "నీలం నేపథ్యంపై ఎరుపు వృత్తం",
    "th_TH": "วงกลมสีแดงบนพื้นหลังสีน้ำเงิน",
    "tr_TR": "mavi zemin üzerinde kırmızı bir daire",
    "uk_UA": "червоне коло на синьому тлі",
    "ur_PK": "نیلے پس منظر پر سرخ دائرہ",
    "vi_VN": "một vòng tròn màu đỏ trên nền xanh",
    "xh_ZA": "isangqa esibomvu kumva oluhlaza",
}
"""A red circle on a blue background, in every documented language."""


@pytest.fixture(scope="module")
def detector() -> LanguageDetector:
    return LanguageDetector()


def language_of(detector: LanguageDetector, prompt: str) -> str:
    return detector.language_of([text for text, is_words in taken_apart(prompt) if is_words])


def test_all_52_documented_languages_are_known() -> None:
    assert len(LANGUAGES) == 52
    assert set(RED_CIRCLE) == set(LANGUAGES)
    assert {code for codes in SCRIPTS.values() for code in codes} < set(LANGUAGES)


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_short_prompt_in_a_documented_language_is_recognised(detector: LanguageDetector, code: str) -> None:
    assert language_of(detector, RED_CIRCLE[code]) == code


@pytest.mark.parametrize(
    "prompt",
    [
        "masterpiece, 1girl, best quality",
        "(masterpiece:1.4), ((best quality)), [lowres], 1girl, solo, blue eyes",
        "ultra realistic close up portrait",
        "a cat",
        "dog",
        "vintage car",
        "cute kitten",
        "samurai",
        "mona lisa",
        "art nouveau poster",
        "van gogh style, sunflowers",
        "by greg rutkowski, alphonse mucha, wlop",
        "mdjrny-v4 style astronaut on a horse",
        "8k uhd, dslr, soft lighting, film grain, Fujifilm XT3",
        "deformed, ugly, blurry",
        "<lora:night:0.8> a castle BREAK mountains AND a lake :0.5",
        "",
        "12345, :)",
        "αβγ",
    ],
)
def test_english_lists_of_tags_and_names_are_left_alone(detector: LanguageDetector, prompt: str) -> None:
    assert language_of(detector, prompt) == ENGLISH


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("un cercle rouge", "fr_XX"),
        ("ein Hund", "de_DE"),
        ("un gatto nero", "it_IT"),
        ("un cercle rouge, masterpiece, best quality", "fr_XX"),
        ("masterpiece, 猫", "zh_CN"),
        ("кот, best quality", "ru_RU"),
        ("(猫:1.2), カフェ", "ja_XX"),
    ],
)
def test_a_few_foreign_words_are_enough_among_english_tags(detector: LanguageDetector, prompt: str, code: str) -> None:
    assert language_of(detector, prompt) == code


def test_english_stretches_of_a_foreign_prompt_are_told_apart(detector: LanguageDetector) -> None:
    assert detector.is_english("best quality", beside="fr_XX")
    assert detector.is_english("Fujifilm XT3", beside="ja_XX")
    assert not detector.is_english("un cercle rouge", beside="fr_XX")
    assert not detector.is_english("猫", beside="ja_XX")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("un (cercle rouge:1.3) sur fond bleu", ["un", "cercle rouge", "sur fond bleu"]),
        ("un chat, 8k, <lora:nuit douce:0.8>, [flou]", ["un chat", "8k", "flou"]),
        ("a BREAK b AND c :0.5", ["a", "b", "c"]),
        (r"un chat \(noir\) dort", ["un chat", "noir", "dort"]),
        ("((猫)),犬、鳥", ["猫", "犬", "鳥"]),
        ("Mon-Style rouge, mon-style", ["rouge"]),
        ("((, :1.5), 123", []),
    ],
)
def test_structure_is_no_words_and_everything_together_is_the_prompt(prompt: str, words: list[str]) -> None:
    stretches = taken_apart(prompt, names=["mon-style"])
    assert [text for text, is_words in stretches if is_words] == words
    assert "".join(text for text, _ in stretches) == prompt


def test_commas_of_other_scripts_become_english_ones() -> None:
    assert in_ascii_marks("、") == in_ascii_marks("， ") == ", "
    assert in_ascii_marks(", (") == ", ("


@pytest.mark.parametrize("prompt", ["a cat", " a cat AND a dog :0.5", "a AND  AND b", "", "a :2"])
def test_pieces_around_a_prompt_make_up_what_is_drawn_without_translation(prompt: str) -> None:
    pieces = pieces_around_each(prompt, lambda text: [PromptPiece(text=text)], before="style ", after=", sharp")
    assert together(pieces) == around_each(prompt, before="style ", after=", sharp")


def test_stock_words_are_for_models_without_own_ones_and_only_where_that_is_set() -> None:
    assert enhancing_words("", STOCK_WORDS, enhance_with="model") == ""
    assert enhancing_words("", STOCK_WORDS, enhance_with="stock") == STOCK_WORDS
    assert enhancing_words("own", STOCK_WORDS, enhance_with="stock") == "own"
    assert enhancing_words("None", STOCK_WORDS, enhance_with="stock") == ""
    assert enhancing_words("own", STOCK_WORDS, enhance_with="off") == ""
