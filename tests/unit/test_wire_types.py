from __future__ import annotations

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from sdapi.dialects.wire_types import (
    MAX_TEXT_CHARS,
    Number,
    NumberList,
    Seed,
    SidePx,
    Steps,
    Text,
    TextList,
    WholeNumber,
    WireBody,
    YesNo,
)

whole: TypeAdapter[int] = TypeAdapter(WholeNumber)
number: TypeAdapter[float] = TypeAdapter(Number)
yes_no: TypeAdapter[bool] = TypeAdapter(YesNo)
text: TypeAdapter[str] = TypeAdapter(Text)
seed: TypeAdapter[int | None] = TypeAdapter(Seed)
steps: TypeAdapter[int] = TypeAdapter(Steps)
side: TypeAdapter[int] = TypeAdapter(SidePx)


@pytest.mark.parametrize("spelt", [512, "512", " 512 ", 512.0, "512.0", "+512", "0512"])
def test_a_whole_number_may_be_spelt_in_many_ways(spelt: object) -> None:
    assert whole.validate_python(spelt) == 512


@pytest.mark.parametrize(
    "spelt",
    [True, False, "abc", "", "5.5", 5.5, math.nan, math.inf, "NaN", "inf", "0x10", "1_000", "٣", "5e2", [512], {}, None, "9" * 31],
)
def test_nothing_else_is_a_whole_number(spelt: object) -> None:
    with pytest.raises(ValidationError, match="must be a whole number"):
        whole.validate_python(spelt)


@pytest.mark.parametrize("spelt", [7.5, "7.5", " 7.50 ", "+7.5", "75e-1"])
def test_a_number_may_be_spelt_in_many_ways(spelt: object) -> None:
    assert number.validate_python(spelt) == 7.5


@pytest.mark.parametrize("spelt", [True, "abc", "", ".", "7,5", math.nan, -math.inf, "nan", "infinity", "1e999", 10**400, "1_0", None, []])
def test_nothing_else_is_a_number(spelt: object) -> None:
    with pytest.raises(ValidationError, match="must be a number"):
        number.validate_python(spelt)


@pytest.mark.parametrize("spelt", ["yes", "YES", " Yes ", "true", "True", True, 1, "1", "on", "y"])
def test_yes_in_all_spellings(spelt: object) -> None:
    assert yes_no.validate_python(spelt) is True


@pytest.mark.parametrize("spelt", ["no", "No", "false", "FALSE", False, 0, "0", "off", "n"])
def test_no_in_all_spellings(spelt: object) -> None:
    assert yes_no.validate_python(spelt) is False


@pytest.mark.parametrize("spelt", ["maybe", 2, 0.5, None, [], ""])
def test_what_is_neither_yes_nor_no_is_refused(spelt: object) -> None:
    with pytest.raises(ValidationError, match="must be yes or no"):
        yes_no.validate_python(spelt)


@pytest.mark.parametrize("spelt", ["a\x00b", "\ud83d", 5, None, ["a"], "a" * (MAX_TEXT_CHARS + 1)])
def test_text_that_could_not_be_stored_or_read_is_refused(spelt: object) -> None:
    with pytest.raises(ValidationError):
        text.validate_python(spelt)


@pytest.mark.parametrize("spelt", ["a, b", "a,b,", " a ,, b", ["a", "b"], ("a", " b ")])
def test_a_comma_list_may_be_a_string_or_a_list(spelt: object) -> None:
    listed: TypeAdapter[tuple[str, ...]] = TypeAdapter(TextList)
    assert listed.validate_python(spelt) == ("a", "b")


@pytest.mark.parametrize("spelt", ["0.5,1", "0.5, 1.0", [0.5, 1], ["0.5", "1"]])
def test_a_list_of_numbers_may_be_a_string_or_a_list(spelt: object) -> None:
    listed: TypeAdapter[tuple[float, ...]] = TypeAdapter(NumberList)
    assert listed.validate_python(spelt) == (0.5, 1.0)


@pytest.mark.parametrize(("asked", "got"), [(0, 0), ("4294967295", 4294967295), (-1, None), ("-1", None), (-1.0, None)])
def test_minus_one_is_a_random_seed_and_zero_is_zero(asked: object, got: int | None) -> None:
    assert seed.validate_python(asked) == got


@pytest.mark.parametrize("asked", [-2, 4294967296, 10**40])
def test_a_seed_beyond_32_bits_is_refused(asked: object) -> None:
    with pytest.raises(ValidationError, match="must be between 0 and 4294967295, or -1"):
        seed.validate_python(asked)


@pytest.mark.parametrize(("asked", "got"), [("1", 1), (21, 21), (51, 51), ("999", 51)])
def test_too_many_steps_are_lowered_to_the_most_there_are(asked: object, got: int) -> None:
    assert steps.validate_python(asked) == got


@pytest.mark.parametrize(("asked", "got"), [("512", 512), (64, 64), (70, 64), (1023, 1016), (1024, 1024)])
def test_a_side_is_rounded_down_to_a_multiple_of_8(asked: object, got: int) -> None:
    assert side.validate_python(asked, context={"max_side_px": 1024}) == got


@pytest.mark.parametrize("asked", [63, "0", -512, 1025, 5000])
def test_a_side_out_of_range_is_refused_with_the_range(asked: object) -> None:
    with pytest.raises(ValidationError, match="must be between 64 and 1024"):
        side.validate_python(asked, context={"max_side_px": 1024})


class Wire(WireBody):
    prompt: Text
    width: WholeNumber = 512


@pytest.mark.parametrize("absent", [None, "", "  ", "null", "NULL"])
def test_null_in_all_spellings_means_not_given(absent: object) -> None:
    assert Wire.model_validate({"prompt": "a", "width": absent}).width == 512


def test_a_prompt_may_be_the_word_null() -> None:
    assert Wire.model_validate({"prompt": "null"}).prompt == "null"


def test_unknown_keys_are_ignored() -> None:
    assert Wire.model_validate({"prompt": "a", "track_id": 5, "key": "k"}) == Wire(prompt="a")
