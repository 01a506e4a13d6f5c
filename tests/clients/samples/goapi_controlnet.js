const axios = require('axios');
const X_API_KEY = 'YOUR_API_KEY';
const endpoint = 'https://api.midjourneyapi.xyz/sd/controlnet';
const headers = {
'X-API-KEY': X_API_KEY,
};
const data = {
model_id: 'ghostmix',
prompt: 'best quality, masterpiece, (photorealistic:1.4), 1girl, light smile, shirt with collars, waist up, dramatic lighting, from below',
negative_prompt: 'bad quality,low details,watermark,hands',
init_image: 'https://i.imgur.com/X17rXVy.png',
control_image: 'https://i.imgur.com/X17rXVy.png',
mask_image: 'https://i.imgur.com/X17rXVy.png',
width: '512',
height: '512',
controlnet_model: 'canny',
controlnet_type: 'canny',
strength: 0.8,
controlnet_conditioning_scale: 1,
};
axios
.post(endpoint, data, { headers })
.then((response) => {
console.log(response.status);
console.log(response.data);
})
.catch((error) => {
console.error(error);
});
