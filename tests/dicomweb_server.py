"""A small DICOMweb server for tests (DICOM PS3.18: QIDO-RS, WADO-RS, STOW-RS): it holds what it is given, in memory."""

import io
import json
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom

BOUNDARY = "tests-boundary"


class DicomWebServer:
    """Serves on a free port of loopback until `close`.

    Attributes:
        url: root of the service.
        files: of each series, by its UID.
        stored: what clients stored, in order.
        asked: how often which path was asked for, with its method: ``"GET /studies/1.2/series"``.
        logins: Authorization headers that came.
        leads_to: if set, every answer is a redirect to there.
        pause: if set, series are sent up to the first file, and the rest when it is set.
    """

    def __init__(self) -> None:
        self.files: dict[str, list[bytes]] = defaultdict(list)
        self.described: dict[str, dict[str, Any]] = {}
        self.stored: list[pydicom.Dataset] = []
        self.asked: Counter[str] = Counter()
        self.logins: list[str] = []
        self.leads_to: str | None = None
        self.pause: threading.Event | None = None
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/dicom-web"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def hold(self, files: list[Path]) -> str:
        """Take the files of a series, and give its UID."""
        for path in files:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            self.files[dataset.SeriesInstanceUID].append(path.read_bytes())
            self.described[dataset.SeriesInstanceUID] = {
                "0020000D": {"vr": "UI", "Value": [dataset.StudyInstanceUID]},
                "0020000E": {"vr": "UI", "Value": [dataset.SeriesInstanceUID]},
                "00080060": {"vr": "CS", "Value": [dataset.Modality]},
                "00200011": {"vr": "IS", "Value": [int(dataset.SeriesNumber)]},
                "00201209": {"vr": "IS", "Value": [len(self.files[dataset.SeriesInstanceUID])]},
            }
        return str(dataset.SeriesInstanceUID)

    def fetched(self) -> list[str]:
        """UIDs of the series that were fetched."""
        paths = [entry.split("/") for entry in self.asked]
        return sorted(path[5] for path in paths if len(path) == 6 and path[4] == "series")

    def close(self) -> None:
        """End."""
        if self.pause is not None:
            self.pause.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: DicomWebServer

    def do_GET(self) -> None:
        path = self._noted()
        if self.owner.leads_to is not None:
            self._redirect()
        elif path[-1] == "series":
            study = path[-2]
            found = [each for each in self.owner.described.values() if each["0020000D"]["Value"] == [study]]
            self._answer(json.dumps(found).encode(), "application/dicom+json")
        elif path[-1] == "instances":
            found = [
                {"00080018": {"vr": "UI", "Value": [pydicom.dcmread(io.BytesIO(each)).SOPInstanceUID]}}
                for each in self.owner.files[path[-2]]
            ]
            self._answer(json.dumps(found).encode(), "application/dicom+json")
        else:
            self._send_series(self.owner.files[path[-1]])

    def do_POST(self) -> None:
        self._noted()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.owner.leads_to is not None:
            self._redirect()
            return
        boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
        for part in body.split(b"--" + boundary)[1:-1]:
            contents = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            self.owner.stored.append(pydicom.dcmread(io.BytesIO(contents)))
        self._answer(b"{}", "application/dicom+json")

    def _noted(self) -> list[str]:
        path = self.path.partition("?")[0]
        self.owner.asked[f"{self.command} {path}"] += 1
        if self.headers["Authorization"]:
            self.owner.logins.append(self.headers["Authorization"])
        return path.split("/")

    def _redirect(self) -> None:
        self.send_response(302)
        self.send_header("Location", f"{self.owner.leads_to}{self.path.removeprefix('/dicom-web')}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, body: bytes, media_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_series(self, files: list[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f'multipart/related; type="application/dicom"; boundary={BOUNDARY}')
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, contents in enumerate(files):
            if number == 2 and self.owner.pause is not None:
                self.owner.pause.wait(60)
            self._chunk(f"\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + contents)
        self._chunk(f"\r\n--{BOUNDARY}--\r\n".encode())
        self._chunk(b"")

    def _chunk(self, contents: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(contents), contents))

    def log_message(self, *_arguments: Any) -> None:
        """Nothing: the tests' output is for the tests."""
