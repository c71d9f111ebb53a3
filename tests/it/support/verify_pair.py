"""Verifies an access token as a service would, by PyJWT and from the published keys, and by what Authlib has for RFC 9068:
KEYS_URL TOKEN."""

import json
import sys
import urllib.request

import jwt
from authlib.oauth2.rfc6750 import InvalidTokenError
from authlib.oauth2.rfc9068 import JWTBearerTokenValidator

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


class Validator(JWTBearerTokenValidator):
    def get_jwks(self):
        return json.load(urllib.request.urlopen(url))


def authlib(issuer, resource_server, roles):
    """RFC 9068 section 4, with what a resource server asks for."""
    validator = Validator(issuer=issuer, resource_server=resource_server)
    validator.validate_token(validator.authenticate_token(token), None, None, roles=roles)


authlib("https://api.test", "shop-api", ["customer"])
for wrong in [("https://other.test", "shop-api", None), ("https://api.test", "other", None), ("https://api.test", "shop-api", ["admin"])]:
    try:
        authlib(*wrong)
    except InvalidTokenError:
        continue
    raise SystemExit(f"Authlib accepted with {wrong}")
print(json.dumps(claims, ensure_ascii=False))
