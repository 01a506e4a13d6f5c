"""The server's secret: made once, and what other secrets are derived from and sealed with."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sdapi.domain.errors import SdapiError

_FILE = "secret.key"
_FILE_BYTES = 32
_SUBKEY_BYTES = 32


class SecretUnusable(SdapiError):
    """The file with the server's secret can't be made or read."""


class SealBroken(SdapiError):
    """What was sealed can't be opened: the server's secret is another one now, or the text was changed."""


class ServerSecret:
    """A secret that never leaves the server; every purpose has a key of its own. `material` has at least 16 bytes."""

    def __init__(self, material: bytes) -> None:
        self._material = material

    def subkey(self, purpose: str) -> bytes:
        """32 bytes, the same for the same purpose; nothing can be told from one purpose's key about another's."""
        return HKDF(algorithm=SHA256(), length=_SUBKEY_BYTES, salt=None, info=f"sdapi {purpose}".encode()).derive(self._material)

    def sealer(self, purpose: str) -> Sealer:
        """Seals what this purpose keeps."""
        return Sealer(self.subkey(purpose))


class Sealer:
    """Text that can be kept in a database without being readable there, nor changed unnoticed. `key` has 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def seal(self, text: str) -> str:
        """`text`, encrypted and signed, in ASCII; different each time."""
        return self._fernet.encrypt(text.encode()).decode("ascii")

    def unseal(self, sealed: str) -> str:
        """What was sealed. Raises SealBroken."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken as broken:
            raise SealBroken("It was sealed with another secret key of the server.") from broken


def open_server_secret(secret_key: str | None, data_dir: Path) -> ServerSecret:
    """The secret from the settings, else the one in `data_dir`, which is made where there is none. Raises SecretUnusable."""
    if secret_key:
        return ServerSecret(secret_key.encode("utf-8", "surrogatepass"))
    path = data_dir / _FILE
    try:
        if not path.exists():
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(path)
        material = path.read_bytes()
    except OSError as failure:
        raise SecretUnusable(f"The server's secret in {_FILE} of the data folder can't be made or read.") from failure
    if len(material) != _FILE_BYTES:
        raise SecretUnusable(f"{_FILE} in the data folder is damaged. Put the right one back, or remove it to have another made.")
    return ServerSecret(material)


def _make(path: Path) -> None:
    """Put a random secret at `path`, unless another process was faster: then its secret stays."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_FILE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # A link appears whole and replaces nothing, which a rename or an exclusive open followed by a write would not both give.
        path.hardlink_to(temporary)
    except FileExistsError:
        return
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
