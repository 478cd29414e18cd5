"""Signatures of export folders, by OpenSSF's `model-signing` with a key in a local file.

In: an export folder and a key. Out: `manifest.sig` in that folder, a Sigstore bundle that covers
all its files; or the check of one. Nothing here uses a network.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toolkit.artifacts.manifest import MANIFEST, SIGNATURE, folder_of
from toolkit.errors import ArtifactError, SettingError, headline
from toolkit.files import write_atomically
from toolkit.files.locks import LOCK
from toolkit.files.scratch import temporary_folder

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_LARGEST_KEY_BYTES = 100_000
_LARGEST_SIGNATURE_BYTES = 100_000_000
_NEW_KEYS = (
    "create a pair with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem && "
    "openssl pkey -in key.pem -pubout -out key.pub"
)
_AGAIN = "get the folder again from whoever signed it, or sign it with toolkit export --sign KEY"


def check_private_key(key: Path, folder: Path) -> str:
    """Return the fingerprint of the private key that is to sign `folder`: the SHA-256 of its public
    key in PEM.

    Raises:
        SettingError: It is not a private key that can sign, it is in the folder that others are to
            get, or the extra `signing` is missing.
    """
    _require_extra("--sign")
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if key.resolve().is_relative_to(folder.resolve()):
        raise SettingError(
            f"--sign {key}: the private key is in {folder}, the folder that others are to get; "
            "move it to another folder"
        )
    with _as_setting_error("--sign", key, "an unencrypted private key in PEM"):
        public = getattr(load_pem_private_key(_read(key), password=None), "public_key", None)
        return _fingerprint(None if public is None else public())


def check_public_key(key: Path) -> str:
    """Return the fingerprint of a public key: the SHA-256 of it in PEM.

    Raises:
        SettingError: It is not a public key that can verify, or the extra `signing` is missing.
    """
    _require_extra("--key")
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    with _as_setting_error("--key", key, "a public key in PEM"):
        content = _read(key)
        if b"PRIVATE KEY" in content:
            raise ValueError("it is a private key, which only the signer should have")
        return _fingerprint(load_pem_public_key(content))


def sign_folder(folder: Path, key: Path) -> str:
    """Sign all files of an export folder; return the fingerprint of the key.

    Raises:
        SettingError: The key cannot sign; see `check_private_key`.
        ArtifactError: The folder contains links or special files, which cannot be signed.
        OutputError: Not writable, or the disk is full.
    """
    fingerprint = check_private_key(key, folder)
    from model_signing import signing

    folder = folder.resolve()
    with temporary_folder("signing") as scratch:
        temporary = scratch / SIGNATURE
        try:
            configuration = signing.Config().use_elliptic_key_signer(private_key=key)
            configuration.set_hashing_config(_all_files()).sign(folder, temporary)
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"cannot sign {folder}: {headline(error)}; expected only files and folders that "
                "can be read"
            ) from error
        write_atomically(folder / SIGNATURE, temporary.read_bytes())
    return fingerprint


def check_signatures(paths: Sequence[Path], key: Path) -> str:
    """Check the signature of each export folder of `paths`, folders or artifact files, before
    anything else in them is used; return the fingerprint of the key.

    Raises:
        SettingError: `key` is not a public key.
        ArtifactError: A folder is not signed, or not by this key, or was changed afterwards.
    """
    fingerprint = check_public_key(key)
    for folder in dict.fromkeys(folder_of(path).resolve() for path in paths):
        signature = folder / SIGNATURE
        if not (signature.exists() or signature.is_symlink()):
            raise ArtifactError(
                f"{folder} is not signed: it has no {SIGNATURE}; leave out --key, or {_AGAIN}"
            )
        if not _is_plain(signature, _LARGEST_SIGNATURE_BYTES):
            raise ArtifactError(f"{signature} is not a file with a signature; {_AGAIN}")
        if not (folder / MANIFEST).is_file():
            raise ArtifactError(f"no {folder / MANIFEST}; {_AGAIN}")
        _check_signature(folder, key, f"{key} (sha256 {fingerprint[:12]})")
    return fingerprint


def _check_signature(folder: Path, key: Path, named: str) -> None:
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    signature = folder / SIGNATURE
    try:
        # The library warns on stdout about signatures of its first versions.
        with contextlib.redirect_stdout(sys.stderr):
            configuration = verifying.Config().use_elliptic_key_verifier(public_key=key)
            configuration.set_hashing_config(_all_files()).verify(folder, signature)
    except InvalidSignature as error:
        raise ArtifactError(
            f"{signature} was changed, or not made by the key {named}; {_AGAIN}"
        ) from error
    except OSError as error:
        raise ArtifactError(f"cannot read {folder}: {error.strerror or error}; {_AGAIN}") from error
    # The library uses the parts of the file without checking that they are there.
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"the signature of {folder} is not valid for the key {named}: {headline(error)}; "
            f"{_AGAIN}"
        ) from error


def _all_files() -> Any:
    """Return which files a signature covers: all in the folder but itself and the lock of a running
    command, which is always empty. Therefore a file that is added later is refused, too."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[SIGNATURE, LOCK], ignore_git_paths=False)


def _fingerprint(key: object) -> str:
    """Return the checksum of the public key's file, as openssl writes it.

    Raises:
        ValueError: Another kind of key than `model-signing` uses.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise ValueError(f"not a key on one of the curves {', '.join(_CURVES)}")
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def _read(key: Path) -> bytes:
    if not _is_plain(key, _LARGEST_KEY_BYTES):
        raise ValueError("not a file of a key's size" if key.exists() else "no such file")
    return key.read_bytes()


def _is_plain(path: Path, most_bytes: int) -> bool:
    """Return whether it is a file of at most this size, and not a device or pipe without an end."""
    return path.is_file() and path.stat().st_size <= most_bytes


def _require_extra(flag: str) -> None:
    try:
        importlib.import_module("model_signing.signing")
    except ImportError as error:
        raise SettingError(
            f"{flag} needs the package model-signing ({headline(error)}); install it with: "
            "pip install 'toolkit[signing]'"
        ) from error


@contextlib.contextmanager
def _as_setting_error(flag: str, key: Path, expected: str) -> Iterator[None]:
    """Turn each way in which a file is not the expected key into one line."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        yield
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise SettingError(f"{flag} {key}: {reason}; expected {expected}; {_NEW_KEYS}") from error
