"""A hub of models on this machine: what huggingface_hub asks for to make a repository and to commit to it."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

WRITES, READS = "hf_writes", "hf_reads"  # the tokens that it knows
LARGE = 10_000  # bytes; above, a file goes to the large ones, where `takes_large` says so


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """Repositories by ORG/NAME. `fails`: status of the next commit; `asked`: methods and paths of all requests."""

    url: str
    takes_large: bool = False
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    fails: int | None = None
    asked: list[str] = field(default_factory=list)


@contextmanager
def hub() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (WRITES, READS) and not path.startswith("/large/"):
            return self._json({"error": "Invalid credentials in Authorization header"}, 401)
        if token == READS and (path == "/api/repos/create" or "/commit/" in path):
            return self._json({"error": "this token only reads"}, 403)
        for pattern, answer in ROUTES.items():
            if found := re.fullmatch(pattern, path):
                return answer(self, body, *found.groups())
        return self._json({"error": "no such page"}, 404)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            return self._json({"error": "exists", "url": f"{self.hub.url}/{name}"}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[name] = Repository(private, {".gitattributes": b"* text\n"})
        return self._json({"url": f"{self.hub.url}/{name}"})

    def validate(self, body: bytes) -> None:
        head = yaml.safe_load(json.loads(body)["content"].split("---\n")[1]) if b"---" in body else {}
        if head.get("license", "mit") in ("mit", "apache-2.0", "other"):
            return self._json({"errors": [], "warnings": []})
        said = '"license" must be one of [mit, …]'
        return self._json({"error": said, "errors": [{"message": said}], "warnings": []}, 400)

    def info(self, body: bytes, name: str) -> None:
        if name not in self.hub.repositories:
            return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        found = self.hub.repositories[name]
        siblings = [{"rfilename": path} for path in found.files]
        return self._json({"id": name, "sha": "0" * 40, "private": found.private, "siblings": siblings, "tags": []})

    def preupload(self, body: bytes, name: str) -> None:
        files = self.hub.repositories[name].files
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if self.hub.takes_large and file["size"] > LARGE else "regular",
                "shouldIgnore": False,
                "oid": _git_oid(files[file["path"]]) if file["path"] in files else None,
            }
            for file in json.loads(body)["files"]
        ]
        self._json({"files": modes})

    def batch(self, body: bytes, name: str) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/large/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        self.hub.large[oid] = body
        self._json({})

    def commit(self, body: bytes, name: str) -> None:
        if self.hub.fails is not None:
            return self._json({"error": "no space left"}, self.hub.fails)
        found = self.hub.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                found.commits.append(value["summary"])
            elif line["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found.files[value["path"]] = self.hub.large[value["oid"]]
            else:
                raise AssertionError(f"a commit that does more than add: {line['key']}")
        return self._json({"commitUrl": f"{self.hub.url}/{name}/commit/1", "commitOid": "1" * 40})

    def content(self, body: bytes, name: str, path: str) -> None:
        data = self.hub.repositories[name].files[path]
        self._send(
            data, 200, {"ETag": f'"{_git_oid(data)}"', "X-Repo-Commit": "0" * 40, "X-Linked-Size": str(len(data))}
        )

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        said = {"X-Error-Message": content["error"].encode("ascii", "ignore").decode()} if "error" in content else {}
        self._send(
            json.dumps(content).encode(), status, {"Content-Type": "application/json", **said, **(headers or {})}
        )

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


REPOSITORY = r"([\w.-]+/[\w.-]+)"
ROUTES = {
    "/api/repos/create": _Handler.create,
    "/api/validate-yaml": _Handler.validate,
    f"/api/models/{REPOSITORY}(?:/revision/main)?": _Handler.info,
    f"/api/models/{REPOSITORY}/preupload/main": _Handler.preupload,
    f"/api/models/{REPOSITORY}/commit/main": _Handler.commit,
    rf"/{REPOSITORY}\.git/info/lfs/objects/batch": _Handler.batch,
    r"/large/(\w+)": _Handler.store,
    f"/{REPOSITORY}/resolve/main/(.+)": _Handler.content,
}
