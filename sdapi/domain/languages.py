"""The languages that prompts may be written in, by the codes of mBART-50, as the hosted services document them."""

from __future__ import annotations

from collections.abc import Mapping

ENGLISH = "en_XX"

LANGUAGES: Mapping[str, str] = {
    "af_ZA": "Afrikaans", "ar_AR": "Arabic", "az_AZ": "Azerbaijani", "bn_IN": "Bengali", "my_MM": "Burmese", "zh_CN": "Chinese",
    "hr_HR": "Croatian", "cs_CZ": "Czech", "nl_XX": "Dutch", "en_XX": "English", "et_EE": "Estonian", "fi_FI": "Finnish",
    "fr_XX": "French", "gl_ES": "Galician", "ka_GE": "Georgian", "de_DE": "German", "gu_IN": "Gujarati", "he_IL": "Hebrew",
    "hi_IN": "Hindi", "id_ID": "Indonesian", "it_IT": "Italian", "ja_XX": "Japanese", "kk_KZ": "Kazakh", "km_KH": "Khmer",
    "ko_KR": "Korean", "lv_LV": "Latvian", "lt_LT": "Lithuanian", "mk_MK": "Macedonian", "ml_IN": "Malayalam", "mr_IN": "Marathi",
    "mn_MN": "Mongolian", "ne_NP": "Nepali", "ps_AF": "Pashto", "fa_IR": "Persian", "pl_PL": "Polish", "pt_XX": "Portuguese",
    "ro_RO": "Romanian", "ru_RU": "Russian", "si_LK": "Sinhala", "sl_SI": "Slovene", "es_XX": "Spanish", "sw_KE": "Swahili",
    "sv_SE": "Swedish", "tl_XX": "Tagalog", "ta_IN": "Tamil", "te_IN": "Telugu", "th_TH": "Thai", "tr_TR": "Turkish",
    "uk_UA": "Ukrainian", "ur_PK": "Urdu", "vi_VN": "Vietnamese", "xh_ZA": "Xhosa",
}  # fmt: skip
"""All 52. The first half of a code is the language's in ISO 639-1 ("tl" for Tagalog)."""

SCRIPTS: Mapping[str, tuple[str, ...]] = {
    "HIRAGANA": ("ja_XX",), "KATAKANA": ("ja_XX",), "CJK": ("zh_CN", "ja_XX"), "HANGUL": ("ko_KR",), "THAI": ("th_TH",),
    "CYRILLIC": ("ru_RU", "uk_UA", "mk_MK", "kk_KZ", "mn_MN"), "ARABIC": ("ar_AR", "fa_IR", "ur_PK", "ps_AF"), "HEBREW": ("he_IL",),
    "DEVANAGARI": ("hi_IN", "mr_IN", "ne_NP"), "BENGALI": ("bn_IN",), "GUJARATI": ("gu_IN",), "TAMIL": ("ta_IN",), "TELUGU": ("te_IN",),
    "MALAYALAM": ("ml_IN",), "SINHALA": ("si_LK",), "KHMER": ("km_KH",), "MYANMAR": ("my_MM",), "GEORGIAN": ("ka_GE",),
}  # fmt: skip
"""Which languages are written in other letters than Latin ones, by the word that Unicode's names of those letters begin with."""

_LITTLE_WORDS = {
    "af_ZA": "'n met op onder agter",
    "cs_CZ": "se ve nad pod před",
    "de_DE": "ein eine einen einem einer der das dem auf und mit im vor für über unter hinter",
    "es_XX": "un una el los las del sobre en con bajo detrás",
    "fr_XX": "un une le les des du sur dans avec devant derrière sous et aux",
    "id_ID": "di dan yang dengan dari pada sebuah seekor",
    "it_IT": "un una uno il gli sul su sulla con dietro davanti sotto nel nella di",
    "nl_XX": "een het op met onder achter voor naast",
    "pl_PL": "na pod nad przed z ze jest oraz",
    "pt_XX": "um uma os sobre em com na dos das",
    "ro_RO": "un o pe cu sub lângă și din",
    "sv_SE": "en ett och med på under bakom framför",
    "tl_XX": "ang ng sa isang mga",
    "tr_TR": "bir ve ile üzerinde altında",
}
LITTLE_WORDS: Mapping[str, frozenset[str]] = {code: frozenset(words.split()) for code, words in _LITTLE_WORDS.items()}
"""Articles and the like, of languages in Latin letters: what tells them in prompts too short for statistics."""
