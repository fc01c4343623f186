"""A Hugging Face Hub on loopback: as much of its API as huggingface_hub needs to download and to upload models.

Large files are answered with a redirect to another host name, as the real one sends them to its CDN. Everything is in
memory; every request is logged.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_loopback"
LFS_SUFFIXES = (".safetensors", ".bin", ".model")
REPO = r"(?P<repo>[^/]+/[^/]+)"


@dataclass
class Repo:
    """A repository: its commits, what its branches point to, and what goes wrong with it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    licence: str | None = None
    gated: bool = False
    private: bool = False
    status: int = 0
    """Answer every download with this status instead."""
    hangs: bool = False
    """Take the connection and say nothing."""
    breaks: dict[str, int] = field(default_factory=dict)
    """Break the connection in the middle of these files, so often; the next try gets 503, which ends it."""
    down: set[str] = field(default_factory=set)
    """Files whose next try gets 503."""

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files and move a branch to it; gives its 40-hex name."""
        parts = [f"{len(self.commits)}", *(f"{name}{sha256(data)}" for name, data in sorted(files.items()))]
        name = hashlib.sha1("".join(parts).encode()).hexdigest()
        self.commits[name] = dict(files)
        self.refs[branch] = name
        return name

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    host: str
    has_token: bool
    range: str | None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_lfs(name: str) -> bool:
    return name.endswith(LFS_SUFFIXES)


class LoopbackHub:
    """The server; `address` is for `HF_ENDPOINT`."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.uploads: dict[str, bytes] = {}
        self.log: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # type: ignore[attr-defined]
        self.stopping = threading.Event()
        self.connections: set[socket.socket] = set()
        self.port = self._server.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://localhost:{self.port}"

    def add(self, repo: str, files: dict[str, bytes], **settings: Any) -> str:
        """Make a repository with one commit; gives its name."""
        self.repos[repo] = Repo(**settings)
        return self.repos[repo].commit(files)

    def take_log(self) -> list[Request]:
        """Requests since the last call."""
        taken, self.log = self.log, []
        return taken

    @contextlib.contextmanager
    def running(self) -> Iterator[LoopbackHub]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.close()
            thread.join()

    def close(self) -> None:
        """Stop listening and hang up; a second call does nothing."""
        if not self.stopping.is_set():
            self.stopping.set()
            self._server.shutdown()
            self._server.server_close()
            for connection in list(self.connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> LoopbackHub:
        return self.server.hub  # type: ignore[attr-defined]

    def setup(self) -> None:
        super().setup()
        self.hub.connections.add(self.connection)

    def finish(self) -> None:
        self.hub.connections.discard(self.connection)
        with contextlib.suppress(OSError):  # the other side has gone
            super().finish()

    def log_message(self, *_: object) -> None:
        """The log is `LoopbackHub.log`."""

    def do_HEAD(self) -> None:
        self._route("GET")

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def _route(self, method: str) -> None:
        url = urlsplit(self.path)
        self.path_only, self.query = unquote(url.path), parse_qs(url.query)
        authorization = self.headers.get("Authorization")
        self.token = None if authorization is None else authorization.removeprefix("Bearer ")
        host = self.headers.get("Host", "").partition(":")[0]
        request = Request(self.command, self.path_only, host, self.token is not None, self.headers.get("Range"))
        self.hub.log.append(request)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        for wanted, pattern, name in ROUTES:
            match = re.fullmatch(pattern, self.path_only)
            if match is not None and wanted == method:
                getattr(self, name)(**match.groupdict())
                return
        self._fail(404, message=f"no such address: {self.path_only}")

    # Answers

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), Content_Type="application/json")

    def _fail(self, status: int, *, code: str | None = None, message: str, **headers: str) -> None:
        known = {"X_Error_Message": message, **({} if code is None else {"X_Error_Code": code}), **headers}
        self._send(status, b"" if self.command == "HEAD" else json.dumps({"error": message}).encode(), **known)

    def _open(self, repo: str) -> Repo | None:
        """The repository, or None after an answer that it may not be seen."""
        found = self.hub.repos.get(repo)
        if self.token not in (None, TOKEN):
            self._fail(401, message="Invalid credentials in Authorization header")
        elif found is None or (found.private and self.token is None):
            if self.token is None:  # the real one does not tell what is not there from what is private
                self._fail(401, message="Invalid username or password.")
            else:
                self._fail(404, code="RepoNotFound", message="Repository not found")
        else:
            return found
        return None

    # Downloads

    def resolve(self, repo: str, rest: str) -> None:
        found = self._open(repo)
        if found is None:
            return
        if found.hangs:
            self.hub.stopping.wait(30)
            self.close_connection = True
        elif found.status != 0:
            self._fail(found.status, message="Service Unavailable")
        elif found.gated:
            status = 401 if self.token is None else 403
            self._fail(status, code="GatedRepo", message=f"Access to model {repo} is restricted.")
        else:
            self._resolve_file(repo, found, rest)

    def _resolve_file(self, repo: str, found: Repo, rest: str) -> None:
        revision = next((r for r in (*found.commits, *found.refs) if rest.startswith(f"{r}/")), None)
        if revision is None:
            self._fail(404, code="RevisionNotFound", message="Invalid rev id")
            return
        commit, name = found.resolve(revision), rest[len(revision) + 1 :]
        data = found.commits[commit].get(name)
        if data is None:
            self._fail(404, code="EntryNotFound", message="Entry not found", X_Repo_Commit=commit)
        elif is_lfs(name):
            linked = {"X_Linked_Etag": f'"{sha256(data)}"', "X_Linked_Size": str(len(data))}
            place = f"{self.hub.cdn}/cdn/{repo}/{commit}/{name}"
            self._send(302, X_Repo_Commit=commit, Location=place, **linked)
        else:
            self._send_file(data, X_Repo_Commit=commit, ETag=f'"{hashlib.sha1(data).hexdigest()}"')

    def cdn(self, repo: str, commit: str, name: str) -> None:
        found = self.hub.repos[repo]
        data = found.commits[commit][name]
        if name in found.down:
            found.down.remove(name)
            self._fail(503, message="Service Unavailable")
        elif found.breaks.get(name, 0) > 0:
            found.breaks[name] -= 1
            found.down.add(name)
            self._send_file(data, part=len(data) // 2, ETag=f'"{sha256(data)}"')
        else:
            self._send_file(data, ETag=f'"{sha256(data)}"')

    def _send_file(self, data: bytes, *, part: int | None = None, **headers: str) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked is not None:
            start = int(asked[1])
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206, data[start:], **headers)
        elif part is None:
            self._send(200, data, Accept_Ranges="bytes", **headers)
        else:
            self._send(200, data[:part], **{"Content_Length": str(len(data)), **headers})
            self.close_connection = True

    # The API

    def info(self, repo: str, revision: str = "main") -> None:
        found = self._open(repo)
        if found is None:
            return
        commit = found.resolve(revision)
        if commit is None:
            self._fail(404, code="RevisionNotFound", message="Invalid rev id")
            return
        tags = [] if found.licence is None else [f"license:{found.licence}"]
        files = [{"rfilename": name} for name in sorted(found.commits[commit])]
        about = {"_id": "0", "id": repo, "modelId": repo, "sha": commit, "private": found.private, "tags": tags}
        self._json({**about, "gated": "manual" if found.gated else False, "siblings": files})

    def tree(self, repo: str, revision: str) -> None:
        found = self._open(repo)
        if found is None:
            return
        files = found.commits[found.resolve(revision)]
        self._json([_tree_entry(name, data) for name, data in sorted(files.items())])

    def paths_info(self, repo: str, revision: str) -> None:
        found = self._open(repo)
        if found is None:
            return
        files = found.commits[found.resolve(revision)]
        wanted = json.loads(self.body)["paths"]
        self._json([_tree_entry(name, files[name]) for name in wanted if name in files])

    def whoami(self) -> None:
        if self.token == TOKEN:
            self._json({"name": "loop", "type": "user", "auth": {"accessToken": {"role": "write"}}, "orgs": []})
        else:
            self._fail(401, message="Invalid credentials in Authorization header")

    # Uploads

    def create_repo(self) -> None:
        if self.token != TOKEN:
            self._fail(401, message="Invalid username or password.")
            return
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'loop'}/{asked['name']}"
        place = {"url": f"{self.hub.address}/{name}", "name": name, "id": "0"}
        if name in self.hub.repos:
            self._json({**place, "error": "You already created this model repo"}, status=409)
            return
        private = bool(asked.get("private")) or asked.get("visibility") == "private"  # 1.x, 2.x
        self.hub.repos[name] = Repo(private=private)
        self.hub.repos[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self._json(place)

    def create_branch(self, repo: str, branch: str) -> None:
        found = self._open_to_write(repo)
        if found is not None:
            found.refs.setdefault(branch, found.refs["main"])
            self._json({})

    def _open_to_write(self, repo: str) -> Repo | None:
        found = self._open(repo)
        if found is not None and self.token != TOKEN:
            self._fail(403, message="you have no write access")
            return None
        return found

    def preupload(self, repo: str, revision: str) -> None:
        if self._open_to_write(repo) is not None:
            files = [
                {"path": f["path"], "uploadMode": "lfs" if is_lfs(f["path"]) else "regular", "shouldIgnore": False}
                for f in json.loads(self.body)["files"]
            ]
            self._json({"files": files})

    def lfs_batch(self, repo: str) -> None:
        if self._open_to_write(repo) is None:
            return
        objects = []
        for item in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.address}/lfs/{item['oid']}"},
                "verify": {"href": f"{self.hub.address}/lfs-verify"},
            }
            objects.append(item if item["oid"] in self.hub.uploads else {**item, "actions": actions})
        self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if sha256(self.body) == oid:
            self.hub.uploads[oid] = self.body
            self._send(200)
        else:
            self._fail(400, message="hash mismatch")

    def lfs_verify(self) -> None:
        asked = json.loads(self.body)
        is_whole = len(self.hub.uploads.get(asked["oid"], b"")) == asked["size"]
        self._json({}) if is_whole else self._fail(404, message="not uploaded")

    def yaml(self) -> None:
        self._json({"errors": [], "warnings": []})

    def make_commit(self, repo: str, revision: str) -> None:
        found = self._open_to_write(repo)
        if found is None:
            return
        files = dict(found.commits[found.resolve(revision)])
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        commit = found.commit(files, revision)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.address}/{repo}/commit/{commit}"})


def _tree_entry(name: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
    lfs = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return {**entry, "lfs": lfs} if is_lfs(name) else entry


ROUTES = (
    ("GET", rf"/{REPO}/resolve/(?P<rest>.+)", "resolve"),
    ("GET", rf"/cdn/{REPO}/(?P<commit>[0-9a-f]{{40}})/(?P<name>.+)", "cdn"),
    ("GET", rf"/api/models/{REPO}", "info"),
    ("GET", rf"/api/models/{REPO}/revision/(?P<revision>.+)", "info"),
    ("GET", rf"/api/models/{REPO}/tree/(?P<revision>.+)", "tree"),
    ("POST", rf"/api/models/{REPO}/paths-info/(?P<revision>.+)", "paths_info"),
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create_repo"),
    ("POST", rf"/api/models/{REPO}/branch/(?P<branch>.+)", "create_branch"),
    ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>.+)", "preupload"),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("POST", r"/lfs-verify", "lfs_verify"),
    ("POST", r"/api/validate-yaml", "yaml"),
    ("POST", rf"/api/models/{REPO}/commit/(?P<revision>.+)", "make_commit"),
)
"""Method, address, and the handler's method; HEAD goes with GET."""
