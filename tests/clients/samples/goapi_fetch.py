import requests
endpoint = "https://api.midjourneyapi.xyz/sd/fetch"
data = {
"id": 30588303
}
response = requests.post(endpoint, json=data)
print(response.status_code)
print(response.json())
