"""SCRAM test vectors, computed with hashlib: prints ``scram_vectors.json``, or checks it.

``python scram_vectors.py`` writes the file, ``--check`` fails if it differs. The Rust tests of
``rust/xmpp/src/sasl`` read it, so that keys and signatures are judged by a second implementation.
The exchanges of RFC 5802 §5 and RFC 7677 §3 are asserted here as they are printed there.
"""

import base64
import hashlib
import hmac
import json
import sys
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")
PYTHON_NAMES = {"SHA-1": "sha1", "SHA-256": "sha256", "SHA-512": "sha512"}

# name, hash, user as sent, prepared password, salt, iterations, nonces, GS2 header, binding data
Case = tuple[str, str, str, str, bytes, int, str, str, str, bytes]

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT = "rOprNGfwEbeRWgbNEkqO"
SERVER = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CASES: list[Case] = [
    ("RFC 5802 §5", "SHA-1", "user", "pencil", base64.b64decode("QSXCR+Q6sek8bf92"), 4096,
     "fyko+d2lbbFgONRv9qkxdawL", "3rfcNHYJY1ZVvWVs7j", "n,,", b""),
    ("RFC 7677 §3", "SHA-256", "user", "pencil", SALT, 4096, CLIENT, SERVER, "n,,", b""),
    ("own: SHA-512", "SHA-512", "user", "pencil", SALT, 10000, CLIENT, SERVER, "n,,", b""),
    ("own: tls-exporter", "SHA-256", "user", "pencil", SALT, 4096, CLIENT, SERVER,
     "p=tls-exporter,,", bytes(range(32))),
    ("own: tls-server-end-point", "SHA-1", "user", "pencil", SALT, 4096, CLIENT, SERVER,
     "p=tls-server-end-point,,", bytes(range(64, 96))),
    ("own: SHA-512-PLUS", "SHA-512", "user", "pencil", SALT, 4096, CLIENT, SERVER,
     "p=tls-exporter,,", bytes(range(32))),
    ("own: y and an authzid", "SHA-256", "user", "pencil", SALT, 4096, CLIENT, SERVER,
     "y,a=user@example.com,", b""),
    ("own: coded name", "SHA-256", "a=2Cb=3Dc", "pencil", SALT, 4096, CLIENT, SERVER, "n,,", b""),
    ("own: password beyond ASCII", "SHA-512", "jürgen", "Ünïcode ♦ 密码", bytes(range(16)), 4097,
     CLIENT, SERVER, "n,,", b""),
    ("own: one round, long password", "SHA-256", "user", "x" * 200, b"s", 1, CLIENT, SERVER,
     "n,,", b""),
]  # fmt: skip

PRINTED = {
    "RFC 5802 §5": ("v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", "rmF9pqV8S7suAoZWja4dJRkFsKQ="),
    "RFC 7677 §3": (
        "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}


def b64(octets: bytes) -> str:
    """Base64 text."""
    return base64.b64encode(octets).decode()


def vector(case: Case) -> dict[str, str | int | bool]:
    """The whole exchange of one case, and the stored keys."""
    name, hash_name, user, password, salt, iterations, client, server, gs2, binding = case
    digest = PYTHON_NAMES[hash_name]

    def mac(key: bytes, text: bytes) -> bytes:
        return hmac.new(key, text, digest).digest()

    salted = hashlib.pbkdf2_hmac(digest, password.encode(), salt, iterations)
    client_key = mac(salted, b"Client Key")
    stored_key = hashlib.new(digest, client_key).digest()
    server_key = mac(salted, b"Server Key")
    first_bare = f"n={user},r={client}"
    server_first = f"r={client}{server},s={b64(salt)},i={iterations}"
    without_proof = f"c={b64(gs2.encode() + binding)},r={client}{server}"
    auth_message = f"{first_bare},{server_first},{without_proof}".encode()
    signature = mac(stored_key, auth_message)
    proof = b64(bytes(a ^ b for a, b in zip(client_key, signature, strict=True)))
    verifier = b64(mac(server_key, auth_message))
    if name in PRINTED:
        assert PRINTED[name] == (proof, verifier), name
    return {
        "name": name,
        "hash": hash_name,
        "plus": gs2.startswith("p="),
        "password": password,
        "salt": b64(salt),
        "iterations": iterations,
        "binding": b64(binding),
        "server_nonce": server,
        "stored_key": b64(stored_key),
        "server_key": b64(server_key),
        "client_first": f"{gs2}{first_bare}",
        "server_first": server_first,
        "client_final": f"{without_proof},p={proof}",
        "server_final": f"v={verifier}",
    }


def main() -> int:
    """Writes or checks the file; 1 if it is stale."""
    text = json.dumps([vector(case) for case in CASES], indent=1, ensure_ascii=False) + "\n"
    if "--check" in sys.argv[1:]:
        return int(FILE.read_text(encoding="utf-8") != text)
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
