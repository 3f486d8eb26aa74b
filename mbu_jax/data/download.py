"""Downloading one file: whole and checked, or not there."""

import http.client
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from mbu_jax.errors import InputError
from mbu_jax.files import make_readable

_TIMEOUT_SECONDS = 30
_USER_AGENT = "mbu-jax"


def download(url: str, path: Path, *, check: Callable[[Path], None]) -> None:
    """Downloads a file to a name ending in ``.part``, which becomes its own once it is checked.

    Args:
      url: what to fetch.
      path: where the file goes; its folder is made.
      check: raises InputError where the downloaded file is not what it should be.

    Raises:
      InputError: the network or the folder does not allow it, the transfer is incomplete, or
        ``check`` refuses the file; nothing is left behind then.

    Example:
      >>> source = Path(tempfile.mkdtemp()) / "source"
      >>> _ = source.write_text("content")
      >>> target = source.with_name("target")
      >>> download(source.as_uri(), target, check=lambda path: None)
      >>> target.read_text()
      'content'
    """
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        request = urllib.request.Request(url, headers={"User-Agent": _USER_AGENT})
        with (
            urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response,
            tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=f"{path.name}.", suffix=".part", delete=False
            ) as file,
        ):
            part = Path(file.name)
            promised = int(response.headers.get("Content-Length") or 0)
            with tqdm.wrapattr(
                response, "read", desc=f"downloading {path.name}", total=promised or None
            ) as stream:
                shutil.copyfileobj(stream, file)
        received = part.stat().st_size
        if promised and received != promised:
            raise OSError(f"{received} of {promised} bytes arrived")
        check(part)
        make_readable(part)
        part.replace(path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, InputError):
            raise
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise InputError(
            f"cannot download {url} ({error}); download {path.name} by hand and name its folder"
            " with --data-dir"
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
