"""Signatures: anything that the key did not sign is refused, in one line that says what to do.

The extra `signing` is not part of `test`, see pyproject.toml; CI installs it for these tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CHECKPOINT, Cli

pytest.importorskip("model_signing", reason="needs the extra 'signing'")

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import toolkit
from toolkit.artifacts.manifest import read_manifest, write_manifest
from toolkit.artifacts.signing import check_private_key, check_signatures, sign_folder
from toolkit.errors import ArtifactError, SettingError, ToolkitWarning
from toolkit.schema import MANIFEST_SCHEMA_VERSION, Manifest

HERE = Path(__file__)


def write_keys(
    folder: Path,
    name: str = "key",
    *,
    key: PrivateKeyTypes | None = None,
    encryption: KeySerializationEncryption | None = None,
) -> tuple[Path, Path]:
    """A private and a public key, as files in PEM."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export folder with a file and a folder, not signed."""
    folder = tmp_path / "exports"
    (folder / "model.openvino").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"onnx")
    (folder / "model.openvino" / "model.xml").write_bytes(b"xml")
    write_manifest(folder, manifest())
    return folder


def manifest(checkpoint: str = "../checkpoint") -> Manifest:
    return Manifest(
        schema_version=MANIFEST_SCHEMA_VERSION,
        checkpoint=checkpoint,
        checkpoint_sha256="c" * 64,
        spec_sha256="5" * 64,
        artifacts=(),
    )


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_fingerprint_is_the_checksum_of_the_public_key(
    folder: Path, tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    private, public = write_keys(tmp_path, key=ec.generate_private_key(curve))
    fingerprint = hashlib.sha256(public.read_bytes()).hexdigest()
    assert sign_folder(folder, private) == fingerprint
    assert check_signatures([folder], public) == fingerprint
    assert check_signatures([folder / "model.onnx", folder], public) == fingerprint


def test_key_pair_of_openssl_works(folder: Path, tmp_path: Path) -> None:
    """The command that messages name."""
    with pytest.raises(SettingError) as refused:
        check_private_key(tmp_path / "key.pem", folder)
    _, _, command = str(refused.value).partition("create a pair with: ")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    sign_folder(folder, tmp_path / "key.pem")
    check_signatures([folder], tmp_path / "key.pub")


def change(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"ONNX")


def change_inside(folder: Path) -> None:
    (folder / "model.openvino" / "model.xml").write_bytes(b"XML")


def change_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("../checkpoint", "../other"))


def add(folder: Path) -> None:
    (folder / "more.onnx").write_bytes(b"onnx")


def add_hidden(folder: Path) -> None:
    (folder / ".gitattributes").write_bytes(b"")


def remove(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def add_link(folder: Path) -> None:
    (folder / "link").symlink_to(HERE)


def add_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def forge(folder: Path) -> None:
    """Another signature, of the same length."""
    path = folder / "manifest.sig"
    bundle = json.loads(path.read_text())
    signature = bundle["dsseEnvelope"]["signatures"][0]
    signature["sig"] = signature["sig"][:-8] + "AAAAAAA="
    path.write_text(json.dumps(bundle))


def cut(folder: Path) -> None:
    path = folder / "manifest.sig"
    path.write_bytes(path.read_bytes()[:-100])


def empty(folder: Path) -> None:
    (folder / "manifest.sig").write_text("{}")


def envelope_without_signature(folder: Path) -> None:
    path = folder / "manifest.sig"
    bundle = json.loads(path.read_text())
    bundle["dsseEnvelope"]["signatures"] = []
    path.write_text(json.dumps(bundle))


def other_signed_content(folder: Path) -> None:
    path = folder / "manifest.sig"
    bundle = json.loads(path.read_text())
    bundle["dsseEnvelope"]["payload"] = "e30="
    path.write_text(json.dumps(bundle))


def pipe_as_signature(folder: Path) -> None:
    (folder / "manifest.sig").unlink()
    os.mkfifo(folder / "manifest.sig")


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (change, "model.onnx"),
        (change_inside, "model.openvino/model.xml"),
        (change_manifest, "manifest.json"),
        (add, "more.onnx"),
        (add_hidden, ".gitattributes"),
        (remove, "model.onnx"),
        (add_link, "symlink"),
        (add_pipe, "special file"),
        (forge, "was changed, or not made by the key"),
        (cut, "not valid"),
        (empty, "not valid"),
        (envelope_without_signature, "not valid"),
        (other_signed_content, "was changed, or not made by the key"),
        (pipe_as_signature, "not a file with a signature"),
        (no_manifest, "no .*manifest.json"),
    ],
)
def test_folder_that_was_changed_is_refused(
    folder: Path, keys: tuple[Path, Path], damage: Callable[[Path], None], said: str
) -> None:
    private, public = keys
    sign_folder(folder, private)
    damage(folder)
    with pytest.raises(ArtifactError, match=said) as refused:
        check_signatures([folder], public)
    assert "toolkit export --sign" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_signature_of_another_key_is_refused(
    folder: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    other, _ = write_keys(tmp_path, "other")
    sign_folder(folder, other)
    with pytest.raises(ArtifactError, match="not valid for the key"):
        check_signatures([folder], keys[1])


def test_signature_of_another_folder_is_refused(
    folder: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """Both were signed by the same key."""
    private, public = keys
    other = tmp_path / "other"
    other.mkdir()
    write_manifest(other, replace(manifest(), spec_sha256="6" * 64))
    sign_folder(other, private)
    (folder / "manifest.sig").write_bytes((other / "manifest.sig").read_bytes())
    with pytest.raises(ArtifactError, match="Extra files"):
        check_signatures([folder], public)


def test_each_of_several_folders_must_be_signed(
    folder: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_manifest(other, manifest())
    sign_folder(folder, keys[0])
    with pytest.raises(ArtifactError, match=r"other is not signed.*leave out --key"):
        check_signatures([folder, other], keys[1])


def pipe_key(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.key")
    return folder / "pipe.key"


def rsa_keys(folder: Path) -> tuple[Path, Path]:
    return write_keys(folder, "rsa", key=rsa.generate_private_key(65537, 2048))


def curve_keys(folder: Path) -> tuple[Path, Path]:
    return write_keys(folder, "curve", key=ec.generate_private_key(ec.SECP256K1()))


def encrypted_keys(folder: Path) -> tuple[Path, Path]:
    return write_keys(folder, "encrypted", encryption=BestAvailableEncryption(b"secret"))


PRIVATE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "encrypted": (lambda folder: encrypted_keys(folder)[0], "private key is encrypted"),
    "a public one": (lambda folder: write_keys(folder)[1], "key.pub"),
    "of another kind": (lambda folder: rsa_keys(folder)[0], "not a key on one of the curves"),
    "on another curve": (lambda folder: curve_keys(folder)[0], "not a key on one of the curves"),
    "missing": (lambda folder: folder / "none.pem", "no such file"),
    "no key": (lambda _: HERE, "test_signing.py"),
    "a pipe": (pipe_key, "not a file of a key's size"),
    "a device": (lambda _: Path("/dev/zero"), "not a file of a key's size"),
    "a folder": (lambda folder: folder, "not a file of a key's size"),
}
PUBLIC: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a private one": (lambda folder: write_keys(folder)[0], "it is a private key"),
    "of another kind": (lambda folder: rsa_keys(folder)[1], "not a key on one of the curves"),
    "missing": (lambda folder: folder / "none.pub", "no such file"),
    "no key": (lambda _: HERE, "test_signing.py"),
    "a pipe": (pipe_key, "not a file of a key's size"),
}


@pytest.mark.parametrize("kind", list(PRIVATE))
def test_key_that_cannot_sign_is_refused_before_the_export(
    cli: Cli, tmp_path: Path, kind: str
) -> None:
    make, said = PRIVATE[kind]
    out = tmp_path / "out"
    result = cli("export", CHECKPOINT, "--out", out, "--sign", make(tmp_path))
    line = result.stderr.splitlines()[-1]
    assert (result.exit_code, line.startswith("Error: --sign")) == (2, True), result.stderr
    assert said in line
    assert "create a pair with: openssl" in line
    assert not out.exists()


@pytest.mark.parametrize("kind", list(PUBLIC))
def test_key_that_cannot_verify_is_refused(
    cli: Cli, folder: Path, tmp_path: Path, kind: str
) -> None:
    make, said = PUBLIC[kind]
    result = cli("verify", folder, "--key", make(tmp_path))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert result.stderr.startswith("Error: --key")
    assert said in result.stderr


def test_private_key_inside_the_folder_is_refused(folder: Path) -> None:
    private, _ = write_keys(folder)
    with pytest.raises(SettingError, match="the folder that others are to get"):
        sign_folder(folder, private)


def test_signing_and_checking_use_no_network(
    folder: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was used")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    sign_folder(folder, keys[0])
    check_signatures([folder], keys[1])


def test_manifest_that_stays_the_same_keeps_its_signature(
    folder: Path, keys: tuple[Path, Path]
) -> None:
    sign_folder(folder, keys[0])
    write_manifest(folder, read_manifest(folder))
    check_signatures([folder], keys[1])


def test_signature_can_be_read_by_others(folder: Path, keys: tuple[Path, Path]) -> None:
    sign_folder(folder, keys[0])
    signed = (folder / "manifest.sig").stat().st_mode
    assert stat.S_IMODE(signed) == stat.S_IMODE((folder / "manifest.json").stat().st_mode)


def test_export_and_verify_say_who_signed(
    cli: Cli, own_exports: Path, small_data: Path, keys: tuple[Path, Path]
) -> None:
    private, public = keys
    fingerprint = hashlib.sha256(public.read_bytes()).hexdigest()
    result = cli("export", CHECKPOINT, "--out", own_exports, "--sign", private, "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert (record["written"], record["signed_by"]) == ([], fingerprint)
    options = ("--runtime", "onnxruntime", "--data", small_data)
    results = toolkit.verify([own_exports], runtimes=["onnxruntime"], data=small_data, key=public)
    assert (results.signed_by, results.exit_code) == (fingerprint, 0)
    result = cli("verify", own_exports, *options, "--key", public)
    assert (result.exit_code, fingerprint in result.stdout) == (0, True), result.stderr
    with pytest.warns(ToolkitWarning, match=r"removed .*manifest.sig"):
        toolkit.export(CHECKPOINT, out=own_exports, formats=["ort"])
    result = cli("verify", own_exports, *options, "--key", public)
    assert (result.exit_code, "is not signed" in result.stderr) == (2, True), result.stderr
    again = toolkit.export(CHECKPOINT, out=own_exports, formats=["ort"], sign=private)
    assert (again.written, again.signed_by) == ((), fingerprint)
    assert check_signatures([own_exports], public) == fingerprint


def test_a_signature_covers_the_cards(tmp_path: Path) -> None:
    private, public = write_keys(tmp_path)
    folder = tmp_path / "exports"
    toolkit.export(CHECKPOINT, out=folder, formats=["torchscript"], sign=private)
    check_signatures([folder], public)
    card = folder / "mnist-cnn.torchscript.md"
    text = card.read_text()
    card.write_text(text.replace("0.1307", "0.5"))
    with pytest.raises(ArtifactError, match=r"changed|not valid"):
        check_signatures([folder], public)
    with pytest.warns(ToolkitWarning, match="it signed other files"):
        toolkit.export(CHECKPOINT, out=folder, formats=["torchscript"])
    assert card.read_text() == text
    assert not (folder / "manifest.sig").exists()
