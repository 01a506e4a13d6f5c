import requests
X_API_KEY = "YOUR_API_KEY"
endpoint = "https://api.midjourneyapi.xyz/sd/txt2img"
headers = {
"X-API-KEY": X_API_KEY
}
data = {
"model_id": "midjourney",
"prompt": "a cat",
"negative_prompt": "best quality, masterpiece, (photorealistic:1.4), 1girl, light smile, shirt with collars, waist up, dramatic lighting, from below",
"width": "512",
"height": "512",
"seed": None,
"lora_model": None,
"lora_strength": None
}
response = requests.post(endpoint, headers=headers, json=data)
print(response.status_code)
print(response.json())
