"""The issuer of the clients' tokens: a key pair of this run, its public half as a JWKS."""

from __future__ import annotations

import json
import time
from functools import cached_property
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.delivery.rendered import ISSUER

KEY_ID: Final = "release"
LIFE_S: Final = 3_600


class Issuer:
    """Signs tokens (ES256) that the chart's RequestAuthentication accepts."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    @cached_property
    def jwks(self) -> str:
        public = jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return json.dumps({"keys": [{**public, "kid": KEY_ID, "alg": "ES256", "use": "sig"}]})

    def token(self, user: str | None, **claims: Any) -> str:
        """A token for that user; ``claims`` go over its own."""
        now_s = int(time.time())
        said = {"iss": ISSUER, "iat": now_s, "exp": now_s + LIFE_S}
        if user is not None:
            said["sub"] = user
        token: str = jwt.encode(
            {**said, **claims}, self._key, algorithm="ES256", headers={"kid": KEY_ID}
        )
        return token
