"""Records of programs: artifacts and model factories whose use runs code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Program:
    """Something that runs code when it is used.

    Attributes:
        kind: An artifact of a program format, or the factory of a model.
        name: `pt2 fp32`, or `package.module:function`.
        path: The artifact, or the source file of the factory.
        sha256: Of these bytes. For a factory, it covers its own source file, not the modules that
            this file imports, so the trust is limited to this path.
        runs: What using it can run.
        arguments: The arguments that the checkpoint passes to the factory.
        root: The folder that a factory's module is imported from.
        command: The command that recorded the trust: `export`, `import` or `trust`.
        time: When it was recorded, in ISO 8601.
    """

    kind: Literal["artifact", "factory"]
    name: str
    path: str
    sha256: str
    runs: str
    arguments: dict[str, int | float | str | bool] = field(default_factory=dict)
    root: str = ""
    command: str = ""
    time: str = ""

    @property
    def key(self) -> str:
        """The sha256 that identifies what is trusted: the bytes of an artifact; the source file,
        its place, name and arguments of a factory."""
        if self.kind == "artifact":
            return self.sha256
        identity = json.dumps([self.name, self.path, self.arguments, self.sha256], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()

    def __str__(self) -> str:
        if self.kind == "artifact":
            return f"{self.path} ({self.name})"
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.name}({arguments}) in {self.path}"
