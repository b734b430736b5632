"""A Hugging Face Hub on the loopback interface, for tests with the stock clients.

`LoopbackHub` answers huggingface_hub, transformers and datasets when they create repositories,
commit, list, download and stream models, datasets and Spaces. It keeps everything in memory, with
history, and fails on request. `point_clients_at` redirects the clients of this process; other
processes get `hub.environment`.
"""

import base64
import contextlib
import functools
import hashlib
import json
import re
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml  # a requirement of huggingface_hub itself
from huggingface_hub.repocard_data import model_index_to_eval_results

USER = "user"
TOKEN = "hf_anything"

_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_REGULAR_LIMIT = 10 * 1024 * 1024
_LFS_SUFFIXES = "arrow bin gz msgpack npy npz onnx parquet pkl pt pth safetensors tar zip"
_LFS_DATASET_SUFFIXES = "bmp gif jpeg jpg png tiff webp"
_ACTIONS = ("drop", "stall", "truncate", "alter", "cut", "stop", "drip")
_YAML = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", re.DOTALL)


@dataclass(frozen=True)
class Blob:
    """The content of one file in one commit."""

    content: bytes
    lfs: bool

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @functools.cached_property
    def oid(self) -> str:
        """Git's id: of the content, or of the pointer that stands for it."""
        stored = self.content
        if self.lfs:
            pointer = f"oid sha256:{self.sha256}\nsize {len(stored)}\n"
            stored = f"version https://git-lfs.github.com/spec/v1\n{pointer}".encode()
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "oid": self.oid, "size": len(self.content)}
        return entry | ({"lfs": self.pointer} if self.lfs else {})

    @property
    def pointer(self) -> dict:
        size = len(self.content)
        return {"oid": self.sha256, "sha256": self.sha256, "size": size, "pointerSize": 134}


@dataclass
class Commit:
    oid: str
    title: str
    files: dict[str, Blob]
    parent: "Commit | None" = None

    def history(self) -> Iterator["Commit"]:
        """This commit and its ancestors, newest first."""
        commit: Commit | None = self
        while commit is not None:
            yield commit
            commit = commit.parent


@dataclass
class Repo:
    """A repository: commits by id, names that point at them, and a Space's settings."""

    id: str
    type: str
    private: bool = False
    gated: bool | str = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, Commit] = field(default_factory=dict)
    sdk: str | None = None
    variables: dict[str, dict] = field(default_factory=dict)
    secrets: dict[str, dict] = field(default_factory=dict)
    hardware: str = "cpu-basic"
    sleep_time: int | None = None

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def find(self, revision: str) -> Commit:
        """A branch, a tag, or (the beginning of) a commit's id."""
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in self.refs:
                return self.refs[name]
        known = (commit for oid, commit in self.commits.items() if oid.startswith(revision))
        commit = next(known, None) if re.fullmatch(r"[0-9a-f]{7,40}", revision) else None
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def commit(self, files: dict[str, Blob], title: str, ref: str = "refs/heads/main") -> Commit:
        tree = sorted((path, blob.etag) for path, blob in files.items())
        seed = json.dumps([self.id, self.type, len(self.commits), title, tree])
        oid = hashlib.sha1(seed.encode()).hexdigest()
        commit = Commit(oid, title, files, self.refs.get(ref))
        self.commits[oid] = self.refs[ref] = commit
        return commit

    def stores_as_lfs(self, path: str, size: int) -> bool:
        """What `.gitattributes` says of the path; anything over 10 MB is LFS in any case."""
        attributes = self.refs["refs/heads/main"].files.get(".gitattributes")
        lines = attributes.content.decode().splitlines() if attributes else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
        names = (path, path.split("/")[-1])
        return size > _REGULAR_LIMIT or any(fnmatch(n, p) for n in names for p in patterns)


class Refusal(Exception):
    """Ends a request with an error as the Hub words it."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = ""):
        super().__init__(message)
        self.status = status
        shown = message.encode("ascii", "replace").decode()
        headers = {"X-Error-Message": shown, "X-Error-Code": code, "X-Repo-Commit": commit}
        self.headers = {name: value for name, value in headers.items() if value}


@dataclass
class Request:
    """One line of `LoopbackHub.requests`."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = b""
    user: str | None = None
    status: int | str | None = None

    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    def asked(self, name: str, default: str = "") -> str:
        """A value of the query, or of the form in the body."""
        form = self.headers.get("content-type", "").startswith("application/x-www-form")
        text = f"{self.query}&{self.body.decode()}" if form else self.query
        return parse_qs(text).get(name, [default])[0]


@dataclass
class _Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Fault:
    pattern: re.Pattern
    action: int | str
    times: int
    method: str | None


_ROUTES: list[tuple[str, re.Pattern, Callable]] = []


def _route(methods: str, path: str) -> Callable[[Callable], Callable]:
    """Register a method of the hub; groups of the path are its arguments."""
    name = r"/(?P<repo_id>[^/]+/[^/]+)"
    path = path.replace("{repo}", "/(?P<kind>models|datasets|spaces)" + name)
    path = path.replace("{page}", "(?P<kind>/datasets|/spaces|)" + name)
    path = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)

    def register(function: Callable) -> Callable:
        _ROUTES.append((methods, re.compile(path), function))
        return function

    return register


class LoopbackHub:
    """A Hub at `http://127.0.0.1:PORT`, from `__enter__` to `__exit__`.

    The token `hf_anything` belongs to `user`, who may write to `user/...`; `tokens` may get more.

    Args:
        home (`Path`, *optional*): `HF_HOME` in `environment`; *defaults to* a temporary folder.

    Attributes:
        url (`str`): the endpoint.
        tokens (`dict[str, str]`): token -> user name.
        requests (`list[Request]`): every request with its status.
        errors (`list[str]`): tracebacks of failures of the hub itself; a test should find none.
        repos (`dict[tuple[str, str], Repo]`): by type and id.
        objects (`dict[str, bytes]`): uploaded LFS objects.
    """

    def __init__(self, home: str | Path | None = None):
        self.tokens = {TOKEN: USER}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.errors: list[str] = []
        self.faults: list[_Fault] = []
        self._refused: int | None = None
        self._lock = threading.RLock()
        self._owns_home = home is None
        self.home = Path(tempfile.mkdtemp(prefix="loopback-hub-") if home is None else home)

    def __enter__(self) -> "LoopbackHub":
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        """Stop listening and cut the connections that are still open."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.connections):
            _hang_up(connection)
        if self._owns_home:
            shutil.rmtree(self.home, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """Variables for other processes, with a cache of their own:
        `subprocess.run(..., env={**os.environ, **hub.environment})`."""
        off = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"), "0")
        on = ("XET", "TELEMETRY", "UPDATE_CHECK")
        return off | {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(self.home),
            "HF_HUB_CACHE": str(self.home / "hub"),
            "HF_DATASETS_CACHE": str(self.home / "datasets"),
            **{f"HF_HUB_DISABLE_{name}": "1" for name in on},
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    # What tests do without a client

    def create(self, repo_id: str, repo_type: str = "model", **settings) -> Repo:
        """Create a repository without a check of permissions. `settings` are fields of `Repo`."""
        suffixes = _LFS_SUFFIXES + (f" {_LFS_DATASET_SUFFIXES}" if repo_type == "dataset" else "")
        lines = [f"*.{each} filter=lfs diff=lfs merge=lfs -text\n" for each in suffixes.split()]
        with self._lock:
            repo = self.repos[repo_type, repo_id] = Repo(repo_id, repo_type, **settings)
            repo.commit({".gitattributes": Blob("".join(lines).encode(), False)}, "initial commit")
            return repo

    def put(
        self,
        repo_id: str,
        files: Mapping[str, bytes | str] | str | Path,
        repo_type: str = "model",
        title: str = "Upload",
    ) -> str:
        """Commit files without a check of permissions, if necessary to a new repository.

        Args:
            files (`Mapping[str, bytes | str]` or `Path`): content by path, or a folder.

        Returns:
            `str`: the commit's id.
        """
        if not isinstance(files, Mapping):
            paths = sorted(path for path in Path(files).rglob("*") if path.is_file())
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        with self._lock:
            repo = self.repos.get((repo_type, repo_id)) or self.create(repo_id, repo_type)
            tree = dict(repo.find("main").files)
            for path, content in files.items():
                content = content.encode() if isinstance(content, str) else content
                tree[path] = Blob(content, repo.stores_as_lfs(path, len(content)))
            return repo.commit(tree, title).oid

    def files(
        self, repo_id: str, repo_type: str = "model", revision: str = "main"
    ) -> dict[str, bytes]:
        """Content by path, with `.gitattributes`. `KeyError`: no such repository."""
        commit = self.history(repo_id, repo_type, revision)[0]
        return {path: blob.content for path, blob in commit.files.items()}

    def history(
        self, repo_id: str, repo_type: str = "model", revision: str = "main"
    ) -> list[Commit]:
        """The commits of a branch, newest first."""
        with self._lock:
            return list(self.repos[repo_type, repo_id].find(revision).history())

    def requests_to(self, path_regex: str, method: str | None = None) -> list[Request]:
        """The logged requests whose path matches, of one method or of all."""
        logged = [each for each in list(self.requests) if method in (None, each.method)]
        return [request for request in logged if re.search(path_regex, request.path)]

    def fail_next(
        self, path_regex: str, action: int | str = 500, times: int = 1, method: str | None = None
    ) -> None:
        """Fail the next `times` requests whose path matches.

        Args:
            path_regex (`str`): searched in the path, unquoted, with its query.
            action (`int` or `str`, *optional*, defaults to 500): an HTTP status, or
                - `"drop"`: close the connection without an answer
                - `"stall"`: never answer
                - `"truncate"`: answer with half of the content
                - `"alter"`: change a byte in the middle
                - `"cut"`: close the connection in the middle
                - `"stop"`: send nothing after the middle
                - `"drip"`: send byte by byte, slowly while any fault is set
                The last five apply to GET only.
            times (`int`, *optional*, defaults to 1)
            method (`str`, *optional*): fail this method alone.
        """
        if not isinstance(action, int) and action not in _ACTIONS:
            raise ValueError(f"unknown action {action!r}; see fail_next")
        method = "GET" if action in _ACTIONS[2:] else method
        with self._lock:
            self.faults.append(_Fault(re.compile(path_regex), action, times, method))

    def refuse_pushes(self, status: int | None = 403) -> None:
        """Answer every commit with `status` from now on; `None` accepts them again.

        A status below 500 also applies to the steps before a commit (preupload, LFS batch), as for
        a token that may not write. Repositories can still be created.
        """
        self._refused = status

    # Requests

    def handle(self, request: Request) -> tuple[_Reply, int | str | None]:
        """Log and answer a request; return the fault to apply to the answer."""
        with self._lock:
            self.requests.append(request)
            fault = self._fault_for(request)
            reply = _Reply()
            if fault in ("drop", "stall"):
                request.status = fault
                return reply, fault
            try:
                if isinstance(fault, int):
                    raise Refusal(fault, "Injected failure")
                reply = self._answer(request)
            except Refusal as refusal:
                reply = _json({"error": str(refusal)}, refusal.status, refusal.headers)
            except Exception:
                self.errors.append(f"{request.method} {request.path}\n{traceback.format_exc()}")
                reply = _json({"error": "the loopback hub broke"}, 500)
            request.status = reply.status
            return reply, fault

    def _fault_for(self, request: Request) -> int | str | None:
        target = unquote(f"{request.path}?{request.query}" if request.query else request.path)
        for fault in self.faults:
            due = fault.times > 0 and fault.method in (None, request.method)
            if due and fault.pattern.search(target):
                fault.times -= 1
                return fault.action
        return None

    def _answer(self, request: Request) -> _Reply:
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if token and token not in self.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        request.user = self.tokens.get(token)
        if self._refused and request.method == "POST":
            steps = r"/commit/[^/]+$"
            if self._refused < 500:
                steps += r"|/preupload/[^/]+$|/lfs/objects/batch$"
            if re.search(steps, request.path):
                raise Refusal(self._refused, "Pushing is refused")
        for methods, pattern, function in _ROUTES:
            match = pattern.fullmatch(request.path)
            if match and request.method in methods.split():
                return function(self, request, **self._arguments(request, match.groupdict()))
        raise Refusal(404, f"Sorry, we can't find {request.method} {request.path}.")

    def _arguments(self, request: Request, groups: dict[str, str | None]) -> dict:
        """Unquote what the path names, and find its repository."""
        named = {name: unquote(text or "") for name, text in groups.items()}
        if "repo_id" not in named:
            return named
        kind = _TYPES.get(named.pop("kind").strip("/"), "model")
        return {"repo": self._repo(request, kind, named.pop("repo_id")), **named}

    def _repo(self, request: Request, repo_type: str, repo_id: str) -> Repo:
        repo = self.repos.get((repo_type, repo_id))
        if repo is not None and not (repo.private and request.user != repo.owner):
            return repo
        if request.user is None:  # strangers do not learn which private repositories exist
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        raise Refusal(404, "Repository not found", "RepoNotFound")

    def _may_write(self, request: Request, owner: str) -> None:
        if request.user is None:
            raise Refusal(401, "Invalid username or password.")
        if request.user != owner:
            raise Refusal(403, f'You don\'t have the rights to write under the namespace "{owner}"')

    @_route("GET", "/api/whoami-v2")
    def _whoami(self, request: Request) -> _Reply:
        if request.user is None:
            raise Refusal(401, "Invalid username or password.")
        token = {"displayName": "test", "role": "write"}
        auth = {"type": "access_token", "accessToken": token}
        known = {"name": request.user, "orgs": [], "isPro": False, "auth": auth}
        return _json({"type": "user", **known})

    @_route("GET", "/api/agent-harnesses")
    def _harnesses(self, request: Request) -> _Reply:
        return _json({"standardEnvVars": [], "harnesses": {}})

    @_route("GET", "/api/spaces/hardware")
    def _hardware_list(self, request: Request) -> _Reply:
        return _json([])

    @_route("POST", "/api/validate-yaml")
    def _validate(self, request: Request) -> _Reply:
        sent = request.json()
        found = zip(
            ("errors", "warnings"), check_card(sent["content"], sent.get("repoType") or "model")
        )
        answer = {name: [{"message": line} for line in lines] for name, lines in found}
        return _json(answer, 400 if answer["errors"] else 200)

    @_route("POST", "/api/repos/create")
    def _create(self, request: Request) -> _Reply:
        sent = request.json()
        repo_type = sent.get("type") or "model"
        repo_id = f"{sent.get('organization') or request.user}/{sent['name']}"
        self._may_write(request, repo_id.split("/")[0])
        url = {"url": f"{self.url}/{_PREFIXES[repo_type]}{repo_id}", "name": repo_id}
        if (repo_type, repo_id) in self.repos:
            return _json({"error": f"You already created this {repo_type} repo", **url}, 409)
        if repo_type == "space" and not sent.get("sdk"):
            raise Refusal(400, "sdk is required for a Space")
        repo = self.create(repo_id, repo_type, private=_is_private(sent), sdk=sent.get("sdk"))
        repo.hardware = sent.get("hardware") or repo.hardware
        repo.sleep_time = sent.get("sleepTimeSeconds")
        for name in ("variables", "secrets"):
            getattr(repo, name).update({item["key"]: item for item in sent.get(name) or []})
        return _json(url)

    # Reading

    @_route("GET", r"/api{repo}(/revision/{revision})?")
    def _show(self, request: Request, repo: Repo, revision: str) -> _Reply:
        return _json(_info(repo, repo.find(revision or "main"), "blobs" in request.query))

    @_route("GET", r"/api{repo}/tree/{revision}(/(?P<folder>.+))?")
    def _list_tree(self, request: Request, repo: Repo, revision: str, folder: str) -> _Reply:
        recursive = request.asked("recursive").lower() in ("true", "1")
        return _json(_tree(repo.find(revision), folder, recursive))

    @_route("POST", "/api{repo}/paths-info/{revision}")
    def _paths_info(self, request: Request, repo: Repo, revision: str) -> _Reply:
        known = {entry["path"]: entry for entry in _tree(repo.find(revision), "", True)}
        paths = parse_qs(request.body.decode()).get("paths", [])
        return _json([known[path] for path in paths if path in known])

    @_route("GET HEAD", "{page}/resolve/{revision}/(?P<path>.+)")
    def _resolve(self, request: Request, repo: Repo, revision: str, path: str) -> _Reply:
        if repo.gated and request.user != repo.owner:
            status = 403 if request.user else 401
            raise Refusal(status, f"Access to {repo.type} {repo.id} is gated.", "GatedRepo")
        commit = repo.find(revision)
        blob = commit.files.get(path)
        if blob is None:
            raise Refusal(404, f"Entry not found: {path}", "EntryNotFound", commit.oid)
        size = len(blob.content)
        headers = {
            "ETag": f'"{blob.etag}"',
            "X-Repo-Commit": commit.oid,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream" if blob.lfs else "text/plain; charset=utf-8",
        }
        if blob.lfs:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(size)}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if not wanted or wanted.groups() == ("", "") or request.method == "HEAD":
            return _Reply(blob.content, 200, headers)
        first, last = wanted.groups()
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last) + 1, size) if first and last else size
        if start >= end:
            return _Reply(b"", 416, {**headers, "Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return _Reply(blob.content[start:end], 206, headers)

    # Writing

    @_route("POST", "/api{repo}/branch/(?P<name>.+)")
    def _branch(self, request: Request, repo: Repo, name: str) -> _Reply:
        start = request.json().get("startingPoint") or "main"
        return self._name(request, repo, f"refs/heads/{name}", start)

    @_route("POST", "/api{repo}/tag/{revision}")
    def _tag(self, request: Request, repo: Repo, revision: str) -> _Reply:
        return self._name(request, repo, f"refs/tags/{request.json()['tag']}", revision)

    def _name(self, request: Request, repo: Repo, ref: str, revision: str) -> _Reply:
        self._may_write(request, repo.owner)
        if ref in repo.refs:
            raise Refusal(409, f"Reference already exists: {ref}")
        repo.refs[ref] = repo.find(revision)
        return _json({})

    @_route("POST", "/api{repo}/preupload/{revision}")
    def _preupload(self, request: Request, repo: Repo, revision: str) -> _Reply:
        self._may_write(request, repo.owner)
        held, plan = repo.find(revision).files, []
        for item in request.json()["files"]:
            path = item["path"]
            mode = "lfs" if repo.stores_as_lfs(path, item["size"]) else "regular"
            oid = held[path].etag if path in held else None
            plan.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return _json({"files": plan})

    @_route("POST", r"{page}\.git/info/lfs/objects/batch")
    def _lfs_batch(self, request: Request, repo: Repo) -> _Reply:
        self._may_write(request, repo.owner)
        objects = []
        for item in request.json()["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.objects:
                upload = {"href": f"{self.url}/lfs/{item['oid']}"}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.url}/lfs/verify"}}
            objects.append(answer)
        return _json({"transfer": "basic", "objects": objects})

    @_route("PUT", "/lfs/{oid}")
    def _lfs_upload(self, request: Request, oid: str) -> _Reply:
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise Refusal(400, "The content does not have the announced sha256")
        self.objects[oid] = request.body
        return _json({})

    @_route("POST", "/lfs/verify")
    def _lfs_verify(self, request: Request) -> _Reply:
        sent = request.json()
        if len(self.objects.get(sent["oid"], b"")) != sent["size"]:
            raise Refusal(404, "The object was not uploaded")
        return _json({})

    @_route("POST", "/api{repo}/commit/{revision}")
    def _commit(self, request: Request, repo: Repo, revision: str) -> _Reply:
        self._may_write(request, repo.owner)
        parent, title = repo.find(revision), ""
        files = dict(parent.files)
        for line in request.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                title = value.get("summary", "")
                if value.get("parentCommit") not in (None, parent.oid):
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            else:
                self._change(files, key, value)
        readme = files.get("README.md")
        if readme is not None and readme != parent.files.get("README.md"):
            errors, _ = check_card(readme.content.decode(), repo.type)
            if errors:
                raise Refusal(400, f"Invalid metadata in README.md. {' '.join(errors)}")
        ref = f"refs/heads/{revision}"
        if ref not in repo.refs:
            raise Refusal(400, f"{revision} is not a branch")
        oid = repo.commit(files, title, ref).oid
        url = f"{self.url}/{_PREFIXES[repo.type]}{repo.id}/commit/{oid}"
        return _json({"success": True, "commitOid": oid, "commitUrl": url})

    def _change(self, files: dict[str, Blob], key: str, value: dict) -> None:
        """Apply one operation of a commit."""
        path = value["path"]
        if key == "file":
            files[path] = Blob(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in self.objects:
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = Blob(self.objects[value["oid"]], lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if f"{name}/".startswith(f"{path.rstrip('/')}/")]
            if not gone:
                raise Refusal(404, f"A file to delete does not exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Refusal(400, f"Unknown operation {key}")

    # Spaces

    @_route("GET POST DELETE", "/api{repo}/(?P<name>variables|secrets)")
    def _space_values(self, request: Request, repo: Repo, name: str) -> _Reply:
        self._may_write(request, repo.owner)
        held, sent = getattr(repo, name), request.json()
        if request.method == "POST":
            held[sent["key"]] = sent
        elif request.method == "DELETE":
            held.pop(sent["key"], None)
        hidden = {"value", "key"} if name == "secrets" else {"key"}
        return _json(
            {key: {k: v for k, v in item.items() if k not in hidden} for key, item in held.items()}
        )

    @_route("GET POST", "/api{repo}/(?P<name>runtime|hardware)")
    def _space_runtime(self, request: Request, repo: Repo, name: str) -> _Reply:
        sent = request.json()
        if request.method == "POST":
            self._may_write(request, repo.owner)
            repo.hardware = sent.get("flavor", repo.hardware)
            repo.sleep_time = sent.get("sleepTimeSeconds", repo.sleep_time)
        return _json(_runtime(repo))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: LoopbackHub):
        self.hub = hub
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, connection, address):
        self.connections.add(connection)
        super().process_request(connection, address)

    def shutdown_request(self, connection):
        self.connections.discard(connection)
        super().shutdown_request(connection)

    def handle_error(self, connection, address):
        """A client that hung up is no news; anything else inside a handler is caught there."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body go out in two writes, which would wait for each other.
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        """`LoopbackHub.requests` is the log."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, parts.path, parts.query, headers, self._body())
        reply, fault = self.server.hub.handle(request)
        if fault == "drop":
            return self._hang_up()
        if fault == "stall":
            return self._wait()
        body, half = reply.body, len(reply.body) // 2
        if fault == "truncate":
            body = body[:half]
        elif fault == "alter":
            body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :]
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault in ("cut", "stop"):
            self.wfile.write(body[:half])
            if fault == "stop":
                self._wait()
            self._hang_up()
        elif fault == "drip":
            self._drip(body)
        elif self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _wait(self) -> None:
        """Say nothing more until the other side, or the hub's end, closes the connection."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.recv(1)

    def _drip(self, content: bytes) -> None:
        sent = 0
        while sent < len(content) and self.server.hub.faults:
            self.wfile.write(content[sent : sent + 1])
            sent += 1
            time.sleep(0.02)
        self.wfile.write(content[sent:])

    def _hang_up(self) -> None:
        self.close_connection = True
        _hang_up(self.connection)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was quicker
        connection.shutdown(socket.SHUT_RDWR)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def _json(content, status: int = 200, headers: dict[str, str] | None = None) -> _Reply:
    kind = {"Content-Type": "application/json; charset=utf-8"}
    return _Reply(json.dumps(content, default=str).encode(), status, kind | (headers or {}))


def _is_private(sent: dict) -> bool:
    return sent.get("visibility") == "private" or bool(sent.get("private"))


def _tree(commit: Commit, folder: str, recursive: bool) -> list[dict]:
    """The entries below `folder`: files, and the folders on the way to them."""
    inside = f"{folder}/" if folder else ""
    below = {path: blob for path, blob in sorted(commit.files.items()) if path.startswith(inside)}
    if folder and not below:
        raise Refusal(404, f"{folder} does not exist on {commit.oid}", "EntryNotFound", commit.oid)
    entries: dict[str, dict] = {}
    for path, blob in below.items():
        parts = path.removeprefix(inside).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            name = inside + "/".join(parts[:depth])
            oid = hashlib.sha1(f"{commit.oid}{name}".encode()).hexdigest()
            entries.setdefault(name, {"type": "directory", "oid": oid, "size": 0, "path": name})
        if recursive or len(parts) == 1:
            entries[path] = blob.entry(path)
    return list(entries.values())


def _info(repo: Repo, commit: Commit, blobs: bool) -> dict:
    """What the Hub knows of a repository, with tags from the card and config.json."""

    def content(name: str) -> str:
        return commit.files[name].content.decode() if name in commit.files else ""

    card = _card_data(content("README.md"))
    siblings = []
    for path, blob in sorted(commit.files.items()):
        sibling: dict = {"rfilename": path}
        if blobs:
            sibling |= {"size": len(blob.content), "blobId": blob.oid}
            sibling |= {"lfs": blob.pointer} if blob.lfs else {}
        siblings.append(sibling)
    tags = [tag for tag in card.get("tags") or [] if isinstance(tag, str)]
    tags += [f"license:{card['license']}"] if isinstance(card.get("license"), str) else []
    info = {
        "_id": hashlib.sha1(repo.id.encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.owner,
        "sha": commit.oid,
        "lastModified": _now(),
        "private": repo.private,
        "gated": repo.gated,
        "siblings": siblings,
        "cardData": card,
        "tags": tags,
    }
    if repo.type == "model":
        config = json.loads(content("config.json") or "{}")
        known = {key: config[key] for key in ("architectures", "model_type") if key in config}
        classifies = "ForImageClassification" in str(known.get("architectures"))
        optional = {
            "library_name": card.get("library_name") or ("transformers" if known else None),
            "pipeline_tag": card.get("pipeline_tag")
            or ("image-classification" if classifies else None),
            "config": known or None,
            "model-index": card.get("model-index"),
        }
        info |= {key: value for key, value in optional.items() if value is not None}
        names = (optional["library_name"], optional["pipeline_tag"])
        tags += [tag for tag in names if tag and tag not in tags]
    if repo.type == "space":
        info |= {"sdk": card.get("sdk", repo.sdk), "runtime": _runtime(repo)}
    return info


def _runtime(repo: Repo) -> dict:
    stage = "RUNNING" if "app.py" in repo.find("main").files else "NO_APP_FILE"
    hardware = {"current": repo.hardware, "requested": repo.hardware}
    return {"stage": stage, "hardware": hardware, "gcTimeout": repo.sleep_time}


def _card_data(text: str) -> dict:
    matter = _YAML.match(text)
    with contextlib.suppress(yaml.YAMLError):
        data = yaml.safe_load(matter[1]) if matter else {}
        return data if isinstance(data, dict) else {}
    return {}


_COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
# Settings of cards by type of repository, and whether a value is right.
_RULES: dict[str, dict[str, Callable]] = {
    "model": {
        "library_name": lambda value: isinstance(value, str),
        "pipeline_tag": lambda value: isinstance(value, str),
        "model-index": lambda value: bool(model_index_to_eval_results(value)[1]),
    },
    "dataset": {},
    "space": {
        "sdk": ("gradio", "docker", "static").__contains__,
        "colorFrom": _COLOURS.__contains__,
        "colorTo": _COLOURS.__contains__,
        "short_description": lambda value: len(str(value)) <= 60,
    },
}
_ALWAYS: dict[str, Callable] = {
    "tags": lambda value: isinstance(value, list) and all(isinstance(tag, str) for tag in value),
    "license": lambda value: isinstance(value, str | list),
}


def check_card(text: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Check the most important rules of https://huggingface.co/docs/hub/model-cards and
    .../spaces-config-reference.

    Returns:
        `(list[str], list[str])`: errors, which refuse the commit, and warnings.
    """
    matter = _YAML.match(text)
    if not matter:
        message = "empty or missing yaml metadata in repo card"
        return ([message], []) if repo_type == "space" else ([], [message])
    try:
        data = yaml.safe_load(matter[1]) or {}
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {' '.join(str(error).split())}"], []
    if not isinstance(data, dict):
        return ["The metadata must be a mapping"], []
    errors = [] if repo_type != "space" or "sdk" in data else ['"sdk" is required.']
    for key, is_right in (_ALWAYS | _RULES[repo_type]).items():
        try:
            wrong = key in data and not is_right(data[key])
        except (KeyError, TypeError, ValueError, AttributeError):
            wrong = True
        errors += [f'"{key}" is not as it must be.'] if wrong else []
    return errors, []


def point_clients_at(hub: LoopbackHub, monkeypatch) -> None:
    """Make the Hugging Face clients of this process use `hub`, until `monkeypatch` undoes it.

    They read the environment at import, so their settings are replaced: the endpoint, the offline
    switch and every folder under `HF_HOME`. An existing `HfApi` or `HfFileSystem` keeps its
    settings, and so does a name imported from `huggingface_hub.constants`. Another process with
    `hub.environment` has no such limits.

    Args:
        monkeypatch (`pytest.MonkeyPatch`)
    """
    import datasets.config
    import transformers.dynamic_module_utils
    import transformers.utils.hub
    from huggingface_hub import HfFileSystem, constants, hf_api
    from huggingface_hub.utils import _cache_manager, _detect_agent, close_session

    for name, value in hub.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)

    home = hub.home
    switches = ("OFFLINE", "DISABLE_XET", "DISABLE_TELEMETRY", "DISABLE_UPDATE_CHECK")
    folders = {
        "hub": ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"),
        "assets": ("HF_ASSETS_CACHE", "HUGGINGFACE_ASSETS_CACHE"),
        "xet": ("HF_XET_CACHE",),
        "token": ("HF_TOKEN_PATH",),
        "stored_tokens": ("HF_STORED_TOKENS_PATH",),
        ".agent_harnesses.json": ("AGENT_HARNESSES_PATH",),
        "": ("HF_HOME",),
    }
    replaced = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"},
        **{f"HF_HUB_{name}": name != "OFFLINE" for name in switches},
        **{name: str(home / folder) for folder, names in folders.items() for name in names},
    }
    for name, value in replaced.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(_detect_agent, "_registry", {"standardEnvVars": [], "harnesses": {}})
    # create_repo() and its like are methods of this one.
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)

    replaced = {
        "HF_ENDPOINT": hub.url,
        "HUB_DATASETS_URL": hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}",
        "HF_HUB_OFFLINE": False,
        "HF_DATASETS_OFFLINE": False,
        "HF_UPDATE_DOWNLOAD_COUNTS": False,
        "HF_CACHE_HOME": str(home),
        "HF_DATASETS_CACHE": home / "datasets",
        "HF_MODULES_CACHE": home / "modules",
        "DOWNLOADED_DATASETS_PATH": home / "datasets" / "downloads",
        "EXTRACTED_DATASETS_PATH": home / "datasets" / "downloads" / "extracted",
    }
    for name, value in replaced.items():
        monkeypatch.setattr(datasets.config, name, value)

    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    for module in (transformers.utils.hub, transformers.dynamic_module_utils):
        monkeypatch.setattr(module, "HF_MODULES_CACHE", str(home / "modules"))

    # Connections and listings of an earlier hub, which may have had the same port.
    close_session()
    HfFileSystem.clear_instance_cache()
