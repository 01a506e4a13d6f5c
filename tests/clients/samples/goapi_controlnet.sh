curl -X POST -H "X-API-KEY: YOUR_API_KEY" -H "Content-Type: application/json" -d '{
"model_id": "ghostmix",
"prompt": "best quality, masterpiece, (photorealistic:1.4), 1girl, light smile, shirt with collars, waist up, dramatic lighting, from below",
"negative_prompt": "bad quality,low details,watermark,hands",
"init_image": "https://i.imgur.com/X17rXVy.png",
"control_image": "https://i.imgur.com/X17rXVy.png",
"mask_image": "https://i.imgur.com/X17rXVy.png",
"width": "512",
"height": "512",
"controlnet_model": "canny",
"controlnet_type": "canny",
"strength": 0.8,
"controlnet_conditioning_scale": 1
}' "https://api.midjourneyapi.xyz/sd/controlnet"
