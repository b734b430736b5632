"""Visitors' files are deleted once they are old, and no other files."""

import asyncio
import math
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio import processing_utils
from gradio.data_classes import FileData
from gradio.route_utils import upload_fn
from gradio.utils import get_upload_folder
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from realfake.space import claim_folder, page, uploads
from realfake.space.batch import Row, write

HASH = "0123456789abcdef" * 4
HOUR = 3600


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The page's temporary folder, inside a temporary folder of the system."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv(uploads.VARIABLE, str(tmp_path / "tmp" / "page"))
    (tmp_path / "tmp" / "page").mkdir(parents=True)
    return tmp_path / "tmp" / "page"


def written(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a picture")
    return path


def tidied_in_an_hour(kept=()) -> None:
    uploads.tidy(kept, age=HOUR / 2, now=time.time() + HOUR)


def test_old_uploads_and_reports_are_deleted(folder):
    written(folder / HASH / "photo.jpg")
    written(folder / HASH[::-1] / ".photo.jpg.x1y2z3")
    written(folder / "tmpab12_3cd")
    written(uploads.new_folder() / "photo-realfake.pdf")
    table, _ = write([Row("photo.jpg", problem="It is a letter.")])
    assert Path(table).is_relative_to(folder)
    uploads.tidy((), age=HOUR / 2)
    assert len(list(folder.iterdir())) == 5 and Path(table).is_file()
    tidied_in_an_hour()
    assert list(folder.iterdir()) == []


class BrokenOff:
    """An upload whose client hangs up in the middle."""

    headers = Headers({"content-type": "multipart/form-data; boundary=b"})

    async def stream(self):
        yield (
            b'--b\r\ncontent-disposition: form-data; name="files"; filename="photo.jpg"\r\n\r\n'
            + b"x" * 100_000
        )
        raise ClientDisconnect


def test_files_that_gradio_loses_track_of_are_deleted(folder):
    with pytest.raises(ClientDisconnect):
        asyncio.run(upload_fn(BrokenOff(), get_upload_folder(), math.inf, None))
    (left,) = folder.iterdir()
    assert left.stat().st_size > 0
    processing_utils.save_base64_to_cache("data:image/png;base64,eHh4", get_upload_folder())
    processing_utils.save_file_to_cache(left, get_upload_folder())
    gr.DownloadButton().preprocess(FileData(path=str(left)))
    assert len(list(folder.iterdir())) == 4
    tidied_in_an_hour()
    assert list(folder.iterdir()) == []


def test_gradio_serves_written_files_unchanged(folder):
    path, _ = write([Row("photo.jpg", problem="It is a letter.")])
    button = gr.DownloadButton()
    assert button.move_resource_to_block_cache(path) == path and button.temp_files == {path}


def test_a_young_file_is_kept(folder):
    old = written(folder / HASH / "old.jpg")
    time.sleep(0.05)
    young = written(folder / HASH / "young.jpg")
    between = (old.lstat().st_ctime + young.lstat().st_ctime) / 2
    uploads.tidy((), age=HOUR, now=between + HOUR)
    assert not old.exists() and young.exists()


def test_other_files_are_kept(folder):
    foreign = [
        written(folder / "notes.txt"),
        written(folder / "notes" / "photo.jpg"),
        written(folder / HASH[:63] / "photo.jpg"),
        written(folder / "tmpab12_3cd" / "work.bin"),
        written(folder.parent / "photo.jpg"),
        written(folder.parent / "realfake-tests-1" / HASH / "photo.jpg"),
    ]
    tidied_in_an_hour()
    assert all(path.exists() for path in foreign)


def test_links_are_not_followed(folder, tmp_path):
    target = written(tmp_path / "home" / "letter.txt")
    (folder / HASH).mkdir()
    (folder / HASH / "letter.txt").symlink_to(target)
    (folder / HASH / "home").symlink_to(target.parent)
    (folder / HASH[::-1]).symlink_to(target.parent)
    (folder / "tmpab12_3cd").symlink_to(target)
    (folder.parent / f"{uploads.PREFIX}1").symlink_to(target.parent)
    written(target.parent / HASH / "photo.jpg")
    tidied_in_an_hour()
    assert target.exists() and (target.parent / HASH / "photo.jpg").exists()
    assert not (folder / HASH).exists()


def test_the_pages_pictures_are_kept_and_touched(folder):
    kept = written(folder / HASH / "example.jpg")
    before = kept.stat().st_ctime_ns
    time.sleep(0.05)
    tidied_in_an_hour([str(kept)])
    assert kept.exists() and kept.stat().st_ctime_ns > before


def test_files_of_a_killed_process_are_deleted(folder):
    left = written(
        folder.parent / f"{uploads.PREFIX}0123" / HASH / "snapshots" / "1" / "model.safetensors"
    )
    uploads.tidy((), age=HOUR)
    assert left.exists()
    tidied_in_an_hour()
    assert list(folder.parent.iterdir()) == [folder]


def test_in_a_shared_folder_only_folders_named_by_a_hash_are_deleted(folder, monkeypatch):
    monkeypatch.setenv(uploads.VARIABLE, str(folder.parent))
    others, ours = (
        written(folder.parent / "tmpab12_3cd"),
        written(folder.parent / HASH / "photo.jpg"),
    )
    tidied_in_an_hour()
    assert others.exists() and not ours.exists()


def test_a_file_that_vanishes_in_between_is_no_error(folder, monkeypatch):
    first, second = written(folder / HASH / "1.jpg"), written(folder / HASH / "2.jpg")
    unlink = os.unlink

    def both(path):
        for each in (first, second):
            if each.exists():
                unlink(each)
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "unlink", both)
    tidied_in_an_hour()
    assert list(folder.iterdir()) == []
    os.rmdir(folder)
    tidied_in_an_hour()


class Blocks:
    """The first look fails, the second finds a component, the third ends the thread."""

    def __init__(self, example: Path):
        self.example, self.looks = example, 0

    @property
    def blocks(self):
        self.looks += 1
        if self.looks == 1:
            raise RuntimeError("not yet")
        if self.looks == 3:
            raise SystemExit
        return {1: SimpleNamespace(keep_in_cache={str(self.example)})}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_thread_repeats_and_survives_a_failure(folder, caplog):
    path, example = written(folder / HASH / "photo.jpg"), written(folder / HASH / "example.jpg")
    thread = uploads.keep_tidy(Blocks(example), every=0.01, age=-HOUR)
    thread.join(10)
    assert not thread.is_alive() and thread.daemon and "could not be deleted" in caplog.text
    assert example.exists() and not path.exists()


def test_a_process_has_its_own_folder_unless_one_is_named(folder, monkeypatch):
    claim_folder()
    assert os.environ[uploads.VARIABLE] == str(folder)
    monkeypatch.setenv(uploads.VARIABLE, "")
    claim_folder()
    taken = Path(os.environ[uploads.VARIABLE])
    assert taken.parent == folder.parent and taken.name.startswith(uploads.PREFIX)


def test_files_are_deleted_within_the_hour_and_after_gradio(monkeypatch):
    class Begun(Exception):
        pass

    def begin(blocks, every, age):
        raise Begun(blocks, every, age)

    monkeypatch.setattr(page, "keep_tidy", begin)
    with pytest.raises(Begun) as begun:
        page.launch(page.Page("blocks", None, None))
    blocks, every, age = begun.value.args
    between, gradios_age = page.DELETE_CACHE
    assert blocks == "blocks" and gradios_age + between <= age <= HOUR - every


def test_the_faster_engine_is_opened_before_the_first_visitor(monkeypatch):
    class Opened(Exception):
        pass

    class Slow:
        def accelerate(self):
            raise Opened

    for name in ("keep_tidy", "refuse_downloads", "answer_mcp_in_json", "keep_memory_low"):
        monkeypatch.setattr(page, name, lambda *_, **__: None)
    with pytest.raises(Opened):
        page.launch(page.Page("blocks", None, Slow()))
