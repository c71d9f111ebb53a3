// Verifies an access token as a service would, by jose and from the published keys: KEYS_URL TOKEN.
const { createRemoteJWKSet, jwtVerify } = require("jose");

const [url, token] = process.argv.slice(2);
const keys = createRemoteJWKSet(new URL(url));
const asked = {
  issuer: "https://api.test",
  audience: "shop-api",
  algorithms: ["ES256"],
  typ: "at+jwt",
  requiredClaims: ["sub", "exp", "iat", "jti", "client_id", "sid"],
};
(async () => {
  const { payload } = await jwtVerify(token, keys, asked);
  const wrong = await jwtVerify(token, keys, { ...asked, audience: "other" }).then(() => true, () => false);
  if (wrong) throw new Error("accepted for another audience");
  console.log(JSON.stringify(payload));
})();
