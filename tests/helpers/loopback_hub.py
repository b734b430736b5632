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
import itertools
import json
import re
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml  # a requirement of huggingface_hub itself

USER = "user"
TOKEN = "hf_anything"

_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_REGULAR_LIMIT = 10 * 1024 * 1024
_LFS_SUFFIXES = (
    "7z arrow bin ckpt ftz gz h5 joblib mlmodel model msgpack npy npz onnx ot parquet pb pickle "
    "pkl pt pth rar safetensors tar tflite tgz xz zip zst"
)
_LFS_DATASET_SUFFIXES = "bmp gif jpeg jpg mp3 mp4 png tiff wav webp"


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
            stored = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n"
                f"size {len(stored)}\n"
            ).encode()
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass
class Commit:
    oid: str
    title: str
    message: str
    date: str
    author: str
    files: dict[str, Blob]
    parent: "Commit | None" = None

    def history(self) -> Iterator["Commit"]:
        """This commit and its ancestors, newest first."""
        commit = self
        while commit is not None:
            yield commit
            commit = commit.parent

    def last_change(self, path: str) -> "Commit":
        """The newest commit that touched `path`, a file or a folder."""

        def state(commit):
            return {
                name: blob.oid
                for name, blob in commit.files.items()
                if f"{name}/".startswith(f"{path}/")
            }

        commits = list(self.history())
        for commit, older in itertools.pairwise(commits):
            if state(commit) != state(older):
                return commit
        return commits[-1]


@dataclass
class Repo:
    """A repository: commits by id, names that point at them, and a Space's settings."""

    id: str
    type: str
    private: bool = False
    gated: bool | str = False
    created: str = ""
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, Commit] = field(default_factory=dict)
    sdk: str | None = None
    variables: dict[str, dict] = field(default_factory=dict)
    secrets: dict[str, dict] = field(default_factory=dict)
    hardware: str = "cpu-basic"
    sleep_time: int | None = None
    paused: bool = False

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def find(self, revision: str) -> Commit | None:
        """A branch, a tag, `refs/pr/N`, or (the beginning of) a commit's id."""
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in self.refs:
                return self.refs[name]
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            return next(
                (commit for oid, commit in self.commits.items() if oid.startswith(revision)), None
            )
        return None

    def commit(
        self, files: dict[str, Blob], title: str, message: str, author: str, ref: str
    ) -> Commit:
        parent = self.refs.get(ref)
        tree = sorted((path, blob.etag) for path, blob in files.items())
        seed = json.dumps([self.id, self.type, len(self.commits), title, tree])
        commit = Commit(
            hashlib.sha1(seed.encode()).hexdigest(), title, message, _now(), author, files, parent
        )
        self.commits[commit.oid] = commit
        self.refs[ref] = commit
        return commit

    def stores_as_lfs(self, path: str, size: int) -> bool:
        """What `.gitattributes` says of the path; anything over 10 MB is LFS in any case."""
        if size > _REGULAR_LIMIT:
            return True
        attributes = self.refs["refs/heads/main"].files.get(".gitattributes")
        lines = attributes.content.decode().splitlines() if attributes else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
        return any(
            fnmatch(path, pattern) or fnmatch(path.split("/")[-1], pattern) for pattern in patterns
        )


@dataclass
class Request:
    """One line of `LoopbackHub.requests`."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    user: str | None = None
    status: int | str | None = None


@dataclass
class _Fault:
    pattern: re.Pattern
    action: int | str
    times: int
    method: str | None


class _Refusal(Exception):
    """Ends a request with an error as the Hub words it."""

    def __init__(
        self, status: int, message: str, code: str | None = None, commit: str | None = None
    ):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message.encode("ascii", "replace").decode()}
        if code:
            self.headers["X-Error-Code"] = code
        if commit:
            self.headers["X-Repo-Commit"] = commit


@dataclass
class _Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class LoopbackHub:
    """A Hub at `http://127.0.0.1:PORT`, from `__enter__` (or `start`) to `__exit__` (or `stop`).

    The token `hf_anything` belongs to `user`, who may write to `user/...`; `tokens` may get more.

    Args:
        home (`Path`, *optional*): `HF_HOME` in `environment`; *defaults to* a temporary folder.

    Attributes:
        url (`str`): the endpoint.
        tokens (`dict[str, str]`): token -> user name.
        requests (`list[Request]`): every request with its status.
        errors (`list[str]`): tracebacks of failures of the hub itself; a test should find none.
        repos (`dict[tuple[str, str], Repo]`): by type and id.
    """

    def __init__(self, home: str | Path | None = None):
        self.tokens = {TOKEN: USER}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.errors: list[str] = []
        self._faults: list[_Fault] = []
        self._refused: int | None = None
        self._lock = threading.RLock()
        self._server: _Server | None = None
        self._owns_home = home is None
        self.home = Path(tempfile.mkdtemp(prefix="loopback-hub-") if home is None else home)

    def start(self) -> "LoopbackHub":
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening and cut the connections that are still open."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut_connections()
            self._server = None
        if self._owns_home:
            shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> "LoopbackHub":
        return self.start()

    def __exit__(self, *exception) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Variables for other processes, with a cache of their own:
        `subprocess.run(..., env={**os.environ, **hub.environment})`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(self.home),
            "HF_HUB_CACHE": str(self.home / "hub"),
            "HF_DATASETS_CACHE": str(self.home / "datasets"),
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def create(self, repo_id: str, repo_type: str = "model", **settings) -> Repo:
        """Create a repository without a check of permissions. `settings` are fields of `Repo`."""
        suffixes = _LFS_SUFFIXES + (f" {_LFS_DATASET_SUFFIXES}" if repo_type == "dataset" else "")
        attributes = "".join(
            f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in suffixes.split()
        )
        with self._lock:
            repo = Repo(repo_id, repo_type, created=_now(), **settings)
            files = {".gitattributes": Blob(attributes.encode(), lfs=False)}
            repo.commit(files, "initial commit", "", repo.owner, "refs/heads/main")
            self.repos[repo_type, repo_id] = repo
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
            folder = Path(files)
            files = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        with self._lock:
            repo = self.repos.get((repo_type, repo_id)) or self.create(repo_id, repo_type)
            tree = dict(repo.refs["refs/heads/main"].files)
            for path, content in files.items():
                content = content.encode() if isinstance(content, str) else content
                tree[path] = Blob(content, repo.stores_as_lfs(path, len(content)))
            return repo.commit(tree, title, "", repo.owner, "refs/heads/main").oid

    def files(
        self, repo_id: str, repo_type: str = "model", revision: str = "main"
    ) -> dict[str, bytes]:
        """Content by path, with `.gitattributes`. `KeyError`: no such repository or revision."""
        with self._lock:
            commit = self.repos[repo_type, repo_id].find(revision)
            if commit is None:
                raise KeyError(revision)
            return {path: blob.content for path, blob in commit.files.items()}

    def history(
        self, repo_id: str, repo_type: str = "model", revision: str = "main"
    ) -> list[Commit]:
        """The commits of a branch, newest first."""
        with self._lock:
            return list(self.repos[repo_type, repo_id].find(revision).history())

    def requests_to(self, path_regex: str, method: str | None = None) -> list[Request]:
        """The logged requests whose path matches, of one method or of all."""
        return [
            request
            for request in list(self.requests)
            if re.search(path_regex, request.path) and method in (None, request.method)
        ]

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
        of_content = ("truncate", "alter", "cut", "stop", "drip")
        if not isinstance(action, int) and action not in ("drop", "stall", *of_content):
            raise ValueError(f"unknown action {action!r}; see fail_next")
        method = "GET" if action in of_content else method
        with self._lock:
            self._faults.append(_Fault(re.compile(path_regex), action, times, method))

    def refuse_pushes(self, status: int | None = 403) -> None:
        """Answer every commit with `status` from now on; `None` accepts them again.

        A status below 500 also applies to the steps before a commit (preupload, LFS batch), as for
        a token that may not write. Repositories can still be created.
        """
        self._refused = status

    def _fault_for(self, method: str, target: str) -> int | str | None:
        for fault in self._faults:
            if fault.times > 0 and fault.method in (None, method) and fault.pattern.search(target):
                fault.times -= 1
                return fault.action
        return None

    def _refuses(self, method: str, path: str) -> bool:
        if self._refused is None or method != "POST":
            return False
        steps = (
            r"/commit/[^/]+$"
            if self._refused >= 500
            else r"/(commit|preupload)/[^/]+$|/lfs/objects/batch$"
        )
        return re.search(steps, path) is not None

    # Permissions

    def _user(self, request: Request) -> str | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not token:
            return None
        if token not in self.tokens:
            raise _Refusal(401, "Invalid credentials in Authorization header")
        return self.tokens[token]

    def _may_write(self, request: Request, owner: str) -> None:
        if request.user is None:
            raise _Refusal(401, "Invalid username or password.")
        if request.user != owner:
            raise _Refusal(
                403, f'You don\'t have the rights to write under the namespace "{owner}"'
            )

    def _repo(self, request: Request, repo_type: str, repo_id: str, write: bool = False) -> Repo:
        repo = self.repos.get((repo_type, repo_id))
        if repo is None or (repo.private and request.user != repo.owner):
            if (
                request.user is None
            ):  # the Hub does not tell strangers which private repositories exist
                raise _Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise _Refusal(404, "Repository not found", "RepoNotFound")
        if write:
            self._may_write(request, repo.owner)
        return repo

    # Requests

    def _answer(self, request: Request, body: bytes) -> _Reply:
        request.user = self._user(request)
        if self._refuses(request.method, request.path):
            raise _Refusal(self._refused, "Pushing is refused")
        segments = [unquote(segment) for segment in request.path.strip("/").split("/")]
        if segments[0] == "lfs":
            return self._lfs_object(request, segments, body)
        if segments[0] == "api":
            return self._api(request, segments[1:], body)
        repo_type = _TYPES.get(segments[0], "model")
        rest = segments if repo_type == "model" else segments[1:]
        if len(rest) == 6 and rest[1].endswith(".git") and rest[-1] == "batch":
            repo_id = f"{rest[0]}/{rest[1].removesuffix('.git')}"
            return self._lfs_batch(
                self._repo(request, repo_type, repo_id, write=True), json.loads(body)
            )
        if len(rest) >= 5 and rest[2] in ("resolve", "raw") and request.method in ("GET", "HEAD"):
            repo = self._repo(request, repo_type, "/".join(rest[:2]))
            return self._resolve(request, repo, rest[3], "/".join(rest[4:]))
        raise _Refusal(404, f"Sorry, we can't find {request.method} {request.path}.")

    def _api(self, request: Request, segments: list[str], body: bytes) -> _Reply:
        asked = (request.method, "/".join(segments))
        if asked == ("GET", "whoami-v2"):
            if request.user is None:
                raise _Refusal(401, "Invalid username or password.")
            token = {
                "type": "access_token",
                "accessToken": {"displayName": "test", "role": "write"},
            }
            return _json(
                {"type": "user", "name": request.user, "orgs": [], "isPro": False, "auth": token}
            )
        if asked == ("GET", "agent-harnesses"):
            return _json({"standardEnvVars": [], "harnesses": {}})
        if asked == ("POST", "validate-yaml"):
            sent = json.loads(body)
            errors, warnings = check_card(sent["content"], sent.get("repoType", "model"))
            found = {"errors": [{"message": line} for line in errors]}
            found["warnings"] = [{"message": line} for line in warnings]
            return _json(found, status=400 if errors else 200)
        if segments[0] == "repos" and len(segments) == 2:
            return self._manage(request, segments[1], json.loads(body))
        if segments[0] in _TYPES and len(segments) == 1 and request.method == "GET":
            return self._list(request, _TYPES[segments[0]])
        if asked == ("GET", "spaces/hardware"):
            return _json([])
        if segments[0] in _TYPES and len(segments) >= 3:
            repo_type, repo_id = _TYPES[segments[0]], "/".join(segments[1:3])
            return self._repo_api(request, repo_type, repo_id, segments[3:], body)
        raise _Refusal(404, f"Sorry, we can't find {request.method} {request.path}.")

    def _manage(self, request: Request, action: str, sent: dict) -> _Reply:
        repo_type = sent.get("type") or "model"
        repo_id = f"{sent.get('organization') or request.user}/{sent['name']}"
        if action == "delete" and request.method == "DELETE":
            self._repo(request, repo_type, repo_id, write=True)
            del self.repos[repo_type, repo_id]
            return _json({})
        if action != "create":
            raise _Refusal(404, f"Sorry, we can't find {request.method} {request.path}.")
        self._may_write(request, repo_id.split("/")[0])
        url = {"url": f"{self.url}/{_PREFIXES[repo_type]}{repo_id}", "name": repo_id}
        if (repo_type, repo_id) in self.repos:
            return _json({"error": f"You already created this {repo_type} repo", **url}, status=409)
        if repo_type == "space" and not sent.get("sdk"):
            raise _Refusal(400, "sdk is required for a Space")
        private = sent.get("visibility") == "private" or bool(sent.get("private"))
        repo = self.create(repo_id, repo_type, private=private, sdk=sent.get("sdk"))
        repo.hardware = sent.get("hardware") or repo.hardware
        repo.sleep_time = sent.get("sleepTimeSeconds")
        for setting, held in (("variables", repo.variables), ("secrets", repo.secrets)):
            held.update({item["key"]: _setting(item) for item in sent.get(setting) or []})
        return _json(url)

    def _list(self, request: Request, repo_type: str) -> _Reply:
        query = parse_qs(request.query)
        found = []
        for repo in self.repos.values():
            info = _info(repo, repo.refs["refs/heads/main"], blobs=False)
            if (
                repo.type == repo_type
                and (not repo.private or request.user == repo.owner)
                and query.get("author", [repo.owner])[0] == repo.owner
                and query.get("search", [""])[0].lower() in repo.id.lower()
                and set(query.get("filter", [])) <= set(info["tags"])
            ):
                found.append(info)
        return _json(found[: int(query.get("limit", ["1000"])[0])])

    def _repo_api(
        self, request: Request, repo_type: str, repo_id: str, rest: list[str], body: bytes
    ) -> _Reply:
        action = rest[0] if rest else ""
        asked = (request.method, action)
        writes = request.method in ("PUT", "DELETE") or (
            request.method == "POST" and action != "paths-info"
        )
        writes = writes or rest == ["auth-check", "write"] or action in ("variables", "secrets")
        repo = self._repo(request, repo_type, repo_id, write=writes)
        if asked in (("GET", ""), ("GET", "revision")):
            commit = _commit(repo, rest[1] if rest else "main")
            return _json(_info(repo, commit, blobs="blobs" in parse_qs(request.query)))
        if asked == ("GET", "auth-check"):
            return _json({})
        if asked == ("GET", "tree"):
            commit, query = _commit(repo, rest[1]), parse_qs(request.query.lower())
            recursive, expand = (
                query.get(name, [""])[0] in ("true", "1") for name in ("recursive", "expand")
            )
            return _json(_tree(commit, "/".join(rest[2:]), recursive, expand))
        if asked == ("POST", "paths-info"):
            commit, form = _commit(repo, rest[1]), parse_qs(body.decode())
            expand = form.get("expand", [""])[0].lower() in ("true", "1")
            everything = {entry["path"]: entry for entry in _tree(commit, "", True, expand)}
            return _json([everything[path] for path in form.get("paths", []) if path in everything])
        if asked == ("GET", "refs"):
            return _json(_refs(repo))
        if asked == ("GET", "commits"):
            return _json([_commit_info(commit) for commit in _commit(repo, rest[1]).history()])
        if action in ("branch", "tag"):
            return self._name(request, repo, action, "/".join(rest[1:]), json.loads(body or b"{}"))
        if asked == ("POST", "preupload"):
            _commit(repo, rest[1])
            return self._preupload(repo, rest[1], json.loads(body))
        if asked == ("POST", "commit"):
            return self._commit(request, repo, rest[1], body)
        if asked == ("PUT", "settings"):
            sent = json.loads(body)
            if "visibility" in sent or "private" in sent:
                repo.private = sent.get("visibility") == "private" or bool(sent.get("private"))
            repo.gated = sent.get("gated", repo.gated)
            return _json({})
        if repo.type == "space":
            return self._space(request, repo, action, json.loads(body or b"{}"))
        raise _Refusal(404, f"Sorry, we can't find {request.method} {request.path}.")

    def _name(self, request: Request, repo: Repo, action: str, name: str, sent: dict) -> _Reply:
        if request.method == "POST" and action == "branch":
            ref, commit = f"refs/heads/{name}", _commit(repo, sent.get("startingPoint") or "main")
        elif request.method == "POST":  # the path names what is tagged
            ref, commit = f"refs/tags/{sent['tag']}", _commit(repo, name)
        else:
            ref = f"refs/heads/{name}" if action == "branch" else f"refs/tags/{name}"
            if repo.refs.pop(ref, None) is None:
                raise _Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
            return _json({})
        if ref in repo.refs:
            raise _Refusal(409, f"Reference already exists: {ref}")
        repo.refs[ref] = commit
        return _json({})

    # Pushing

    def _preupload(self, repo: Repo, revision: str, sent: dict) -> _Reply:
        held = _commit(repo, revision).files
        plan = []
        for item in sent["files"]:
            blob = held.get(item["path"])
            mode = "lfs" if repo.stores_as_lfs(item["path"], item["size"]) else "regular"
            oid = blob.etag if blob else None
            plan.append(
                {"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            )
        return _json({"files": plan})

    def _lfs_batch(self, repo: Repo, sent: dict) -> _Reply:
        objects = []
        for item in sent["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.objects:
                upload = {"href": f"{self.url}/lfs/{item['oid']}"}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.url}/lfs/verify"}}
            objects.append(answer)
        return _json({"transfer": "basic", "objects": objects})

    def _lfs_object(self, request: Request, segments: list[str], body: bytes) -> _Reply:
        if request.method == "PUT":
            if hashlib.sha256(body).hexdigest() != segments[1]:
                raise _Refusal(400, "The content does not have the announced sha256")
            self.objects[segments[1]] = body
            return _json({})
        sent = json.loads(body)
        if len(self.objects.get(sent["oid"], b"")) != sent["size"]:
            raise _Refusal(404, "The object was not uploaded")
        return _json({})

    def _commit(self, request: Request, repo: Repo, revision: str, body: bytes) -> _Reply:
        parent = _commit(repo, revision)
        files = dict(parent.files)
        header: dict = {}
        for line in body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            path = value.get("path", "")
            if key == "header":
                header = value
                if value.get("parentCommit") not in (None, parent.oid):
                    raise _Refusal(
                        412, "A commit has happened since. Please refresh and try again."
                    )
            elif key == "file":
                files[path] = Blob(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self.objects:
                    raise _Refusal(
                        400, f"LFS pointer pointed to a file that does not exist: {path}"
                    )
                files[path] = Blob(self.objects[value["oid"]], lfs=True)
            elif key in ("deletedFile", "deletedFolder"):
                gone = [
                    name
                    for name in files
                    if name == path or name.startswith(f"{path.rstrip('/')}/")
                ]
                if not gone:
                    raise _Refusal(404, f"A file to delete does not exist: {path}", "EntryNotFound")
                for name in gone:
                    del files[name]
            else:
                raise _Refusal(400, f"Unknown operation {key}")
        if "README.md" in files and files["README.md"] != parent.files.get("README.md"):
            errors, _ = check_card(files["README.md"].content.decode(), repo.type)
            if errors:
                raise _Refusal(400, f"Invalid metadata in README.md. {' '.join(errors)}")
        wants_pull_request = "create_pr" in parse_qs(request.query)
        if wants_pull_request:
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
            ref = f"refs/pr/{number}"
            repo.refs[ref] = parent
        else:
            ref = next(
                (ref for ref in (f"refs/heads/{revision}", revision) if ref in repo.refs), None
            )
            if ref is None:
                raise _Refusal(400, f"{revision} is not a branch")
        commit = repo.commit(
            files, header.get("summary", ""), header.get("description", ""), request.user, ref
        )
        page = f"{self.url}/{_PREFIXES[repo.type]}{repo.id}"
        answer = {
            "success": True,
            "commitOid": commit.oid,
            "commitUrl": f"{page}/commit/{commit.oid}",
        }
        if wants_pull_request:
            answer["pullRequestUrl"] = f"{page}/discussions/{number}"
        return _json(answer)

    # Pulling

    def _resolve(self, request: Request, repo: Repo, revision: str, path: str) -> _Reply:
        if repo.gated and request.user != repo.owner:
            raise _Refusal(
                403 if request.user else 401,
                f"Access to {repo.type} {repo.id} is gated.",
                "GatedRepo",
            )
        commit = _commit(repo, revision)
        blob = commit.files.get(path)
        if blob is None:
            raise _Refusal(404, f"Entry not found: {path}", "EntryNotFound", commit.oid)
        headers = {
            "ETag": f'"{blob.etag}"',
            "X-Repo-Commit": commit.oid,
            "Accept-Ranges": "bytes",
            "Content-Disposition": f'inline; filename="{path.split("/")[-1]}";',
            "Content-Type": "application/octet-stream" if blob.lfs else "text/plain; charset=utf-8",
        }
        if blob.lfs:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(blob.content))}
        size = len(blob.content)
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

    def _space(self, request: Request, repo: Repo, action: str, sent: dict) -> _Reply:
        if action in ("variables", "secrets"):
            held = getattr(repo, action)
            if request.method == "POST":
                held[sent["key"]] = _setting(sent)
            elif request.method == "DELETE":
                held.pop(sent["key"], None)
            hidden = ("value",) if action == "secrets" else ()
            return _json(
                {
                    key: {name: value for name, value in item.items() if name not in hidden}
                    for key, item in held.items()
                }
            )
        if action == "hardware":
            repo.hardware = sent["flavor"]
            repo.sleep_time = sent.get("sleepTimeSeconds", repo.sleep_time)
        elif action == "sleeptime":
            repo.sleep_time = sent["seconds"]
        elif action in ("pause", "restart"):
            repo.paused = action == "pause"
        elif action != "runtime":
            raise _Refusal(404, f"Sorry, we can't find {request.method} {request.path}.")
        return _json(_runtime(repo))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: LoopbackHub):
        self.hub = hub
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, connection, address):
        self._open.add(connection)
        super().process_request(connection, address)

    def shutdown_request(self, connection):
        self._open.discard(connection)
        super().shutdown_request(connection)

    def cut_connections(self) -> None:
        for connection in list(self._open):
            _hang_up(connection)

    def handle_error(self, connection, address):
        """A client that hung up is no news; anything else inside a handler is caught there."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # headers and body go out in two writes, which would wait for each other
    )

    def log_message(self, *arguments):
        """`LoopbackHub.requests` is the log."""

    def _serve(self) -> None:
        hub: LoopbackHub = self.server.hub
        body = self._body()
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, parts.path, parts.query, headers)
        with hub._lock:
            hub.requests.append(request)
            fault = hub._fault_for(self.command, unquote(self.path))
            if fault in ("drop", "stall"):
                request.status = fault
            else:
                try:
                    if isinstance(fault, int):
                        raise _Refusal(fault, "Injected failure")
                    reply = hub._answer(request, body)
                except _Refusal as refusal:
                    reply = _json({"error": str(refusal)}, refusal.status, refusal.headers)
                except Exception:
                    hub.errors.append(f"{self.command} {self.path}\n{traceback.format_exc()}")
                    reply = _json({"error": "the loopback hub broke"}, 500)
                request.status = reply.status
        if request.status == "drop":
            return self._hang_up()
        if request.status == "stall":
            return self._wait()
        half = len(reply.body) // 2
        if fault == "truncate":
            reply.body = reply.body[:half]
        elif fault == "alter":
            reply.body = reply.body[:half] + bytes([reply.body[half] ^ 1]) + reply.body[half + 1 :]
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if fault in ("cut", "stop"):
            self.wfile.write(reply.body[:half])
            if fault == "stop":
                self._wait()
            self._hang_up()
        elif fault == "drip":
            self._drip(reply.body)
        elif self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

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
        while sent < len(content) and self.server.hub._faults:
            self.wfile.write(content[sent : sent + 1])
            sent += 1
            time.sleep(0.02)
        self.wfile.write(content[sent:])

    def _hang_up(self) -> None:
        self.close_connection = True
        _hang_up(self.connection)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was quicker


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def _json(content, status: int = 200, headers: dict[str, str] | None = None) -> _Reply:
    body = json.dumps(content, default=str).encode()
    return _Reply(
        body, status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
    )


def _setting(sent: dict) -> dict:
    return {"value": sent["value"], "description": sent.get("description"), "updatedAt": _now()}


def _commit(repo: Repo, revision: str) -> Commit:
    commit = repo.find(revision)
    if commit is None:
        raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


def _commit_info(commit: Commit) -> dict:
    authors = [{"user": commit.author}]
    return {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message,
        "date": commit.date,
        "authors": authors,
    }


def _refs(repo: Repo) -> dict:
    groups = {
        "branches": "refs/heads/",
        "tags": "refs/tags/",
        "converts": "refs/convert/",
        "pullRequests": "refs/pr/",
    }
    return {
        group: [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": commit.oid}
            for ref, commit in repo.refs.items()
            if ref.startswith(prefix)
        ]
        for group, prefix in groups.items()
    }


def _tree(commit: Commit, folder: str, recursive: bool, expand: bool) -> list[dict]:
    """The entries below `folder`: files, and the folders on the way to them."""
    inside = f"{folder}/" if folder else ""
    below = {path: blob for path, blob in sorted(commit.files.items()) if path.startswith(inside)}
    if folder and not below:
        raise _Refusal(404, f"{folder} does not exist on {commit.oid}", "EntryNotFound", commit.oid)
    entries: dict[str, dict] = {}
    for path, blob in below.items():
        parts = path.removeprefix(inside).split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            name = inside + "/".join(parts[:depth])
            oid = hashlib.sha1(f"{commit.oid}{name}".encode()).hexdigest()
            entries.setdefault(name, {"type": "directory", "oid": oid, "size": 0, "path": name})
        if recursive or len(parts) == 1:
            entries[path] = {
                "type": "file",
                "oid": blob.oid,
                "size": len(blob.content),
                "path": path,
            }
            if blob.lfs:
                entries[path]["lfs"] = _lfs(blob)
    if expand:
        for name, entry in entries.items():
            last = commit.last_change(name)
            entry["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
    return list(entries.values())


def _lfs(blob: Blob) -> dict:
    return {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}


def _info(repo: Repo, commit: Commit, blobs: bool) -> dict:
    """The answer of `GET /api/{type}s/{id}`, with tags from the card and config.json."""
    card = (
        _card_data(commit.files["README.md"].content.decode())
        if "README.md" in commit.files
        else {}
    )
    siblings = []
    for path, blob in sorted(commit.files.items()):
        sibling: dict = {"rfilename": path}
        if blobs:
            sibling |= {"size": len(blob.content), "blobId": blob.oid}
            if blob.lfs:
                sibling["lfs"] = {
                    "sha256": blob.sha256,
                    "size": len(blob.content),
                    "pointerSize": 134,
                }
        siblings.append(sibling)
    tags = [tag for tag in card.get("tags") or [] if isinstance(tag, str)]
    tags += [f"license:{card['license']}"] if isinstance(card.get("license"), str) else []
    info = {
        "_id": hashlib.sha1(repo.id.encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.owner,
        "sha": commit.oid,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
        "cardData": card,
        "usedStorage": sum(len(blob.content) for blob in commit.files.values()),
        "tags": tags,
    }
    if repo.type == "model":
        info["modelId"] = repo.id
        config = (
            json.loads(commit.files["config.json"].content) if "config.json" in commit.files else {}
        )
        known = {key: config[key] for key in ("architectures", "model_type") if key in config}
        library = card.get("library_name") or ("transformers" if "model_type" in known else None)
        task = card.get("pipeline_tag")
        if task is None and any(
            "ForImageClassification" in name for name in known.get("architectures") or []
        ):
            task = "image-classification"
        optional = {"library_name": library, "pipeline_tag": task, "config": known or None}
        optional["model-index"] = card.get("model-index")
        info |= {key: value for key, value in optional.items() if value is not None}
        tags += [tag for tag in (library, task) if tag and tag not in tags]
    if repo.type == "space":
        info |= {"sdk": card.get("sdk", repo.sdk), "runtime": _runtime(repo)}
    return info


def _runtime(repo: Repo) -> dict:
    files = repo.refs["refs/heads/main"].files
    stage = "PAUSED" if repo.paused else "RUNNING" if "app.py" in files else "NO_APP_FILE"
    return {
        "stage": stage,
        "hardware": {"current": repo.hardware, "requested": repo.hardware},
        "gcTimeout": repo.sleep_time,
    }


def _card_data(text: str) -> dict:
    matter = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, flags=re.DOTALL)
    if not matter:
        return {}
    try:
        data = yaml.safe_load(matter.group(1))
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


_COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


def check_card(text: str, repo_type: str) -> tuple[list[str], list[str]]:
    """Check the most important rules of https://huggingface.co/docs/hub/model-cards,
    .../datasets-cards and .../spaces-config-reference.

    Returns:
        `(list[str], list[str])`: errors, which refuse the commit, and warnings.
    """
    matter = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, flags=re.DOTALL)
    if not matter:
        message = "empty or missing yaml metadata in repo card"
        return ([message], []) if repo_type == "space" else ([], [message])
    try:
        data = yaml.safe_load(matter.group(1)) or {}
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {' '.join(str(error).split())}"], []
    if not isinstance(data, dict):
        return ["The metadata must be a mapping"], []
    errors = []
    if not isinstance(data.get("tags", []), list) or not all(
        isinstance(tag, str) for tag in data.get("tags", [])
    ):
        errors.append('"tags" must be a list of strings.')
    if not isinstance(data.get("license", ""), (str, list)):
        errors.append('"license" must be a string or a list.')
    if repo_type == "model":
        for key in ("library_name", "pipeline_tag"):
            if not isinstance(data.get(key, ""), str):
                errors.append(f'"{key}" must be a string.')
        errors += _check_model_index(data.get("model-index", []))
    if repo_type == "space":
        if data.get("sdk") not in ("gradio", "docker", "static", "streamlit"):
            errors.append('"sdk" must be one of [gradio, docker, static].')
        for key in ("colorFrom", "colorTo"):
            if data.get(key, "gray") not in _COLOURS:
                errors.append(f'"{key}" must be one of {list(_COLOURS)}.')
        if len(str(data.get("short_description", ""))) > 60:
            errors.append(
                '"short_description" length must be less than or equal to 60 characters long.'
            )
    return errors, []


def _check_model_index(index) -> list[str]:
    if not isinstance(index, list) or not all(isinstance(model, dict) for model in index):
        return ['"model-index" must be a list of mappings.']
    errors = []
    for model in index:
        if not model.get("name"):
            errors.append('"model-index[].name" is required.')
        for result in model.get("results") or []:
            if not (result.get("task") or {}).get("type"):
                errors.append('"model-index[].results[].task.type" is required.')
            dataset = result.get("dataset") or {}
            if not dataset.get("type") or not dataset.get("name"):
                errors.append('"model-index[].results[].dataset" needs "type" and "name".')
            for metric in result.get("metrics") or [{}]:
                if not metric.get("type") or metric.get("value") is None:
                    errors.append('"model-index[].results[].metrics[]" needs "type" and "value".')
    return errors


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
    replaced = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"},
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_UPDATE_CHECK": True,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HUGGINGFACE_ASSETS_CACHE": str(home / "assets"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(_detect_agent, "_registry", {"standardEnvVars": [], "harnesses": {}})
    monkeypatch.setattr(
        hf_api.api, "endpoint", hub.url
    )  # create_repo() and its like are methods of this one

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
