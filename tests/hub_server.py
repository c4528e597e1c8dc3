"""A Hub on this machine: the HTTP protocol that huggingface_hub and datasets speak, with storage, tokens and faults.

Repositories are lists of commits, each a whole tree; large files go through the LFS batch API to presigned addresses, in one piece or
in parts, and are checked by size and sha256. What is checked here is what the Hub checks; what it answers is what its clients read.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".parquet", ".tar", ".png", ".jpg", ".webp", ".arrow", ".zip")  # a new dataset's .gitattributes, in part
LFS_BYTES = 10 << 20
# What happens to request n: None; a status to answer; "disconnect" before anything is done, or "half": so after half the body was read;
# "lost": it is done, and its answer never arrives.
Fault = Callable[[int, str, str], Any]


@dataclass(frozen=True)
class File:
    """One file of a tree. oid: sha256 of a large file, git's sha1 of another."""

    oid: str
    size: int
    lfs: bool


@dataclass
class Repo:
    """commits: (oid, message, tree), oldest first; never empty."""

    private: bool
    commits: list[tuple[str, str, dict[str, File]]] = field(default_factory=list)

    @property
    def tree(self) -> dict[str, File]:
        return self.commits[-1][2]

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    def commit(self, message: str, tree: dict[str, File]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {message} {sorted(tree.items())!r}".encode()).hexdigest()
        self.commits.append((oid, message, tree))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, File]] | None:
        if revision == "main":
            return self.head, self.tree
        return next(((oid, tree) for oid, _, tree in self.commits if oid.startswith(revision) and len(revision) >= 7), None)


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str = "", body: dict[str, Any] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body or {}


class Hub:
    """The server and its state. tokens: token -> (user, may write)."""

    def __init__(self, chunk: int | None = None, page: int = 1000):
        self.tokens = {"hf_writer000000000000000000000000000000": ("ada", True), "hf_reader000000000000000000000000000000": ("bob", False)}
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.chunk, self.page = chunk, page  # bytes of a part, None: always one piece; entries of a page of a tree
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.serving = 0  # requests that are being answered
        self.stored = self.sent = 0  # bytes of large files that were received, whole or not; bytes of bodies that were
        self.fault: Fault = lambda n, method, path: None
        self.lock = threading.RLock()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = _Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Hub:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @contextlib.contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Count requests from 0 again, and let these fail."""
        self.requests.clear()
        self.fault = fault
        try:
            yield
        finally:
            self.fault = lambda n, method, path: None

    def settle(self) -> None:
        """Wait for requests whose client is gone: they are read to their end."""
        while self.serving:
            time.sleep(0.01)

    def read(self, repo: str, path: str) -> bytes:
        """A file at the head of a dataset, behind its tokens' back."""
        return self.blobs[self.repos[repo].tree[path].oid]

    # ---- the API: each answers (status, headers, body)

    def whoami(self, user: str) -> dict[str, Any]:
        return {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token"}}

    def create(self, user: str, body: dict[str, Any]) -> dict[str, Any]:
        name = f"{body.get('organization') or user}/{body['name']}"
        if body.get("type") != "dataset":
            raise Refused(400, "only datasets here")
        if name.split("/")[0] != user:
            raise Refused(403, f'You don\'t have the rights to create a dataset under the namespace "{name.split("/")[0]}"')
        url = {"url": f"{self.url}/datasets/{name}", "id": name, "name": name}
        if name in self.repos:
            raise Refused(409, "You already created this dataset repo", body=url)
        repo = self.repos[name] = Repo(private=body.get("visibility") == "private")
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
        repo.commit("initial commit", {".gitattributes": self._keep(attributes)})
        return url

    def preupload(self, repo: Repo, body: dict[str, Any]) -> dict[str, Any]:
        def one(file: dict[str, Any]) -> dict[str, Any]:
            base64.b64decode(file["sample"], validate=True)
            large = file["path"].endswith(LFS_SUFFIXES) or file["size"] > LFS_BYTES
            known = repo.tree.get(file["path"])
            mode = "lfs" if large else "regular"
            return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **({"oid": known.oid} if known else {})}

        return {"files": [one(file) for file in body["files"]]}

    def batch(self, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("operation") != "upload" or body.get("hash_algo") != "sha256":
            raise Refused(400, "upload by sha256")
        return {
            "transfer": "multipart" if self.chunk else "basic",
            "objects": [self._offer(item["oid"], item["size"]) for item in body["objects"]],
        }

    def _offer(self, oid: str, size: int) -> dict[str, Any]:
        if not re.fullmatch("[0-9a-f]{64}", oid):
            return {"oid": oid, "size": size, "error": {"code": 422, "message": "not a sha256"}}
        if oid in self.blobs:
            return {"oid": oid, "size": size}
        verify = {"href": f"{self.url}/lfs/verify"}
        if self.chunk is None or size <= self.chunk:
            return {"oid": oid, "size": size, "actions": {"upload": {"href": f"{self.url}/storage/{oid}?size={size}"}, "verify": verify}}
        count = -(-size // self.chunk)
        header = {f"{k + 1:05d}": f"{self.url}/storage/{oid}?part={k + 1}" for k in range(count)}
        upload = {"href": f"{self.url}/storage/{oid}?complete={size}", "header": {"chunk_size": str(self.chunk), **header}}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def store(self, oid: str, query: dict[str, list[str]], data: bytes) -> str:
        """A presigned address; returns the ETag."""
        etag = f'"{hashlib.md5(data).hexdigest()}"'
        if "part" in query:
            self.parts[oid, int(query["part"][0])] = data
        else:
            self._accept(oid, int(query["size"][0]), data)
        return etag

    def complete(self, oid: str, size: int, body: dict[str, Any]) -> None:
        parts = sorted(body["parts"], key=lambda part: part["partNumber"])
        found = [self.parts.get((oid, part["partNumber"])) for part in parts]
        for part, data in zip(parts, found, strict=True):
            if data is None or part["etag"] != f'"{hashlib.md5(data).hexdigest()}"':
                raise Refused(400, f"part {part['partNumber']} is missing or another")
        self._accept(oid, size, b"".join(data for data in found if data is not None))

    def _accept(self, oid: str, size: int, data: bytes) -> None:
        if len(data) != size or hashlib.sha256(data).hexdigest() != oid:
            raise Refused(400, "size or sha256 differ from what was announced")
        self.blobs[oid] = data

    def verify(self, body: dict[str, Any]) -> dict[str, Any]:
        if len(self.blobs.get(body["oid"], b"")) != body["size"]:
            raise Refused(404, "no such object")
        return {}

    def commit(self, name: str, repo: Repo, lines: bytes) -> dict[str, Any]:
        operations = [json.loads(line) for line in lines.splitlines() if line.strip()]
        header = operations[0]["value"]
        if header.get("parentCommit") not in (None, repo.head):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(repo.tree)
        for operation in operations[1:]:
            key, value = operation["key"], operation["value"]
            if key == "file":
                tree[value["path"]] = self._keep(base64.b64decode(value["content"], validate=True))
            elif key == "lfsFile":
                data = self.blobs.get(value["oid"])
                if data is None or len(data) != value["size"]:
                    raise Refused(400, f"{value['path']}: no such object was uploaded")
                tree[value["path"]] = File(value["oid"], len(data), True)
            elif key == "deletedFile":
                if tree.pop(value["path"], None) is None:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            elif key == "deletedFolder":
                inside = [path for path in tree if path.startswith(value["path"].rstrip("/") + "/")]
                for path in inside:
                    del tree[path]
            else:
                raise Refused(400, f"unknown operation {key}")
        oid = repo.commit(header["summary"], tree)
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/datasets/{name}/commit/{oid}", "pullRequestUrl": None}

    def _keep(self, data: bytes) -> File:
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        self.blobs[oid] = data
        return File(oid, len(data), False)

    def info(self, name: str, repo: Repo, revision: str) -> dict[str, Any]:
        oid, tree = self._at(repo, revision)
        card = self.blobs[tree["README.md"].oid].decode() if "README.md" in tree else ""
        header = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else None
        return {
            "id": name,
            "sha": oid,
            "private": repo.private,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "cardData": header,
            "siblings": [{"rfilename": path} for path in sorted(tree)],
        }

    def entries(self, repo: Repo, revision: str, under: str, recursive: bool) -> list[dict[str, Any]]:
        _, tree = self._at(repo, revision)
        start = f"{under}/" if under else ""
        inside = {path: file for path, file in tree.items() if path.startswith(start)}
        if under and not inside:
            raise Refused(404, f"{under} does not exist", "EntryNotFound")
        folders = {"/".join(path.split("/")[:depth]) for path in inside for depth in range(1, path.count("/") + 1)}
        found = [self._entry(path, file) for path, file in inside.items()] + [
            self._folder(path) for path in folders if path.startswith(start)
        ]
        direct = [entry for entry in found if recursive or "/" not in entry["path"][len(start) :]]
        return sorted(direct, key=lambda entry: entry["path"])

    def paths_info(self, repo: Repo, revision: str, paths: list[str]) -> list[dict[str, Any]]:
        _, tree = self._at(repo, revision)
        known = [self._entry(path, tree[path]) for path in paths if path in tree]
        return known + [self._folder(path) for path in paths if any(other.startswith(f"{path}/") for other in tree)]

    def _entry(self, path: str, file: File) -> dict[str, Any]:
        git = hashlib.sha1(file.oid.encode()).hexdigest() if file.lfs else file.oid
        large = {"lfs": {"oid": file.oid, "size": file.size, "pointerSize": 134}} if file.lfs else {}
        return {"type": "file", "path": path, "size": file.size, "oid": git, **large}

    def _folder(self, path: str) -> dict[str, Any]:
        return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}

    def _at(self, repo: Repo, revision: str) -> tuple[str, dict[str, File]]:
        found = repo.at(revision)
        if found is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed, or cut off by a fault, is what the tests are about; anything else is a bug to see."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Reads a request whole, lets it fail if it should, and sends what the Hub answers."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        with self.hub.lock:
            self.hub.serving += 1
        try:
            self._answer()
        finally:
            with self.hub.lock:
                self.hub.serving -= 1

    def _answer(self) -> None:
        hub = self.hub
        with hub.lock:
            number = len(hub.requests)
            hub.requests.append((self.command, self.path))
            fault = hub.fault(number, self.command, self.path)
        body = self._body(half=fault == "half")
        with hub.lock:
            hub.bodies.append(body)
            hub.sent += len(body)
            if self.path.startswith("/storage/") and self.command == "PUT":
                hub.stored += len(body)
        if fault in ("disconnect", "half"):
            self.close_connection = True
            self.connection.close()
            return
        try:
            if isinstance(fault, int):
                raise Refused(fault, "a fault that was asked for")
            with hub.lock:
                status, headers, answer = self._route(body)
        except Refused as refused:
            error = {"error": refused.message, **refused.body}
            headers = {"X-Error-Message": refused.message, **({"X-Error-Code": refused.code} if refused.code else {})}
            status, answer = refused.status, json.dumps(error).encode()
            headers["Content-Type"] = "application/json"
        if fault == "lost":
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def _body(self, half: bool) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if half:
                    return b"".join(parts)
            self.rfile.readline()
            return b"".join(parts)
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(length // 2 if half else length)

    def _user(self) -> tuple[str | None, bool]:
        header = self.headers.get("Authorization")
        if header is None:
            return None, False
        known = self.hub.tokens.get(header.removeprefix("Bearer "))
        if known is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return known

    def _writer(self) -> str:
        user, writes = self._user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        if not writes:
            raise Refused(403, "Forbidden: you must use a write token to upload to a repository")
        return user

    def _repo(self, name: str, write: bool = False) -> Repo:
        user, _ = self._user()
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and user != name.split("/")[0]):
            raise Refused(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if write and self._writer() != name.split("/")[0]:
            raise Refused(403, f"Forbidden: you have no write access to {name}")
        return repo

    def _route(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        hub, parts = self.hub, urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        raw = parts.path
        if path == "/api/whoami-v2":
            user, _ = self._user()
            if user is None:
                raise Refused(401, "Invalid username or password.")
            return self._json(hub.whoami(user))
        if path == "/api/repos/create":
            return self._json(hub.create(self._writer(), json.loads(body)))
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body))
        if path == "/lfs/verify":
            return self._json(hub.verify(json.loads(body)))
        if found := re.fullmatch("/storage/([0-9a-f]{64})", path):
            if "Authorization" in self.headers:
                raise Refused(400, "a token has no business at a presigned address")
            if "complete" in query:
                hub.complete(found[1], int(query["complete"][0]), json.loads(body))
                return self._json({})
            return 200, {"ETag": hub.store(found[1], query, body)}, b""
        if found := re.fullmatch("/datasets/([^/]+/[^/]+)[.]git/info/lfs/objects/batch", path):
            self._repo(found[1], write=True)
            return self._json(hub.batch(json.loads(body)))
        if found := re.fullmatch("/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", raw):
            return self._resolve(self._repo(found[1]), unquote(found[2]), unquote(found[3]))
        if found := re.fullmatch("/api/datasets/([^/]+/[^/]+)(?:/([a-z-]+)/([^/]+)(?:/(.+))?)?", raw):
            return self._dataset(found[1], found[2] or "revision", unquote(found[3] or "main"), unquote(found[4] or ""), query, body)
        raise Refused(404, f"nothing at {path}", "RepoNotFound" if path.startswith("/api/models") else "")

    def _dataset(
        self, name: str, what: str, revision: str, under: str, query: dict[str, list[str]], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        hub, repo = self.hub, self._repo(name, write=what in ("preupload", "commit"))
        if what == "revision":
            return self._json(hub.info(name, repo, revision))
        if what == "preupload":
            return self._json(hub.preupload(repo, json.loads(body)))
        if what == "commit":
            return self._json(hub.commit(name, repo, body))
        if what == "paths-info":
            return self._json(hub.paths_info(repo, revision, parse_qs(body.decode()).get("paths", [])))
        if what == "tree":
            entries = hub.entries(repo, revision, under, query.get("recursive", ["false"])[0].lower() == "true")
            start = int(query.get("cursor", ["0"])[0])
            more = {}
            if start + hub.page < len(entries):
                rest = "&".join(f"{key}={quote(value[0])}" for key, value in query.items() if key != "cursor")
                url = f"{hub.url}{urlsplit(self.path).path}?{rest}&cursor={start + hub.page}"
                more = {"Link": f'<{url}>; rel="next"'}
            status, headers, answer = self._json(entries[start : start + hub.page])
            return status, {**headers, **more}, answer
        raise Refused(404, f"nothing of the name {what}")

    def _validate(self, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        errors = []
        try:
            header = yaml.safe_load(body["content"].split("---\n")[1])
            if not isinstance(header, dict):
                errors.append("no mapping")
        except (IndexError, yaml.YAMLError) as error:
            errors.append(str(error))
        status, headers, answer = self._json({"errors": [{"message": error} for error in errors], "warnings": []})
        return (400 if errors else status), headers, answer

    def _resolve(self, repo: Repo, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
        oid, tree = self.hub._at(repo, revision)
        if path not in tree:
            raise Refused(404, f"{path} does not exist", "EntryNotFound")
        data = self.hub.blobs[tree[path].oid]
        headers = {
            "X-Repo-Commit": oid,
            "ETag": f'"{tree[path].oid}"',
            "Accept-Ranges": "bytes",
            "Last-Modified": formatdate(0, usegmt=True),
            "Content-Type": "application/octet-stream",
        }
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return 200, headers, data
        first, last = wanted[1], wanted[2]
        start = int(first) if first else max(len(data) - int(last), 0)
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= len(data):
            raise Refused(416, f"bytes */{len(data)}")
        return 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}, data[start:stop]

    def _json(self, value: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
