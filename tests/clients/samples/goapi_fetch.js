const axios = require('axios');
const endpoint = 'https://api.midjourneyapi.xyz/sd/fetch';
const data = {
id: 30588303,
};
axios
.post(endpoint, data)
.then((response) => {
console.log(response.status);
console.log(response.data);
})
.catch((error) => {
console.error(error);
});
