"""A client's prompt within the words of its model, as pieces of which each knows whether it is to be translated."""

from __future__ import annotations

from collections.abc import Callable

from .joined_prompts import joined
from .prompt_words import PromptPiece

ToPieces = Callable[[str], list[PromptPiece]]


def pieces_around_each(prompt: str, to_pieces: ToPieces, *, before: str = "", after: str = "") -> tuple[PromptPiece, ...]:
    """As `joined_prompts.around_each`, whose text the pieces make up; only the prompt itself is taken apart."""
    prompts = joined(prompt)
    if len(prompts) == 1 and prompts[0].text == prompt:
        return pieces_around(prompt, to_pieces, before=before, after=after)
    pieces: list[PromptPiece] = []
    for place, one in enumerate(prompts):
        join = " AND " if place else ""
        pieces += pieces_around(one.text, to_pieces, before=f"{join}{before}", after=f"{after} :{one.weight:g}")
    return tuple(pieces)


def pieces_around(prompt: str, to_pieces: ToPieces, *, before: str = "", after: str = "") -> tuple[PromptPiece, ...]:
    """One prompt, whatever it says."""
    around = [PromptPiece(text=before)], to_pieces(prompt), [PromptPiece(text=after)]
    return tuple(piece for pieces in around for piece in pieces if piece.text)
