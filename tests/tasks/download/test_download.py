import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from PIL import Image

from iedit_model.errors import ConfigError
from miniature.faults import FaultShares
from miniature.plan import MetadataShares
from miniature.server import RunningSite, serve
from miniature.site import Site
from storage import DamagedFileError, DiskFullError, ShardReport, ShardStore, sample_id
from tasks.download import downloader as fetch_downloader
from tasks.download.client import FetchConfig
from tasks.download.errors import FAILURES
from tasks.download.image_body import ImageConfig
from tasks.download.ledger import add_to_ledger
from tasks.download.rounds import RetryConfig
from tasks.download.stage import LOG, DownloadConfig, download_shard, latest_download, retry_failed
from tasks.errors import ShardError
from tasks.plan.stage import PLAN

# Every kind of fault, some of them twice, among fine pictures.
ALL_FAULTS = FaultShares.only(
    **{
        **dict.fromkeys(("copy", "near_copy", "moved", "throttled_once", "error_once"), 0.05),
        **dict.fromkeys(("throttled", "slow", "dripping", "bomb", "oversized", "local_file"), 0.02),
        **dict.fromkeys(("cut_off", "not_found", "gone", "truncated", "html", "empty", "redirect_loop", "noai"), 0.03),
        **dict.fromkeys(("redirect_private", "private_url"), 0.09),
    }
)
QUIET = MetadataShares(unsafe=0, watermarked=0, small=0, foreign=0, unscored=0, repeated=0)
FAULTY = Site(
    seed=3,
    num_urls=100,
    faults=ALL_FAULTS,
    metadata=QUIET,
    slow_s=60,
    drip_s=120,
    bomb_side_px=9_000,
    oversized_bytes=2 * 2**20,
)
SMALL_IMAGE = ImageConfig(size_px=64, min_side_px=16, max_pixels=50_000_000)


def _config(running: RunningSite, **changes: Any) -> DownloadConfig:
    host = running.base_url.removeprefix("http://")
    # Enough time for a machine that is busy with other things; slow and dripping answers take far longer.
    fetch = FetchConfig(
        max_bytes=2**20, socket_timeout_s=3, total_timeout_s=5, per_host=64, max_redirects=3, allowed_hosts=(host,)
    )
    config = DownloadConfig(
        image=SMALL_IMAGE, fetch=fetch, retry=RetryConfig(retries=1, base_s=0.05), threads=16, min_success_rate=0
    )
    return replace(config, **changes)


def _plan(store: ShardStore, urls: Sequence[str], *, hashes: Sequence[str | None] = ()) -> ShardReport:
    rows = [
        {
            "sample_id": sample_id(url),
            "url": url,
            "alt_text": f"picture {number}",
            "expected_hash": hashes[number] if hashes else None,
            "source_file": "00000.parquet",
            "source_row": number,
        }
        for number, url in enumerate(urls)
    ]
    name = hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
    return store.target("plan", "00007", name).commit(table=PLAN.table(rows), num_in=len(rows), seconds=1)


def _site_plan(store: ShardStore, running: RunningSite) -> ShardReport:
    return _plan(store, [running.url(index) for index in range(running.site.num_urls)])


def _rows(store: ShardStore, report: ShardReport) -> dict[str, dict[str, Any]]:
    """Return URL -> its row of the table with what the log knows beside it."""
    log = {row["url"]: row for row in store.read_table(report, suffix=LOG).to_pylist()}
    return {row["url"]: row | log[row["url"]] for row in store.read_table(report).to_pylist()}


def _reasons(failed: Counter[str]) -> Counter[str]:
    """Return the failures as they are counted as drops: those that may pass together."""
    reasons: Counter[str] = Counter()
    for name, count in failed.items():
        reasons["transient" if _may_pass(name) else name] += count
    return reasons


def _may_pass(error_class: str) -> bool:
    return FAILURES[error_class].kind == "transient"


def _snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore.at(tmp_path / "store")


@pytest.fixture(scope="module")
def fine() -> Iterator[RunningSite]:
    """Run a site without faults."""
    with serve(Site(seed=4, num_urls=12, faults=FaultShares.only(), metadata=QUIET)) as running:
        yield running


def test_every_planted_fault_ends_as_the_site_says_and_every_picture_is_the_right_one(store: ShardStore) -> None:
    with serve(FAULTY) as running:
        report = download_shard(_site_plan(store, running), _config(running), store)
        requests = running.num_requests()
        rows = _rows(store, report)
        assert len(rows) == FAULTY.num_urls
        for index in range(FAULTY.num_urls):
            truth, row = FAULTY.truth(index), rows[running.url(index)]
            outcome = "image" if row["status"] == "ok" else row["error_kind"]
            expected = "image" if truth.gives_image else truth.outcome
            assert (outcome, row["error_class"] or "") == (expected, "" if truth.gives_image else truth.reason), truth
            assert row["sha256"] == FAULTY.sha256(index) or not truth.gives_image
            # Only what may pass is tried again.
            asked = 2 if truth.outcome in {"transient", "image_after_retry"} else bool(truth.status)
            assert requests.get(index, 0) == asked
            assert row["attempts"] == max(1, asked)
    assert {FAULTY.kind(index) for index in range(FAULTY.num_urls)} >= {name for name, _ in ALL_FAULTS.named()}
    failed = Counter(row["error_class"] for row in rows.values() if row["status"] == "failed")
    assert report.dropped == _reasons(failed)
    assert report.num_in == report.num_out + failed.total() == FAULTY.num_urls
    assert {row["reason"] for row in store.read_dropped(report).to_pylist()} == set(_reasons(failed))
    passing = {f"transient_{name}": count for name, count in failed.items() if _may_pass(name)}
    assert {name: count for name, count in report.extra.items() if name.startswith("transient")} == passing
    assert {"transient_timeout", "transient_throttled"} <= set(passing)
    assert report.extra["num_transient"] == sum(row["error_kind"] == "transient" for row in rows.values())
    _check_pictures(store, report, rows)


def _check_pictures(store: ShardStore, report: ShardReport, rows: dict[str, dict[str, Any]]) -> None:
    with store.open_blob(report, "tar") as stream, tarfile.open(fileobj=stream) as tar:
        held: dict[str, bytes] = {member.name: _member(tar, member) for member in tar.getmembers()}
    assert list(held) == sorted(held)
    assert set(held) == {f"{row['sample_id']}.png" for row in rows.values() if row["status"] == "ok"}
    for row in rows.values():
        if row["status"] != "ok":
            assert all(row[name] is None for name in ("width", "stored_sha256", "image_offset", "phash"))
            continue
        data = held[f"{row['sample_id']}.png"]
        assert store.read_member(report, row["image_offset"], row["image_size"], sha256=row["stored_sha256"]) == data
        assert row["stored_sha256"] == hashlib.sha256(data).hexdigest()
        assert row["image_shard"] == report.shard
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 64))


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return b"" if stream is None else stream.read()


def test_a_rerun_changes_no_file_and_asks_for_nothing(store: ShardStore, fine: RunningSite, tmp_path: Path) -> None:
    plan, config = _site_plan(store, fine), _config(fine)
    report = download_shard(plan, config, store)
    assert report.num_out == 12
    before, asked = _snapshot(tmp_path), fine.num_requests()
    # What decides only the speed is no part of what was made.
    patient = replace(config, threads=1, retry=RetryConfig(retries=9), fetch=replace(config.fetch, total_timeout_s=99))
    assert download_shard(plan, config, store) == download_shard(plan, patient, store) == report
    assert retry_failed(plan, config, store) == report == latest_download(plan, config, store)
    assert (_snapshot(tmp_path), fine.num_requests()) == (before, asked)
    other = replace(config, image=replace(SMALL_IMAGE, size_px=32))
    assert download_shard(plan, other, store).fingerprint != report.fingerprint


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_the_bytes_do_not_depend_on_the_number_of_threads(fine: RunningSite, tmp_path: Path, threads: int) -> None:
    digests = set()
    for number in (threads, 16):
        store = ShardStore.at(tmp_path / str(number))
        digests.add(download_shard(_site_plan(store, fine), _config(fine, threads=number), store).digest)
    assert len(digests) == 1


def test_shards_can_be_downloaded_in_worker_threads_side_by_side(store: ShardStore, fine: RunningSite) -> None:
    plans = [_plan(store, [fine.url(index)]) for index in range(4)]
    output = os.fstat(1)
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda plan: download_shard(plan, _config(fine), store), plans))
    assert [report.num_out for report in reports] == [1, 1, 1, 1]
    # img2dataset's own resizer redirects it for the whole process, and side by side for good.
    assert os.path.samestat(os.fstat(1), output)


def test_only_what_may_still_succeed_is_fetched_again_and_the_pictures_stay(store: ShardStore) -> None:
    faults = FaultShares.only(error_once=0.3, throttled=0.1, not_found=0.2)
    with serve(Site(seed=6, num_urls=20, faults=faults, metadata=QUIET, retry_after_s=0)) as running:
        plan, config = _site_plan(store, running), _config(running, retry=RetryConfig(retries=0))
        first = download_shard(plan, config, store)
        before, asked = _rows(store, first), running.num_requests()
        assert Counter(row["error_class"] for row in before.values()) == {
            None: 8,
            "server_error": 6,
            "throttled": 2,
            "not_found": 4,
        }
        assert download_shard(plan, config, store) == first
        second = retry_failed(plan, config, store)
        after, again = _rows(store, second), running.num_requests()
        assert Counter(row["error_class"] for row in after.values()) == {None: 14, "throttled": 2, "not_found": 4}
        for url, row in after.items():
            transient = before[url]["error_kind"] == "transient"
            assert row["attempts"] == 1 + transient
            moving = ("image_offset",)  # new pictures come between the old ones
            if not transient:
                assert {**row, **dict.fromkeys(moving)} == {**before[url], **dict.fromkeys(moving)}
        assert sum(again.values()) - sum(asked.values()) == 8
        assert (second.fingerprint, second.num_out, second.extra["num_runs"]) == (first.fingerprint, 14, 2)
        assert second.digest != first.digest
        assert latest_download(plan, config, store) == second
        _check_pictures(store, second, after)
        assert store.problems(first) == store.problems(second) == []
        # Nothing new came: the report, and all that builds on it, stays.
        assert retry_failed(plan, config, store) == second


def test_retries_show_in_the_log_alone(tmp_path: Path) -> None:
    faults = FaultShares.only(error_once=0.4, not_found=0.1, throttled=0.2)
    site = Site(seed=6, num_urls=20, faults=faults, metadata=QUIET, retry_after_s=0)
    stores = [ShardStore.at(tmp_path / name) for name in ("in one run", "in two")]
    reports, port = [], 0
    for store, retries in zip(stores, (3, 0), strict=True):
        with serve(site, port=port) as running:
            port = int(running.base_url.rpartition(":")[2])  # the same addresses again, so the same samples
            plan, config = _site_plan(store, running), _config(running, retry=RetryConfig(retries=retries, base_s=0.01))
            reports.append(download_shard(plan, config, store))
            if retries == 0:
                reports[-1] = retry_failed(plan, config, store)
    tries = [store.read_table(report, suffix=LOG)["attempts"] for store, report in zip(stores, reports, strict=True)]
    assert tries[0] != tries[1]
    _check_same_but_for_the_log(reports)
    assert reports[0].dropped == {"transient": 4, "not_found": 2}


def test_how_a_transient_failure_failed_shows_in_the_log_alone(tmp_path: Path) -> None:
    def without_an_answer(host: str, port: int) -> Sequence[str]:
        raise OSError(-2, "unknown")

    with socket.socket() as taken:  # bound and not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        host = f"a.example:{taken.getsockname()[1]}"
        config = DownloadConfig(retry=RetryConfig(retries=0), fetch=FetchConfig(allowed_hosts=(host,)))
        reports, classes = [], set()
        for name, resolver in (("dns", without_an_answer), ("connection", lambda host, port: ["127.0.0.1"])):
            store = ShardStore.at(tmp_path / name)
            plan = _plan(store, [f"http://{host}/1"])
            reports.append(download_shard(plan, config, store, resolver=resolver))
            classes |= set(store.read_table(reports[-1], suffix=LOG)["error_class"].to_pylist())
            assert store.read_table(reports[-1])["error_class"].to_pylist() == [None]
            strict = replace(config, min_success_rate=0.5, floor_from_rows=1)
            with pytest.raises(ShardError, match=f"failed: {name} 1"):
                download_shard(plan, strict, store, resolver=resolver)
    assert classes == {"dns", "connection"}
    _check_same_but_for_the_log(reports)


def _check_same_but_for_the_log(reports: Sequence[ShardReport]) -> None:
    one, other = reports
    assert one.fingerprint == other.fingerprint
    assert {suffix for suffix in one.files if one.files[suffix] != other.files[suffix]} == {LOG}
    assert (one.digest, one.dropped, one.num_out) == (other.digest, other.dropped, other.num_out)


def test_a_picture_that_was_damaged_meanwhile_is_not_carried_on(store: ShardStore, tmp_path: Path) -> None:
    with serve(Site(seed=6, num_urls=10, faults=FaultShares.only(error_once=0.5), metadata=QUIET)) as running:
        plan, config = _site_plan(store, running), _config(running, retry=RetryConfig(retries=0))
        first = download_shard(plan, config, store)
        tar = tmp_path / "store" / first.path("tar")
        whole, written = tar.read_bytes(), tar.stat().st_mtime_ns
        tar.write_bytes(whole.replace(b"IDAT", b"IDAX"))
        os.utime(tar, ns=(written, written))  # as a disk does it, without a trace
        with pytest.raises(DamagedFileError, match="sha256") as caught:
            retry_failed(plan, config, store)
        assert caught.value.paths == (first.path("tar"),)
        assert latest_download(plan, config, store) == first
        store.files.remove(first.path("tar"))
        assert latest_download(plan, config, store) is None
        assert store.problems(download_shard(plan, config, store)) == []


def test_a_purged_picture_is_not_taken_from_another_address(store: ShardStore, tmp_path: Path) -> None:
    with serve(Site(seed=6, num_urls=10, metadata=QUIET, faults=FaultShares.only())) as running:
        before = _rows(store, download_shard(_site_plan(store, running), _config(running), store))
        url = sorted(before)[3]
        again = ShardStore.at(tmp_path / "again")
        add_to_ledger(again.files, urls=["http://elsewhere.example/the-same.png"], images=[before[url]["sha256"]])
        report = download_shard(_site_plan(again, running), _config(running), again)
        after = _rows(again, report)
    assert report.dropped == {"taken_down": 1}
    assert (after[url]["status"], after[url]["sha256"]) == ("failed", None)
    assert {name: row["stored_sha256"] for name, row in after.items() if name != url} == {
        name: row["stored_sha256"] for name, row in before.items() if name != url
    }


def test_a_shard_under_the_floor_fails_says_why_and_leaves_nothing(store: ShardStore, tmp_path: Path) -> None:
    faults = FaultShares.only(not_found=0.5, gone=0.25)
    with serve(Site(seed=6, num_urls=20, faults=faults, metadata=QUIET)) as running:
        plan = _site_plan(store, running)
        strict = _config(running, min_success_rate=0.3)
        before = _snapshot(tmp_path)
        with pytest.raises(ShardError, match=r"download/00007: 5 of 20 .* not_found 10, gone 5"):
            download_shard(plan, strict, store)
        assert _snapshot(tmp_path) == before
        assert latest_download(plan, strict, store) is None
        assert download_shard(plan, replace(strict, floor_from_rows=21), store).num_out == 5
        with pytest.raises(ShardError, match="5 of 20"):  # a finished shard does not pass a floor that was raised
            download_shard(plan, strict, store)


def test_bytes_other_than_the_promised_ones_are_refused_unless_that_is_switched_off(
    store: ShardStore, fine: RunningSite
) -> None:
    bodies = [fine.site.image_bytes(index) for index in range(6)]
    hashes = [
        hashlib.md5(bodies[0], usedforsecurity=False).hexdigest(),
        hashlib.md5(b"other", usedforsecurity=False).hexdigest(),
        hashlib.sha256(bodies[2]).hexdigest().upper(),
        "f" * 64,
        "not a hash",
        None,
    ]
    plan = _plan(store, [fine.url(index) for index in range(6)], hashes=hashes)
    rows = _rows(store, download_shard(plan, _config(fine), store))
    classes = [rows[fine.url(index)]["error_class"] for index in range(6)]
    assert classes == [None, "hash_mismatch", None, "hash_mismatch", None, None]
    assert rows[fine.url(1)]["sha256"] == hashlib.sha256(bodies[1]).hexdigest()
    assert download_shard(plan, _config(fine, verify_hash=False), store).num_out == 6


def test_an_unknown_host_is_looked_up_again_in_the_next_round_and_its_failure_may_pass(store: ShardStore) -> None:
    asked: list[str] = []

    def resolver(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        raise OSError(-2, "unknown")

    config = DownloadConfig(retry=RetryConfig(retries=2, base_s=0.01), image=SMALL_IMAGE)
    plan = _plan(store, ["http://a.example/1", "http://a.example/2", "http://b.example/"])
    report = download_shard(plan, config, store, resolver=resolver)
    assert (report.num_out, report.dropped, report.extra["transient_dns"]) == (0, {"transient": 3}, 3)
    assert Counter(asked) == {"a.example": 3, "b.example": 3}
    assert {row["attempts"] for row in _rows(store, report).values()} == {3}


def test_a_server_that_asks_for_too_long_a_wait_is_not_asked_again_in_this_run(store: ShardStore) -> None:
    site = Site(seed=6, num_urls=3, faults=FaultShares.only(throttled=1), metadata=QUIET, retry_after_s=3000)
    with serve(site) as running:
        report = download_shard(_site_plan(store, running), _config(running), store)
        assert running.num_requests() == {0: 1, 1: 1, 2: 1}
    assert report.extra["num_transient"] == 3


def test_an_empty_shard_is_done_at_once(store: ShardStore) -> None:
    plan = store.target("plan", "00000", "0" * 16).commit(table=PLAN.table([]), num_in=0, seconds=0)
    report = download_shard(plan, DownloadConfig(), store)
    assert (report.num_in, report.num_out, store.read_table(report).num_rows) == (0, 0, 0)


def test_an_error_that_nobody_expected_ends_the_shard_instead_of_losing_a_row(
    store: ShardStore, fine: RunningSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _site_plan(store, fine)
    before = _snapshot(tmp_path)

    def full(*_: object) -> int:
        raise DiskFullError("no room")

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    for name, replacement, error in (
        ("Spill.add", full, DiskFullError),
        ("clean_image", broken, ZeroDivisionError),
        ("Fetcher.fetch", broken, ZeroDivisionError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"tasks.download.rounds.{name}", replacement)
            with pytest.raises(error):
                download_shard(plan, _config(fine, threads=2), store)
        assert _snapshot(tmp_path) == before
    assert download_shard(plan, _config(fine), store).num_out == 12


def test_an_interrupted_shard_ends_soon_and_is_not_done(
    store: ShardStore, fine: RunningSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    fetched = fetch_downloader._Rows.open

    def slow_fetch(rows: Any, index: int) -> bytes:
        begun.set()
        threading.Event().wait(0.02)
        return fetched(rows, index)

    def interrupted(*_: object, **__: object) -> object:
        begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch_downloader._Rows, "open", slow_fetch)
    monkeypatch.setattr(fetch_downloader, "wait", interrupted)
    plan, config = _site_plan(store, fine), _config(fine, threads=1)
    asked = sum(fine.num_requests().values())
    with pytest.raises(KeyboardInterrupt):
        download_shard(plan, config, store)
    assert sum(fine.num_requests().values()) - asked < 12
    assert latest_download(plan, config, store) is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("iedit-download")]


def test_an_img2dataset_that_fetches_in_another_way_is_refused_before_it_fetches(
    store: ShardStore, fine: RunningSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloader = fetch_downloader.img2dataset()

    given: list[str] = []

    def download_image_in_future(row: tuple[int, str], *_: object) -> tuple[int, None, str]:
        given.append(row[1])
        return row[0], None, "fetched without urllib"

    monkeypatch.setattr(downloader, "download_image", download_image_in_future)
    asked = fine.num_requests()
    with pytest.raises(ShardError, match="img2dataset lost 12 rows"):
        download_shard(_site_plan(store, fine), _config(fine), store)
    assert len(given) == 12
    assert {url.partition("://")[0] for url in given} == {"iedit"}
    assert fine.num_requests() == asked


def test_no_fetch_but_ours_is_in_reach_of_the_method_that_runs(
    store: ShardStore, fine: RunningSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another library takes our handler away: img2dataset's own urlopen knows no other way to the URLs.
    monkeypatch.setattr(fetch_downloader, "RowHandler", urllib.request.BaseHandler)
    asked = fine.num_requests()
    with pytest.raises(ShardError, match="img2dataset lost 12 rows"):
        download_shard(_site_plan(store, fine), _config(fine), store)
    assert fine.num_requests() == asked


def test_other_users_of_urllib_and_of_img2dataset_fetch_as_ever(store: ShardStore, fine: RunningSite) -> None:
    download_image = fetch_downloader.img2dataset().download_image

    download_shard(_site_plan(store, fine), _config(fine), store)
    with urllib.request.urlopen(fine.url(0)) as response:  # noqa: S310 - of our own site
        assert response.read() == fine.site.image_bytes(0)
    key, stream, error = download_image((7, fine.url(1)), 5, None, None)
    assert (key, error) == (7, None)
    assert stream is not None
    assert stream.getvalue() == fine.site.image_bytes(1)
    with pytest.raises(URLError, match="no download called 0 runs"):
        urllib.request.urlopen("iedit://0/0")  # noqa: S310 - must lead nowhere


def test_img2dataset_is_loaded_by_nothing_but_a_download() -> None:
    names = {"img2dataset", "third_party.img2dataset", "wandb"}
    program = f"import sys, tasks.download.stage; sys.exit(len({names} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_img2dataset_itself_stays_as_it_was(store: ShardStore, fine: RunningSite) -> None:
    downloader = fetch_downloader.img2dataset()

    before = dict(vars(downloader))
    download_shard(_site_plan(store, fine), _config(fine, image=replace(SMALL_IMAGE, size_px=16)), store)
    assert dict(vars(downloader)) == before


def test_waits_double_up_to_the_cap_differ_by_sample_and_never_undercut_the_server() -> None:
    retry = RetryConfig(base_s=1, cap_s=5, jitter=0.5, max_retry_after_s=60)
    for tries, backoff in ((1, 1), (2, 2), (3, 4), (4, 5), (9, 5)):
        waits = [retry.wait_s(f"{number:020x}", tries=tries, retry_after_s=None) or 0 for number in range(50)]
        assert backoff <= min(waits) < max(waits) <= 1.5 * backoff
        assert len(set(waits)) == 50
    assert retry.wait_s("a", tries=1, retry_after_s=None) == retry.wait_s("a", tries=1, retry_after_s=None)
    assert 30 <= (retry.wait_s("a", tries=1, retry_after_s=30) or 0) <= 45
    assert retry.wait_s("a", tries=1, retry_after_s=61) is None


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((DownloadConfig, {"threads": 0}), (DownloadConfig, {"min_success_rate": 1.1})),
        *((DownloadConfig, {"floor_from_rows": -1}), (RetryConfig, {"retries": -1}), (RetryConfig, {"base_s": -1})),
        (RetryConfig, {"jitter": float("nan")}),
    ],
)
def test_a_download_config_out_of_range_names_its_field(kind: type, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        kind(**wrong)
