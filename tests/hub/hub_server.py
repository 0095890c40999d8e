"""A Hub on loopback: what huggingface_hub asks to create, fill and read repositories, and nothing else.

It knows one token and no Xet, so that clients need `HF_HUB_DISABLE_XET=1`: the installed client would else send large
files to Xet's own servers. Small text is committed as base64, the rest is uploaded by LFS first, as on the real Hub.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml


TOKEN, USER = "hf_thetokenoftester", "tester"


@dataclass
class Repository:
    """One repository: `kind` "model" or "dataset", its files by path, and which of them came by LFS."""

    kind: str
    visibility: str | None
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=list)


class HubServer(ThreadingHTTPServer):
    """Serves until its `with` block ends.

    Attributes:
        repositories (`dict[str, Repository]`): By id, e.g. `"tester/mine"`.
        refuse (`dict[str, int]`): Statuses to answer with, by a part of "METHOD path".
        requests (`list[str]`): What was asked, e.g. `"POST /api/repos/create"`.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}  # LFS objects by their SHA-256
        self.refuse: dict[str, int] = {}
        self.requests: list[str] = []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """Return what makes a process use this Hub, with its caches and credentials in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_):
        pass

    def answer(self, content=None, status: int = 200, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def error(self, status: int, message: str, code: str | None = None):
        headers = {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self.answer({"error": message}, status, **headers)

    def handle_request(self):
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.read_chunks()
        asked = f"{self.command} {path}"
        self.server.requests.append(asked)
        for part, status in self.server.refuse.items():
            if part in asked:
                return self.error(status, "refused for the test")
        is_storage = path.startswith("/storage/")  # its addresses are signed: no token is sent there
        if not is_storage and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.error(401, "Invalid credentials in Authorization header")
        for pattern, respond in _ROUTES:
            if found := re.fullmatch(pattern, asked):
                return respond(self, body, **found.groupdict())
        return self.error(404, f"the test's Hub does not know {asked}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def read_chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def repository(self, kind: str, name: str) -> Repository | None:
        found = self.server.repositories.get(name)
        if found is None or found.kind != kind:
            self.error(404, "Repository not found", "RepoNotFound")
            return None
        return found

    def whoami(self, body):
        self.answer({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self, body):
        asked = json.loads(body)
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        kind = asked.get("type") or "model"
        if not name.startswith(f"{USER}/"):
            return self.error(403, f"You don't have the rights to create a {kind} under this namespace")
        prefix = "datasets/" if kind == "dataset" else ""
        answer = {"url": f"{self.server.url}/{prefix}{name}", "name": name}
        if name in self.server.repositories:
            return self.answer(answer | {"error": "You already created this repo"}, 409)
        self.server.repositories[name] = Repository(kind, asked.get("visibility"))
        return self.answer(answer)

    def validate(self, body):
        """Check a card's metadata by the rules of the Hub that concern ours."""
        content, errors = json.loads(body)["content"], []
        metadata = yaml.safe_load(content.split("---\n")[1]) if content.startswith("---\n") else {}
        for key in ("base_model", "datasets"):
            values = metadata.get(key) or []
            for value in [values] if isinstance(values, str) else values:
                if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value):
                    errors.append({"message": f'"{key}" with value "{value}" is not valid. Use an id from the Hub.'})
        for entry in metadata.get("model-index") or []:
            errors += [{"message": "model-index"} for result in entry["results"] if "metrics" not in result]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, body, kind, name):
        if (found := self.repository(kind, name)) is None:
            return
        files = []
        for file in json.loads(body)["files"]:
            large = file["size"] > 10_000_000 or file["path"].endswith((".safetensors", ".bin", ".parquet"))
            files.append({"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False})
            if (content := found.files.get(file["path"])) is not None:
                blob = b"blob %d\0" % len(content) + content
                files[-1]["oid"] = (hashlib.sha256(content) if large else hashlib.sha1(blob)).hexdigest()
        self.answer({"files": files})

    def lfs_batch(self, body, name):
        objects = []
        for asked in json.loads(body)["objects"]:
            oid = asked["oid"]
            actions = {
                "upload": {"href": f"{self.server.url}/storage/{oid}"},
                "verify": {"href": f"{self.server.url}/api/verify/{oid}"},
            }
            objects.append(asked if oid in self.server.objects else asked | {"actions": actions})
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self.error(400, "the content is not what was announced")
        self.server.objects[oid] = body
        return self.answer()

    def verify(self, body, oid):
        asked = json.loads(body)
        whole = len(self.server.objects.get(oid, b"")) == asked["size"]
        return self.answer() if whole else self.error(404, "no such object")

    def commit(self, body, kind, name, revision):
        if (found := self.repository(kind, name)) is None:
            return None
        if revision != "main":
            return self.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        for line in body.splitlines():
            key, value = (item := json.loads(line))["key"], item["value"]
            if key == "header":
                found.commits.append(value["summary"])
            elif key == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                found.files[value["path"]] = self.server.objects[value["oid"]]
                found.lfs.add(value["path"])
            else:
                return self.error(400, f"the test's Hub does not know the operation {key}")
        oid = f"{len(found.commits):040x}"
        return self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{name}/commit/{oid}"})

    def info(self, body, kind, name):
        if (found := self.repository(kind, name)) is not None:
            siblings = [{"rfilename": path} for path in found.files]
            private = found.visibility == "private"
            self.answer({"id": name, "sha": self.sha(found), "private": private, "siblings": siblings, "tags": []})

    def tree(self, body, kind, name):
        if (found := self.repository(kind, name)) is not None:
            self.answer(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in found.files.items()
                ]
            )

    def resolve(self, body, prefix, name, path):
        if (found := self.repository("dataset" if prefix else "model", name)) is None:
            return None
        if path not in found.files:
            return self.error(404, "Entry not found", "EntryNotFound")
        data = found.files[path]
        return self.answer(data, X_Repo_Commit=self.sha(found), ETag=f'"{hashlib.sha1(data).hexdigest()}"')

    def sha(self, repository: Repository) -> str:
        return f"{len(repository.commits):040x}"


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_API = rf"/api/(?P<kind>model|dataset)s/{_NAME}"
_ROUTES = [
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST {_API}/preupload/[\w-]+", _Handler.preupload),
    (rf"POST /(?:datasets/)?{_NAME}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"PUT /storage/(?P<oid>\w+)", _Handler.store),
    (r"POST /api/verify/(?P<oid>\w+)", _Handler.verify),
    (rf"POST {_API}/commit/(?P<revision>[\w-]+)", _Handler.commit),
    (rf"GET {_API}(?:/revision/\w+)?", _Handler.info),
    (rf"GET {_API}/tree/\w+/?", _Handler.tree),
    (rf"(?:GET|HEAD) /(?P<prefix>datasets/)?{_NAME}/resolve/\w+/(?P<path>.+)", _Handler.resolve),
]
