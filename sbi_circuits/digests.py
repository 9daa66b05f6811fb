"""Stable SHA-256 digests of plain content; they key caches, table rows and artefacts."""

import dataclasses
import hashlib
import json
from typing import Any


def plain(value: Any) -> Any:
    """`value` as JSON content: dataclasses become dictionaries tagged with their class.

    A value that holds arrays says what it is made of by a `content` of its own, a digest.
    """
    content = getattr(value, "content", None)
    if isinstance(content, str):
        return {"": type(value).__name__, "content": content}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        content = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"": type(value).__name__, **content}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def digest(value: Any) -> str:
    """SHA-256 hex digest of plain content; equal content gives an equal digest on every machine.

    Examples:
        >>> digest({"a": 1})[:8] == digest({"a": 1})[:8]
        True
    """
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
