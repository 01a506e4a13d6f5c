"""Families of models: what they are called. What each honours of a request is in `sdapi.domain.families`."""

from __future__ import annotations

from sdapi.domain.families import FAMILY_NAMES, UNET_FAMILIES, WHOLE_FAMILIES, Family, UnetFamily, WholeFamily

__all__ = ["FAMILY_NAMES", "UNET_FAMILIES", "WHOLE_FAMILIES", "Family", "UnetFamily", "WholeFamily"]
