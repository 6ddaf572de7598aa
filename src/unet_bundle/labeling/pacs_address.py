"""Where a request of the viewer goes at the PACS: to its DICOMweb services and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

PLAIN = "/,:;=@!&'()*+"
"""What an address may hold as it is. A percent sign is none: what is written with it would be decoded once more on the
way, and ``%2e%2e`` be a way out of the services."""


def pacs_address(root: str, prefixes: Mapping[str, str], path: str) -> str | None:
    """The address at the PACS, None if there is no such service.

    Args:
        root: of DICOMweb.
        prefixes: of its services ``wado``, ``qido`` and ``stow`` behind that; empty where there is none.
        path: of the request, decoded: the service and what is asked of it.
    """
    service, _, rest = path.partition("/")
    if service not in prefixes or {".", ".."} & {*rest.split("/")}:
        return None
    prefix = prefixes["wado" if rest.endswith("metadata") else service]
    return "/".join([root.rstrip("/"), *([prefix.strip("/")] if prefix else []), quote(rest, safe=PLAIN)])
