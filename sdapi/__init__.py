"""Self-hosted image generation behind the HTTP APIs of the hosted Stable Diffusion services."""
