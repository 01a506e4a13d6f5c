curl -X POST \
-H "X-API-KEY: YOUR_API_KEY " \
-H "Content-Type: application/json" \
-d '{
"model_id": "midjourney",
"prompt": "a cat",
"negative_prompt": "best quality, masterpiece, (photorealistic:1.4), 1girl, light smile, shirt with collars, waist up, dramatic lighting, from below",
"width": "512",
"height": "512",
"seed": null,
"lora_model": null,
"lora_strength": null
}' \
https://api.midjourneyapi.xyz/sd/txt2img
