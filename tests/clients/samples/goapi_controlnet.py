import requests
X_API_KEY = "YOUR_API_KEY"
endpoint = "https://api.midjourneyapi.xyz/sd/controlnet"
headers = {
"X-API-KEY": X_API_KEY
}
data = {
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
"controlnet_conditioning_scale": 1,
"seed": None,
"lora_model": None,
"lora_strength": None
}
response = requests.post(endpoint, headers=headers, json=data)
print(response.status_code)
print(response.json())
