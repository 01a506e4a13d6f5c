"""Words that English prompts are made of, so that lists of tags are known as English however short they are.

Few of them mean anything in another language.
"""

from __future__ import annotations

_WORDS = """
the of and with in on at by from for to is are an his her this that very over under behind front near into masterpiece best quality
high highly detailed details detail ultra realistic hyperrealistic photorealistic photo photograph photography picture image
portrait landscape close closeup up full body upper half shot view wide angle macro lens bokeh blur blurry blurred sharp focus depth
field soft hard light lights lighting lit dark bright dramatic studio natural volumetric rim backlit shadow shadows glow glowing
neon cinematic film movie still grain render rendered rendering octane unreal engine raytracing artstation trending deviantart
concept art artwork painting painted oil watercolor watercolour sketch drawing drawn illustration digital anime manga cartoon comic
style vintage retro modern ancient medieval futuristic cyberpunk steampunk fantasy surreal abstract beautiful pretty cute ugly
gorgeous stunning epic intricate elegant handsome young old man men woman women girl girls boy boys child person people face faces
eye eyes hair hairs long short hand hands finger fingers skin smile smiling looking viewer standing sitting walking running wearing
dress shirt hat armor solo cat cats kitten dog dogs puppy horse bird birds dragon robot wolf lion tiger fox fish bear car cars city
street house castle forest tree trees mountain mountains sea ocean beach river lake sky cloud clouds sunset sunrise night day moon
sun star stars space planet galaxy flower flowers rose garden snow rain winter summer spring autumn fire water ice red green blue
yellow purple pink white black brown golden silver grey gray colorful vibrant vivid pastel circle square triangle heart ring cross
background foreground left right top bottom center middle small large big little huge tiny plain striped checkered dotted bad worst
low poor poorly deformed disfigured mutated mutation mutilated extra missing limbs limb arms legs fused cropped watermark signature
username text logo jpeg artifacts duplicate error out frame anatomy proportions normal unedited symmetrical balance resolution hdr
uhd dslr raw nikon canon fujifilm kodak sony iso poster wallpaper minimalist isometric hyper pale female male
eyeliner shaved side cloned skinny glitchy double torso mangled lips distorted tiling world nsfw sfw
"""

ENGLISH_WORDS: frozenset[str] = frozenset(_WORDS.split())
"""In lower case."""
