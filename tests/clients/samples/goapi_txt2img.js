const axios = require('axios');
const X_API_KEY = "YOUR_API_KEY";
const endpoint = "https://api.midjourneyapi.xyz/sd/txt2img";
const headers = {
"X-API-KEY": X_API_KEY
};
const data = {
"model_id": "midjourney",
"prompt": "a cat",
"negative_prompt": "best quality, masterpiece, (photorealistic:1.4), 1girl, light smile, shirt with collars, waist up, dramatic lighting, from below",
"width": "512",
"height": "512",
"seed": null,
"lora_model": null,
"lora_strength": null
};
axios.post(endpoint, data, { headers })
.then(response => {
console.log(response.status);
console.log(response.data);
})
.catch(error => {
console.error(error);
});
