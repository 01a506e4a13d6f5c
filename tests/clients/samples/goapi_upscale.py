import requests
X_API_KEY = "YOUR_API_KEY"
endpoint = "https://api.midjourneyapi.xyz/sd/upscale"
headers = {
"X-API-KEY": X_API_KEY
}
data = {
"url": "https://img.midjourneyapi.xyz/sd/0-77b8a8cf-c624-435f-95f2-482c041c3fa6.png",
"scale": 2
}
response = requests.post(endpoint, headers=headers, json=data)
print(response.status_code)
print(response.json())
