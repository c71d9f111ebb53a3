"""Verifies what a service is told, by PyJWT and from the published keys: KEYS_URL TOKEN UPSTREAM."""

import json
import sys

import jwt

url, token, upstream = sys.argv[1:]
key = jwt.PyJWKClient(url).get_signing_key_from_jwt(token)
claims = jwt.decode(
    token,
    key,
    algorithms=["ES256"],
    audience=upstream,
    issuer="https://gw.test",
    options={"require": ["iss", "sub", "aud", "exp", "iat"]},
)
assert jwt.get_unverified_header(token)["typ"] == "assertion+jwt"
print(json.dumps(claims, ensure_ascii=False))
