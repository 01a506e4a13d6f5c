curl -X POST \
-H "X-API-KEY: YOUR_API_KEY " \
-H "Content-Type: application/json" \
-d '{
"model_id": "anything-v5",
"prompt": "best quality, masterpiece, (photorealistic:1.4), 1girl, light smile, shirt with collars, waist up, dramatic lighting, from below",
"negative_prompt": "bad quality,low details,watermark,hands",
"init_image": "https://img.midjourneyapi.xyz/sd/0-6b2f25d9-8b06-4853-a99e-379b06bb156e.png",
"strength": 0.8,
"width": "512",
"height": "512",
"seed": null,
"lora_model": null,
"lora_strength": null
}' \
"https://api.midjourneyapi.xyz/sd/img2img"
