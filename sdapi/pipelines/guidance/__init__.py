"""What changes a prediction: halves, panoramas, perturbed attention, merged tokens, masks, a second phase."""
