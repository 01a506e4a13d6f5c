import requests
X_API_KEY = "YOUR_API_KEY"
endpoint = "https://api.midjourneyapi.xyz/sd/img2img"
headers = {
"X-API-KEY": X_API_KEY
}
data = {
"model_id": "anything-v5",
"prompt": "best quality, masterpiece, (photorealistic:1.4), 1girl, light smile, shirt with collars, waist up, dramatic lighting, from below",
"negative_prompt": "bad quality,low details,watermark,hands",
"init_image": "https://img.midjourneyapi.xyz/sd/0-6b2f25d9-8b06-4853-a99e-379b06bb156e.png",
"strength": 0.8,
"width": "512",
"height": "512",
"seed": None,
"lora_model": None,
"lora_strength": None
}
response = requests.post(endpoint, headers=headers, json=data)
print(response.status_code)
print(response.json())
