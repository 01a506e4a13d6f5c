"""The documented samples as programs: host, key and pictures replaced, run as a user would, their output read back."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .site import Site

SAMPLES = Path(__file__).parent / "samples"

_TIMEOUT_S = 120
_HOSTS = ("https://api.midjourneyapi.xyz", "https://stablediffusionapi.com")
_PICTURES = re.compile(r"https://(?:img\.midjourneyapi\.xyz/sd|i\.imgur\.com)/[\w-]+\.png")
_LOOKED_UP_ID = "30588303"
_TO_JSON = "console.log(JSON.stringify(require('vm').runInNewContext('(' + require('fs').readFileSync(0, 'utf8') + ')')))"


@dataclass(frozen=True)
class Printed:
    """What a sample printed."""

    status: int | None
    """The HTTP status; None where the sample prints only the body."""
    body: dict[str, Any]


@dataclass(frozen=True)
class Programs:
    """Runs samples; what a sample needs is looked for when it is run."""

    folder: Path
    node_folder: Callable[[], Path]
    curl: Callable[[], str]

    def run(self, sample: str, site: Site, *, key: str) -> Printed:
        """What the sample of this file name prints when it is run against the site."""
        text = _pointed_at(site, key, (SAMPLES / sample).read_text())
        match Path(sample).suffix:
            case ".py":
                return self._python(text)
            case ".js":
                return self._node(text)
            case _:
                return self._shell(text)

    def _python(self, text: str) -> Printed:
        output = self._output([sys.executable, "-c", text])
        return _status_and_body(output, ast.literal_eval)

    def _node(self, text: str) -> Printed:
        script = self.node_folder() / "sample.js"
        script.write_text(text)
        # Without proxies: axios takes them from the environment even for the loopback address.
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        output = self._output(["node", "--no-warnings", str(script)], environment)
        return _status_and_body(output, lambda printed: json.loads(self._output(["node", "-e", _TO_JSON], sent=printed)))

    def _shell(self, text: str) -> Printed:
        self.curl()
        # Has curl tell the status without a change to the sample, whose output it comes after.
        (self.folder / ".curlrc").write_text('silent\nnoproxy = "*"\nwrite-out = "\\n%{http_code}"\n')
        output = self._output(["sh", "-c", text], {**os.environ, "CURL_HOME": str(self.folder)})
        body, _, status = output.rpartition("\n")
        return Printed(int(status), json.loads(body))

    def _output(self, command: list[str], environment: Mapping[str, str] | None = None, *, sent: str | None = None) -> str:
        done = subprocess.run(command, cwd=self.folder, env=environment, input=sent, capture_output=True, text=True, timeout=_TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        assert done.stdout, done.stderr
        return done.stdout.strip()


def _pointed_at(site: Site, key: str, text: str) -> str:
    text = _PICTURES.sub(site.drawn_url, text).replace(_LOOKED_UP_ID, str(site.drawn_id))
    for host in _HOSTS:
        text = text.replace(host, site.url)
    text = text.replace("YOUR_API_KEY", key).replace('"key": ""', f'"key": "{key}"')
    assert "https://" not in text, "the sample would leave this machine"
    return text


def _status_and_body(output: str, read: Callable[[str], Any]) -> Printed:
    """Samples either print the status and then the decoded body in their language's own way, or the body as it came."""
    first, _, rest = output.partition("\n")
    return Printed(int(first), read(rest)) if first.isdecimal() else Printed(None, json.loads(output))
