"""Verifies an access token as a service would, by PyJWT and from the published keys: KEYS_URL TOKEN."""

import json
import sys

import jwt

url, token = sys.argv[1:]
key = jwt.PyJWKClient(url).get_signing_key_from_jwt(token)
needed = ["iss", "sub", "aud", "exp", "iat", "jti", "client_id", "sid"]
claims = jwt.decode(
    token, key, algorithms=["ES256"], audience="shop-api", issuer="https://api.test", options={"require": needed}
)
assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
for wrong in [{"audience": "other"}, {"audience": "shop-api", "issuer": "https://other.test"}]:
    try:
        jwt.decode(token, key, algorithms=["ES256"], **wrong)
    except jwt.InvalidTokenError:
        continue
    raise SystemExit(f"accepted with {wrong}")
print(json.dumps(claims, ensure_ascii=False))
