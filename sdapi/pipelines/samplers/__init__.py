"""How latents go from one denoising step to the next."""
