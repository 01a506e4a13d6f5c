"""Families of models: what they are called. What each honours of a request is in `sdapi.domain.families`."""

from __future__ import annotations

from sdapi.domain.families import FAMILY_NAMES, FILM_FAMILIES, UNET_FAMILIES, WHOLE_FAMILIES, Family, FilmFamily, UnetFamily, WholeFamily

__all__ = ["FAMILY_NAMES", "FILM_FAMILIES", "UNET_FAMILIES", "WHOLE_FAMILIES", "Family", "FilmFamily", "UnetFamily", "WholeFamily"]
