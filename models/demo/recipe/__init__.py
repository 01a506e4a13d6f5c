"""How the embedded demo model was made: drawings, captions, training, measuring.

Everything runs from the folder `models/demo`: `python -m recipe.train_text`, `recipe.train_vae`, `recipe.train_unet`,
`recipe.assemble`, then `recipe.report`; `recipe.train_controlnet` and `recipe.train_lora` go on from there. The model card beside
this folder says what came out.
"""
