"""Series from a PACS and results back to it, by DICOMweb (DICOM PS3.18: QIDO-RS, WADO-RS, STOW-RS)."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io.dicom.kinds import MODALITIES, OTHER_MODALITIES

logger = logging.getLogger(__name__)

TIMEOUT_S = (10, 300)
"""Seconds to wait for a connection, and for the next bytes."""

ATTEMPTS = 3
"""How often a request is made of a server that is busy."""

MAX_SERIES = 1000
"""Most series of a study that are asked for."""

ANY_SYNTAX = (("application/dicom", "*"),)  # as it is stored: what the server would decode, the reader does
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_INSTANCE_UID = "00080018"
_MODALITY, _SERIES_UID, _SERIES_NUMBER, _COUNT = "00080060", "0020000E", "00200011", "00201209"
_REFUSED, _FORBIDDEN, _MISSING = 401, 403, 404


@dataclass(frozen=True)
class RemoteSeries:
    """A series as the server lists it.

    Attributes:
        uid: SeriesInstanceUID.
        modality: as DICOM has it, "unknown" if it is none of those.
        number: SeriesNumber, None where there is none.
        count: of its instances, None if the server does not say.
    """

    uid: str
    modality: str
    number: int | None
    count: int | None


class DicomWeb:
    """A DICOMweb server.

    Login names and passwords come from the netrc file (``~/.netrc``, or the one that the environment variable
    ``NETRC`` names), proxies and certificates from the usual environment variables (``HTTPS_PROXY``,
    ``REQUESTS_CA_BUNDLE``). A login never goes to another computer by http. What is logged holds no patient data.

    Args:
        url: root of the service, such as ``"https://pacs.example.org/dicom-web"``.

    Raises:
        ConfigError: if the URL is none, or holds a password or parameters; if a login for it would cross the network
            in the clear; or dicomweb-client is missing.
    """

    def __init__(self, url: str) -> None:
        parts = _checked_url(url)
        self.host = parts.netloc
        try:
            from dicomweb_client import DICOMwebClient
        except ImportError:
            raise ConfigError("DICOMweb needs dicomweb-client: pip install 'unet-bundle[dicomweb]'") from None
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            _check_without_login(url, self.host)
        logging.getLogger("dicomweb_client").setLevel(logging.ERROR)  # below that it passes on what servers write
        logging.getLogger("retrying").setLevel(logging.ERROR)  # below that it shows tracebacks
        try:
            self._client: Any = DICOMwebClient(url.rstrip("/"), timeout=TIMEOUT_S)
        except ValueError:
            raise ConfigError("the DICOMweb URL cannot be used: give one like https://host/dicom-web") from None
        self._client.set_http_retry_params(max_attempts=ATTEMPTS)
        # Elsewhere scans and logins may be in the wrong hands, or on the way in plain text.
        self._client._session.max_redirects = 0  # noqa: SLF001  (no public way)

    def series(self, study_uid: str) -> list[RemoteSeries]:
        """The series of a study.

        Raises:
            ConfigError: if `study_uid` is no UID.
            InputError: if the server cannot be reached, refuses, or has no such study.
        """
        check_uid(study_uid, "study")
        with self._spoken("study"):
            found = self._client.search_for_series(
                study_uid, limit=MAX_SERIES, fields=["NumberOfSeriesRelatedInstances"]
            )
            series = [_remote_series(entry) for entry in found]
        if not series:
            raise InputError(f"{self.host} has no such study: check the UID")
        return sorted(series, key=lambda each: (each.number or 0, each.uid))

    def instances(self, study_uid: str, series_uid: str) -> set[str]:
        """SOPInstanceUIDs of a series; fewer than it has if the server lists no more.

        Raises:
            InputError: if the server cannot be reached or refuses.
        """
        with self._spoken("series"):
            found = self._client.search_for_instances(study_uid, series_uid, fields=["SOPInstanceUID"])
            return {str(entry[_INSTANCE_UID]["Value"][0]) for entry in found}

    def fetch(self, study_uid: str, series: RemoteSeries, folder: Path) -> int:
        """Write the instances of a series into a folder as they come, under running numbers.

        Args:
            study_uid: of the study.
            series: one of `series`.
            folder: made if missing.

        Returns:
            How many there are.

        Raises:
            InputError: if the server cannot be reached or refuses, or not all instances come, or others.
        """
        import pydicom

        folder.mkdir(parents=True, exist_ok=True)
        count = 0
        # Without validation values are passed on as they are, and none stands in a warning.
        with self._spoken("series"), pydicom.config.disable_value_validation():
            for dataset in self._client.iter_series(study_uid, series.uid, media_types=ANY_SYNTAX):
                if (dataset.get("StudyInstanceUID"), dataset.get("SeriesInstanceUID")) != (study_uid, series.uid):
                    raise InputError(
                        f"{self.host} sent a file of another series than it was asked for: ask its operator"
                    )
                count += 1
                dataset.save_as(folder / f"{count:06d}.dcm")
        if count == 0 or (series.count is not None and count < series.count):
            raise InputError(
                f"{self.host} sent {count} of {series.count or 'all'} files of a series: try again, or ask its operator"
            )
        if series.count is None:
            logger.warning("%s does not say how many files its series have: whether all came is unknown", self.host)
        logger.info("%d files of %s series fetched", count, series.modality)
        return count

    def store(self, files: Sequence[Path]) -> None:
        """Store DICOM files (STOW-RS), one by one.

        Args:
            files: of results.

        Raises:
            InputError: if the server cannot be reached, refuses, or does not keep one.
        """
        import pydicom

        for path in files:
            with self._spoken("place for results"), pydicom.config.disable_value_validation():
                answer = self._client.store_instances([pydicom.dcmread(path)])
                failed = answer.get("FailedSOPSequence")
            if failed:
                reason = failed[0].get("FailureReason")
                code = "" if reason is None else f" (reason {int(reason):#06x})"
                raise InputError(f"{self.host} did not keep the result {path.name}{code}: ask its operator")
        logger.info("%d result%s stored on %s", len(files), "" if len(files) == 1 else "s", self.host)

    @contextmanager
    def _spoken(self, what: str) -> Iterator[None]:
        """Turn what may go wrong between here and the server into one sentence without the server's own words."""
        import requests
        import retrying
        from pydicom.errors import InvalidDicomError

        broken = (InvalidDicomError, ValueError, KeyError, TypeError, AttributeError, EOFError)
        try:
            yield
        except InputError:
            raise
        except requests.HTTPError as error:
            status = 0 if error.response is None else error.response.status_code
            raise InputError(f"{self.host} {_answer(status, what)}") from None
        except requests.TooManyRedirects:
            raise InputError(
                f"{self.host} sends elsewhere: give the URL that it leads to, if that is trusted"
            ) from None
        except requests.exceptions.SSLError as error:
            raise InputError(f"{self.host} {_without_https(str(error))}") from None
        except requests.exceptions.ChunkedEncodingError:
            raise InputError(f"{self.host} broke off in the middle: try again") from None
        except (requests.ConnectionError, requests.Timeout):
            raise InputError(f"{self.host} does not answer: check the URL and whether the server runs") from None
        except retrying.RetryError:
            raise InputError(f"{self.host} is busy, it refused {ATTEMPTS} times: try again later") from None
        except (requests.RequestException, *broken) as error:
            # What a server that speaks no DICOMweb sends ends in many kinds of error.
            raise InputError(
                f"{self.host} gave no DICOMweb answer ({type(error).__name__}): check that the URL is that of DICOMweb"
            ) from None


def check_uid(uid: str, what: str) -> None:
    """Refuse what is no UID; it is not shown, since it may be a patient's id.

    Raises:
        ConfigError: if it is none.
    """
    if not _UID.fullmatch(uid) or len(uid) > 64:
        raise ConfigError(f"the UID of the {what} is none: it must be numbers and points, 64 characters at most")


def _checked_url(url: str) -> SplitResult:
    """The parts of a usable URL. No message shows it, since what is wrong with it may be a password in it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError("the DICOMweb URL is none: give one like https://host/dicom-web")
    if "@" in parts.netloc:
        raise ConfigError(
            "the DICOMweb URL holds a login, which every user of this computer could read: put it into ~/.netrc"
        )
    if parts.query or parts.fragment:
        raise ConfigError("the DICOMweb URL has parameters behind ? or #: give the root of the service only")
    return parts


def _check_without_login(url: str, host: str) -> None:
    """Of a server that is reached by http: warn, and refuse if requests would send it a login."""
    from requests.utils import get_netrc_auth

    if get_netrc_auth(url) is not None:
        raise ConfigError(
            f"{host} is reached by http, so its login in ~/.netrc would cross the network in the clear: "
            "give its https URL, or that of a tunnel to it on localhost"
        )
    logger.warning("%s is reached by http: patient data cross the network in the clear", host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _without_https(said: str) -> str:
    """What is wrong where no https connection comes about."""
    if "CERTIFICATE" in said.upper():
        return "has a certificate that is not trusted: name its authority in REQUESTS_CA_BUNDLE"
    return "speaks no https that this computer knows: check the port, or give its http URL if it has no other"


def _answer(status: int, what: str) -> str:
    if status in (_REFUSED, _FORBIDDEN):
        return f"refuses access (HTTP {status}): put login and password for it into ~/.netrc"
    if status == _MISSING:
        return f"has no such {what} (HTTP 404): check the URL and the UIDs"
    return f"answers with HTTP {status}: ask its operator"


def _remote_series(entry: dict[str, Any]) -> RemoteSeries:
    def value(tag: str) -> Any:
        values = entry.get(tag, {}).get("Value") or [None]
        return values[0]

    modality = str(value(_MODALITY) or "").upper()
    known = modality in MODALITIES or modality in OTHER_MODALITIES
    uid = str(value(_SERIES_UID) or "")
    if not _UID.fullmatch(uid):
        raise ValueError("no series")
    number, count = value(_SERIES_NUMBER), value(_COUNT)
    return RemoteSeries(
        uid,
        modality if known else "unknown",
        None if number is None else int(number),
        None if count is None else int(count),
    )
