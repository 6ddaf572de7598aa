"""OHIF, the viewer in a browser that MONAI Label serves: its files, and what it asks a PACS for by way of the server.

MONAI Label hands on the path alone: a search loses its query and finds everything, and a picture is not asked for in
the form that the viewer reads, so that Orthanc refuses compressed ones. It looks for files in folders by a wrong name,
lets the viewer connect to port 8000, wherever it listens itself, and runs all that trains by the viewer's one button,
the way back to the model before too.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import monailabel.endpoints.ohif
import requests
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.others.generic import get_mime_type

from unet_bundle.labeling.pacs_address import pacs_address

logger = logging.getLogger(__name__)

FILES = Path(monailabel.endpoints.ohif.__file__).parent / "static" / "ohif"
SERVER_COOKIE = "MONAILABEL_SERVER_URL"
"""Where the viewer's panel looks for the server that it proposes to connect to."""
NO_FOREIGN_FONTS = {"Content-Security-Policy": "style-src 'self' 'unsafe-inline'; font-src 'self' data:"}
"""The start page would have the browser ask Google for fonts; those of the computer do."""
PASSED_ON = ("accept", "content-type")
"""Headers of a request that a PACS must know."""
TIMEOUT_S = 300
"""For which a PACS may be silent."""
ASKED_AS_FILES = (".css", ".js", ".json", ".map", ".png", ".svg", ".wasm")
"""Endings of what is no page: where it is missing the start page would be taken for it."""


def serve_viewer(app: FastAPI) -> None:
    """Answer for the viewer in place of MONAI Label.

    Args:
        app: the running server.
    """
    allowed = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
    router = APIRouter(prefix=settings.MONAI_LABEL_API_STR, dependencies=[allowed])
    router.add_api_route("/ohif/{path:path}", viewer_file, methods=["GET"], include_in_schema=False)
    router.add_api_route("/proxy/dicom/{path:path}", from_pacs, methods=["GET", "POST"], include_in_schema=False)
    may_train = [Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))]
    router.add_api_route("/train/", update_model, methods=["POST"], dependencies=may_train, include_in_schema=False)
    app.router.routes[:0] = router.routes  # the first that fits answers


def viewer_file(path: str, request: Request) -> Response:
    """A file of the viewer; its start page for every address that is none."""
    file = (FILES / path).resolve()
    if path and file.is_file() and file.is_relative_to(FILES.resolve()):
        return FileResponse(file, media_type=get_mime_type(str(file)))
    if Path(path).suffix in ASKED_AS_FILES:
        raise HTTPException(404, "The viewer has no such file.")
    page = FileResponse(FILES / "index.html", media_type="text/html", headers=NO_FOREIGN_FONTS)
    page.set_cookie(SERVER_COOKIE, quote(str(request.base_url), safe=""), path="/ohif", samesite="lax")
    return page


async def update_model(params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train the model: the viewer's button names none, and MONAI Label would run all, the way back as the last."""
    model = next(iter(app_instance().info()["trainers"]))
    request = {"model": model, **((params or {}).get(model) or {})}
    result, detail = AsyncTask.run("train", request=request, params=params, enqueue=True)
    return {model: {"result": result, "detail": detail}}


async def from_pacs(path: str, request: Request) -> Response:
    """What the PACS answers to a request of the viewer, ``wado/``, ``qido/`` or ``stow/`` and the path there."""
    prefixes = {
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "qido": settings.MONAI_LABEL_QIDO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }
    address = pacs_address(settings.MONAI_LABEL_STUDIES, prefixes, path)
    if address is None:
        raise HTTPException(404, "No such service of a PACS.")
    login = (settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD)
    try:
        answer = await run_in_threadpool(
            requests.request, request.method, address, params=request.query_params.multi_items(),
            headers={name: request.headers[name] for name in PASSED_ON if name in request.headers},
            data=await request.body() or None, auth=login if all(login) else None, timeout=TIMEOUT_S,
        )  # fmt: skip
    except requests.RequestException as error:
        # Its text has the address, and in that the name of a patient who is searched for.
        logger.warning("The PACS does not answer: %s", type(error).__name__)
        raise HTTPException(502, "The PACS does not answer.") from error
    said = {"content-type": answer.headers["content-type"]} if "content-type" in answer.headers else {}
    return Response(answer.content, answer.status_code, headers=said)
