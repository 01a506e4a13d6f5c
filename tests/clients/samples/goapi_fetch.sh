curl -X POST -H "Content-Type: application/json" -d '{
"id": 30588303
}' "https://api.midjourneyapi.xyz/sd/fetch"
