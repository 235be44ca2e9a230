"""JSON that ends in the SHA-256 of all that stands before it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

__all__ = ["fault_of_seal", "sealed"]

_END = re.compile(rb',\n  "digest": "sha256:([0-9a-f]{64})"\n\}\Z')


def sealed(values: dict[str, Any]) -> str:
    """An object's JSON, with its digest as the last member.

    Example:
        >>> fault_of_seal(sealed({"a": 1}).encode())
        >>> fault_of_seal(sealed({"a": 1}).replace("1", "2", 1).encode())[:15]
        'has the SHA-256'
        >>> fault_of_seal(b'{}')
        'does not end in its digest'
    """
    head = json.dumps(values, indent=2, ensure_ascii=False).removesuffix("\n}")
    digest = hashlib.sha256(head.encode()).hexdigest()
    return f'{head},\n  "digest": "sha256:{digest}"\n}}'


def fault_of_seal(content: bytes) -> str | None:
    """What is wrong with the digest at the end of a file; None where it is that of the rest."""
    end = _END.search(content)
    if end is None:
        return "does not end in its digest"
    found, expected = hashlib.sha256(content[: end.start()]).hexdigest(), end[1].decode()
    if found != expected:
        return f"has the SHA-256 {found}, and says {expected} of itself"
    return None
