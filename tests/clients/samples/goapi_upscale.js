const axios = require('axios');
const X_API_KEY = 'YOUR_API_KEY';
const endpoint = 'https://api.midjourneyapi.xyz/sd/upscale';
const headers = {
'X-API-KEY': X_API_KEY,
};
const data = {
url: 'https://img.midjourneyapi.xyz/sd/0-77b8a8cf-c624-435f-95f2-482c041c3fa6.png',
scale: 2,
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
