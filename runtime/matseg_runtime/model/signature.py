"""Signatures of model files, in the format of the OpenSSF's Model Signing 1.0, with keys of one's own.

A signature is a Sigstore bundle (JSON) beside the model: a DSSE envelope around an in-toto statement with the model's
SHA-256, signed by ECDSA with a key on P-256, P-384 or P-521. Nothing but the keys is needed, no service, no network.
The reference implementation (github.com/sigstore/model-transparency) writes and reads the same files; unlike it, this
module works on a digest of bytes at hand, so that what is verified is what is loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matseg_shared.errors import MissingExtraError, ModelError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

SIGNATURE_SUFFIX = ".sig"
_LARGEST_SIGNATURE = 1 << 20
_LARGEST_KEY = 1 << 16
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


class _Part(BaseModel):
    """Of a document with more in it than is needed here."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Signature(_Part):
    sig: str


class _Envelope(_Part):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: list[_Signature] = Field(min_length=1, max_length=1)


class _Bundle(_Part):
    envelope: _Envelope = Field(alias="dsseEnvelope")


class _Digest(_Part):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Subject(_Part):
    digest: _Digest


class _Resource(_Part):
    name: Literal["."]
    """The model itself, where it is one file."""
    algorithm: Literal["sha256"]
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Predicate(_Part):
    resources: list[_Resource] = Field(min_length=1, max_length=1)


class _Statement(_Part):
    kind: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    predicate_type: Literal["https://model_signing/signature/v1.0"] = Field(alias="predicateType")
    subject: list[_Subject] = Field(min_length=1, max_length=1)
    predicate: _Predicate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PublicKey:
    """A key that somebody trusts."""

    path: Path
    fingerprint: str
    """SHA-256 of its PEM text, as Model Signing has it."""
    key: ec.EllipticCurvePublicKey


def signature_path(model: Path) -> Path:
    """Where a model's signature is: `steel.onnx.sig`."""
    return model.with_name(model.name + SIGNATURE_SUFFIX)


def read_public_key(path: Path) -> PublicKey:
    """A PEM file.

    Raises:
        UsageError: it cannot be read, or is no public key of a kind that signs models.
        MissingExtraError: cryptography is not installed.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _read_key(path, "public")
    try:
        key = load_pem_public_key(content)
    except Exception as error:  # ValueError, and kinds of cryptography's own
        raise UsageError(
            f"{path}: expected a public key (PEM, BEGIN PUBLIC KEY), found something else"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise UsageError(f"{path}: expected a key on P-256, P-384 or P-521, found another kind of key")
    return PublicKey(path=path, fingerprint=_fingerprint(key), key=key)


def sign(name: str, sha256: str, key_path: Path, password: str | None = None) -> bytes:
    """The content of a signature file.

    Args:
        name: of the model, for people.
        sha256: of its file.
        key_path: the private key, a PEM file.
        password: of the key, if it has one.

    Raises:
        UsageError: the key cannot be used, for instance for lack of its password.
        MissingExtraError: cryptography is not installed.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _read_key(key_path, "private")
    try:
        key = load_pem_private_key(content, None if password is None else password.encode())
    except Exception as error:
        raise UsageError(
            f"{key_path}: expected a private key (PEM) and its password if it has one, found something else"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise UsageError(f"{key_path}: expected a key on P-256, P-384 or P-521, found another kind of key")
    payload = json.dumps(_statement(name, sha256)).encode()
    signature = key.sign(_authenticated(payload), ec.ECDSA(_hash_of(key.public_key())))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    bundle = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": _fingerprint(key.public_key())},
            "tlogEntries": [],
        },
        "dsseEnvelope": envelope,
    }
    return json.dumps(bundle).encode() + b"\n"


def is_encrypted(key_path: Path) -> bool:
    """Whether a private key asks for a password.

    Raises:
        UsageError: it cannot be read.
    """
    return b"ENCRYPTED" in _read_key(key_path, "private")


def verify(model: Path, sha256: str, keys: tuple[PublicKey, ...]) -> PublicKey:
    """The key that has signed a model.

    Args:
        model: its signature lies beside it.
        sha256: of the bytes at hand.
        keys: any of them will do.

    Raises:
        ModelError: there is no signature, none by these keys, or one of another file.
    """
    path = signature_path(model)
    content = _read_signature(path, model)
    try:
        envelope = _Bundle.model_validate_json(content).envelope
        payload = base64.b64decode(envelope.payload, validate=True)
        signature = base64.b64decode(envelope.signatures[0].sig, validate=True)
    except (ValidationError, ValueError) as error:
        raise ModelError(
            f"{path}: expected a signature as matseg-sign writes it (Model Signing 1.0), found something else or a "
            "damaged file"
        ) from error
    signer = next((key for key in keys if _has_signed(key, payload, signature)), None)
    if signer is None:
        raise ModelError(
            f"{path}: is no signature by a trusted key ({', '.join(str(key.path) for key in keys)}): it was made with "
            "another key, or changed since; the model is not loaded"
        )
    if _signed_sha256(payload, path) != sha256:
        raise ModelError(
            f"{model}: is not the file that was signed: expected SHA-256 {_signed_sha256(payload, path)} as "
            f"{path.name} has it, found {sha256}; the model is not loaded"
        )
    return signer


def _has_signed(key: PublicKey, payload: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key.key.verify(signature, _authenticated(payload), ec.ECDSA(_hash_of(key.key)))
    except InvalidSignature:
        return False
    return True


def _signed_sha256(payload: bytes, path: Path) -> str:
    """What a statement says; its signature has been verified."""
    try:
        statement = _Statement.model_validate_json(payload)
    except ValidationError as error:
        raise ModelError(
            f"{path}: signs something else than one model file with its SHA-256; sign it with matseg-sign"
        ) from error
    digest = statement.predicate.resources[0].digest
    if hashlib.sha256(bytes.fromhex(digest)).hexdigest() != statement.subject[0].digest.sha256:
        raise ModelError(f"{path}: contradicts itself; sign the model again")
    return digest


def _statement(name: str, sha256: str) -> dict[str, Any]:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": hashlib.sha256(bytes.fromhex(sha256)).hexdigest()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [],
            },
            "resources": [{"name": ".", "algorithm": "sha256", "digest": sha256}],
        },
    }


def _authenticated(payload: bytes) -> bytes:
    """What is signed of an envelope (DSSE 1.0, `PAE`)."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(text).hexdigest()


def _hash_of(key: ec.EllipticCurvePublicKey) -> HashAlgorithm:
    """The one that Model Signing pairs with the curve."""
    from cryptography.hazmat.primitives import hashes

    if key.key_size <= 256:
        return hashes.SHA256()
    return hashes.SHA384() if key.key_size <= 384 else hashes.SHA512()


def _read_key(path: Path, kind: Literal["public", "private"]) -> bytes:
    return _read_small(path, _LARGEST_KEY, f"expected a {kind} key (PEM)", UsageError)


def _read_signature(path: Path, model: Path) -> bytes:
    if not path.exists():
        raise ModelError(
            f"{model}: has no signature, and one by a trusted key is asked for here; expected it in {path.name} beside "
            "the model (matseg-sign makes it)"
        )
    return _read_small(path, _LARGEST_SIGNATURE, "expected a signature", ModelError)


def _read_small(path: Path, most: int, expected: str, kind: type[UsageError]) -> bytes:
    try:
        if not path.is_file():
            raise kind(f"{path}: {expected}, found no such file")
        with path.open("rb") as stream:
            content = stream.read(most + 1)
    except (OSError, ValueError) as error:
        raise kind(f"{path}: {expected}, found that it cannot be read: {error}") from error
    if len(content) > most:
        raise kind(f"{path}: {expected}, found a file of more than {most} bytes")
    return content


def _require_cryptography() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric.ec  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("sign", "signing models, and verifying their signatures,") from error
