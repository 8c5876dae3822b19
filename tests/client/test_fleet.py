"""Several clusters at the same time: each has its name and token, and none keeps the others waiting."""

from __future__ import annotations

import contextlib
import inspect
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from faultserver import ROW, Counted, FaultServer, any_json, good, http, serving
from interrupting import ctrl_c_at, hung_after

import allocframe as af
from allocframe.client import fleet as fleet_module
from allocframe.nomad import paging
from allocframe.tables import SNAPSHOT_TABLES
from allocframe.testing import assert_tables_equal

ROWS = "/v1/allocations"


@pytest.fixture(scope="module")
def other() -> Iterator[af.sim.Cluster]:
    with af.sim.Cluster("oom", allocations=40, seed=2) as cluster:
        yield cluster


@pytest.fixture
def fleet(cluster: af.sim.Cluster, other: af.sim.Cluster) -> Iterator[af.Fleet]:
    clients = {
        name: af.Client(each.address, token=each.token) for name, each in (("us", cluster), ("eu", other))
    }
    with af.Fleet(clients) as fleet:
        yield fleet


def drip(connection: socket.socket) -> None:
    """Send a blank every twentieth of a second, until the other side has had enough."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n["
    try:
        connection.sendall(head)
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)
    except OSError:
        pass


def test_each_row_says_which_cluster_it_is_of_and_nothing_else_changes(fleet: af.Fleet) -> None:
    with fleet.snapshot(namespace="*", resources=True) as snap:
        assert snap.info["complete"] is True
        for name, client in fleet.clients.items():
            with client.snapshot(namespace="*", resources=True) as alone:
                for table in SNAPSHOT_TABLES:
                    frame = getattr(snap, table)
                    mine = frame[frame["cluster"] == name].drop(columns="cluster").reset_index(drop=True)
                    assert_tables_equal(mine, getattr(alone, table), table)
                    assert_tables_equal(getattr(snap.clusters[name], table), getattr(alone, table), table)
        assert len(snap) == sum(len(part) for part in snap.clusters.values())
        assert snap.events.attrs["key"] == ["cluster", "alloc_id", "task", "seq"]


def test_it_takes_what_a_client_takes() -> None:
    mine, theirs = (inspect.signature(kind.snapshot).parameters for kind in (af.Fleet, af.Client))
    assert dict(mine) == dict(theirs)


def test_one_that_is_down_is_reported_and_the_others_come(
    cluster: af.sim.Cluster, other: af.sim.Cluster
) -> None:
    client = af.Client(cluster.address, token=cluster.token)
    with (
        af.Fleet({"here": client, "gone": "http://127.0.0.1:9", "locked": other.address}) as fleet,
        fleet.snapshot(namespace="*") as snap,
    ):
        clusters = snap.info["clusters"]
        assert len(snap) == clusters["here"]["allocations"] > 0
        assert clusters["gone"]["error"].startswith("ConnectionFailed: nothing answers at http://127.0.0.1:9")
        assert clusters["locked"]["error"].startswith("PermissionDenied")
        assert clusters["here"]["error"] is None
        assert clusters["here"]["complete"] is True
        assert snap.info["complete"] is False
        assert "NOT complete" in repr(snap)
        assert "gone is missing: ConnectionFailed" in repr(snap)
        assert "gone is missing" in snap._repr_html_()
        missing = {finding.subject["cluster"] for finding in af.findings(snap) if finding.code == "AF102"}
        assert missing == {"gone", "locked"}


def test_where_none_can_be_had_it_is_an_error_that_names_each() -> None:
    why = r"eu: ConnectionFailed.*us: ConnectionFailed"
    with (
        af.Fleet({"eu": "http://127.0.0.1:9", "us": "http://127.0.0.1:19"}) as fleet,
        pytest.raises(af.AllocframeError, match=why),
    ):
        fleet.snapshot()


def test_a_parameter_that_cannot_be_used_is_refused_before_anything_is_sent() -> None:
    with serving(good()) as server, af.Fleet({"a": server.address, "b": "http://127.0.0.1:9"}) as fleet:
        with pytest.raises(af.ConfigError, match="even number of digits"):
            fleet.snapshot(prefix="abc")
        with pytest.raises(af.ConfigError, match="workers must be"):
            fleet.snapshot(workers="4")  # type: ignore[arg-type]
        assert server.requests == []


def tokens(server: FaultServer) -> set[str]:
    lines = [line for raw in server.raw for line in raw.decode().lower().split("\r\n")]
    return {line for line in lines if line.startswith(("x-nomad-token", "authorization"))}


def test_the_token_of_one_cluster_never_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(good()) as first, serving(good()) as second, serving(good()) as third:
        monkeypatch.setenv("NOMAD_ADDR", first.address)
        monkeypatch.setenv("NOMAD_TOKEN", "token-of-one")
        monkeypatch.setenv("NOMAD_HTTP_AUTH", "me:password")
        with (
            af.Fleet({"one": af.Client(), "two": second.address, "three": third.address}) as fleet,
            fleet.snapshot() as snap,
        ):
            assert len(snap) == 3
        assert any("token-of-one" in line for line in tokens(first))
        assert tokens(second) == tokens(third) == set()


def test_each_cluster_of_a_file_gets_its_own_token_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(good()) as first, serving(good()) as second, serving(good()) as third:
        monkeypatch.setenv("NOMAD_TOKEN", "token-of-none")
        monkeypatch.setenv("NOMAD_HTTP_AUTH", "me:password")
        monkeypatch.setenv("TOKEN_ONE", "token-of-one")
        (tmp_path / "two.token").write_text("token-of-two\n")
        file = tmp_path / "clusters.toml"
        file.write_text(
            f'[one]\naddress = "{first.address}"\ntoken_env = "TOKEN_ONE"\n'
            f'[two]\naddress = "{second.address}"\ntoken_file = "two.token"\nregion = "far"\n'
            f'[three]\naddress = "{third.address}"\nnamespace = "*"\n'
        )
        with af.Fleet.from_file(file) as fleet, fleet.snapshot() as snap:
            assert snap.info["complete"] is True
            assert "token-of" not in f"{vars(fleet)} {snap.info} {fleet.clients['one']._session.config}"
        assert tokens(first) == {"x-nomad-token: token-of-one"}
        assert tokens(second) == {"x-nomad-token: token-of-two"}
        assert tokens(third) == set()
        assert all("region=far" in request for request in second.requests)
        assert all("namespace=%2A" in request or "namespace=*" in request for request in third.requests)


def test_one_that_takes_too_long_is_given_up_and_can_be_asked_again(cluster: af.sim.Cluster) -> None:
    client = af.Client(cluster.address, token=cluster.token)
    with (
        serving(drip, drip, good()) as slow,
        af.Fleet({"slow": slow.address, "here": client}, timeout=5.0) as fleet,
    ):
        began = time.monotonic()
        with fleet.snapshot(namespace="*") as snap:
            assert time.monotonic() - began < 60
            assert snap.info["clusters"]["slow"]["error"] == "not complete after 5 s (timeout=)"
            assert len(snap) == snap.info["clusters"]["here"]["allocations"] > 0
        slow.answers = [good()]
        with fleet.snapshot(namespace="*") as snap:
            assert snap.info["complete"] is True
            assert len(snap.clusters["slow"]) == 1
    ended = time.monotonic() + 60
    while left := [each for each in threading.enumerate() if each.name.startswith("allocframe")]:
        assert time.monotonic() < ended, left
        time.sleep(0.02)


def test_an_interrupt_ends_every_fetch_and_leaves_the_fleet_usable(cluster: af.sim.Cluster) -> None:
    client = af.Client(cluster.address, token=cluster.token)

    def interrupt(done: int, estimate: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with serving(drip) as slow, af.Fleet({"slow": slow.address, "here": client}) as fleet:
        with pytest.raises(KeyboardInterrupt):
            fleet.snapshot(namespace="*", progress=interrupt)
        slow.answers = [good()]
        with fleet.snapshot(namespace="*") as snap:
            assert snap.info["complete"] is True


def test_progress_is_of_all_clusters_together(fleet: af.Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[int, int | None]] = []
    with fleet.snapshot(
        namespace="*", progress=lambda done, estimate: calls.append((done, estimate))
    ) as snap:
        assert calls[-1] == (len(snap), len(snap))
    fleet.snapshot(namespace="*", progress=True).close()
    assert "(2 of 2 clusters)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("clusters", "names"),
    [
        (
            ["https://nomad.eu.example:4646", "https://nomad.us.example:4646"],
            ["nomad.eu.example", "nomad.us.example"],
        ),
        (["http://127.0.0.1:4646", "http://127.0.0.1:5646"], ["127.0.0.1:4646", "127.0.0.1:5646"]),
        ([af.Client("http://127.0.0.1:1", region=name) for name in ("eu", "us")], ["eu", "us"]),
    ],
)  # fmt: skip
def test_clusters_of_a_list_are_called_by_their_regions_or_else_hosts(
    clusters: Any, names: list[str]
) -> None:
    with af.Fleet(clusters) as fleet:
        assert list(fleet.clients) == names


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        ([], "at least one"),
        ("http://127.0.0.1:9", "several"),
        ({"../up": "http://127.0.0.1:9"}, "letters, digits"),
        ({"": "http://127.0.0.1:9"}, "letters, digits"),
        ({1: "http://127.0.0.1:9"}, "letters, digits"),
        (["http://127.0.0.1:9", "http://127.0.0.1:9"], "Give each cluster a name"),
        (["unix:///a.sock", "unix:///b.sock"], "Give each cluster a name"),
        ({"a": "http://127.0.0.1:9", "b": "http://127.0.0.1:9/"}, "a and b are the same cluster"),
        ({"a": "ftp://127.0.0.1"}, "address"),
        ({"a": None}, "a Client or an address, got None"),
        ([" "], "a Client or an address"),
    ],
)
def test_clusters_that_cannot_be_used_are_refused(clusters: Any, message: str) -> None:
    with pytest.raises(af.ConfigError, match=message):
        af.Fleet(clusters)


@pytest.mark.parametrize("timeout", [0, -1, True, float("inf"), "1"])
def test_the_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(af.ConfigError, match="timeout must be a number of seconds"):
        af.Fleet(["http://127.0.0.1:9"], timeout=timeout)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one cluster"),
        ("[eu", "cannot read the clusters file"),
        ('address = "http://a"', "must be inside a cluster's table"),
        ("[eu]\n", r"\[eu\]: the address is missing"),
        ('[eu]\naddress = "nomad:4646"', r"\[eu\]: the address .* got 'nomad:4646'"),
        (
            '[eu]\naddress = "http://a"\ntoken = "secret-text"',
            r"\[eu\]: a token must not be in this file",
        ),
        ('[eu]\naddress = "http://a"\ntoken_env = "UNSET"', "must name a variable that is set, got UNSET"),
        ('[eu]\naddress = "http://a"\ntoken_file = "no"', "cannot read token_file"),
        ('[eu]\naddress = "http://a"\ntoken_file = "empty"', "empty is empty"),
        ('[eu]\naddress = "http://a"\ntoken_env = "A"\ntoken_file = "b"', "must not be combined"),
        ('[eu]\naddress = "http://a"\nadress = "b"', "unknown setting 'adress'. Known settings: address"),
        ("[eu]\naddress = 1", "address must be a string"),
        ('[eu]\naddress = "http://a"\nverify = "no"', "verify must be true or false"),
        ('[eu]\naddress = "https://a"\nca_cert = "no.pem"', "must be an existing path"),
        ('["e/u"]\naddress = "https://a"', "letters, digits"),
    ],
)
def test_a_file_of_clusters_that_cannot_be_used_says_what_is_wrong_where(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "empty").write_text("\n")
    file = tmp_path / "clusters.toml"
    file.write_text(text)
    with pytest.raises(af.ConfigError, match=message) as caught:
        af.Fleet.from_file(file)
    assert "secret-text" not in str(caught.value)


def test_a_file_of_clusters_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(af.ConfigError, match="cannot read the clusters file"):
        af.Fleet.from_file(tmp_path / "none.toml")


def test_the_regions_of_a_federation_are_found_and_fetched_through_one_address(other: af.sim.Cluster) -> None:
    with af.sim.Cluster("calm", allocations=20, seed=1) as home:
        home.federate(eu=other)
        with (
            af.Client(home.address, token=home.token) as client,
            af.Fleet.regions(client) as fleet,
            fleet.snapshot(namespace="*") as snap,
        ):
            assert repr(fleet) == "Fleet(eu, global)"
            assert {name: len(part) for name, part in snap.clusters.items()} == {
                "eu": len(other.state.allocs), "global": len(home.state.allocs)
            }  # fmt: skip
            assert snap.info["clusters"]["eu"]["region"] == "eu"


def test_a_region_that_cannot_be_reached_is_reported() -> None:
    with af.sim.Cluster("calm", allocations=20, seed=1) as home:
        with af.sim.Cluster("calm", allocations=20, seed=2) as gone:
            home.federate(eu=gone)
        with (
            af.Client(home.address, token=home.token) as client,
            af.Fleet.regions(client) as fleet,
            fleet.snapshot(namespace="*") as snap,
        ):
            assert "No path to region" in snap.info["clusters"]["eu"]["error"]
            assert snap.info["clusters"]["global"]["error"] is None


def test_regions_of_one_address_share_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "MAX_CONNECTIONS_PER_ADDRESS", 2)
    monkeypatch.setattr(paging, "SHARDS", paging.SHARDS[:20])
    counted = Counted(good(X_Nomad_NextToken="5457f16d-0f87-8e6b-5e91-0c7da3a41eb8"), seconds=0.002)
    with serving(counted, keep_alive=True) as server:
        regions = {name: af.Client(server.address, region=name) for name in ("eu", "us")}
        with af.Fleet(regions) as fleet, fleet.snapshot() as snap:
            assert {len(part) for part in snap.clusters.values()} == {1}
        assert len(server.requests) > 2 * 20
    assert counted.most == 2


def test_a_server_that_answers_nonsense_is_one_that_failed(cluster: af.sim.Cluster) -> None:
    client = af.Client(cluster.address, token=cluster.token)
    login = http(b"<html>log in</html>", length=19, kind="text/html")
    with (
        serving(login) as odd,
        af.Fleet({"odd": odd.address, "here": client}) as fleet,
        fleet.snapshot(namespace="*") as snap,
    ):
        assert snap.info["clusters"]["odd"]["error"].startswith("NotNomad")


# Saved, narrowed, asked


@pytest.fixture(scope="module")
def both(cluster: af.sim.Cluster, other: af.sim.Cluster) -> Iterator[af.MultiSnapshot]:
    clients = {"us": af.Client(cluster.address, token=cluster.token), "gone": "http://127.0.0.1:9"}
    with (
        af.Fleet({**clients, "eu": af.Client(other.address, token=other.token)}) as fleet,
        fleet.snapshot(namespace="*") as snap,
    ):
        yield snap


def test_what_is_saved_is_the_evidence_of_every_cluster(both: af.MultiSnapshot, tmp_path: Path) -> None:
    with af.load(both.save(tmp_path / "fleet.allocframe")) as back:
        assert isinstance(back, af.MultiSnapshot)
        for table in SNAPSHOT_TABLES:
            pd.testing.assert_frame_equal(getattr(back, table), getattr(both, table))
        assert back.info["clusters"]["gone"] == both.info["clusters"]["gone"]
        assert back.info["complete"] is False
        assert [page.kind for page in back.clusters["eu"]._capture.pages] == ["list"]


def test_a_narrowed_one_is_saved_with_its_filter(both: af.MultiSnapshot, tmp_path: Path) -> None:
    some = both.filter(cluster="us").filter(client_status=["failed", "lost"])
    with af.load(some.save(tmp_path / "fleet.allocframe")) as back:
        assert len(back) == len(some) > 0
        assert set(back.events["cluster"]) == {"us"}
        assert list(back.clusters) == ["us"]
        assert len(back.clusters["us"]) == len(some)


def test_what_nobody_meets_leaves_every_cluster_without_rows(both: af.MultiSnapshot) -> None:
    none = both.filter(cluster="mars")
    assert len(none) == 0
    assert {name: len(part) for name, part in none.clusters.items()} == {"eu": 0, "us": 0}
    assert af.stats.restarts(none, by="job_id").empty


def test_a_column_that_is_not_there_is_refused(both: af.MultiSnapshot) -> None:
    with pytest.raises(ValueError, match=r"no column 'clusters'; it has: .*cluster"):
        both.filter(clusters="us")


def test_sql_joins_within_and_across_clusters(both: af.MultiSnapshot) -> None:
    counted = both.sql("SELECT cluster, count(*) AS n FROM events GROUP BY ALL ORDER BY 1")
    assert dict(counted.to_numpy()) == both.events["cluster"].value_counts().to_dict()


def test_parquet_and_csv_have_the_cluster_first(both: af.MultiSnapshot, tmp_path: Path) -> None:
    frame = pd.read_parquet(both.to_parquet(tmp_path / "fleet.parquet") / "events.parquet")
    assert frame.columns[0] == "cluster"
    assert len(frame) == len(both.events)
    assert (
        (both.to_csv(tmp_path / "fleet.csv") / "allocations.csv").read_text().startswith("cluster,alloc_id")
    )


def test_snapshots_of_archives_can_be_put_together(archive: af.Archive) -> None:
    with af.combine({"eu": archive.snapshot(), "us": archive.snapshot()}) as two:
        assert len(two) == 2 * len(archive.snapshot())
        assert {about["source"] for about in two.info["clusters"].values()} == {"archive"}


def test_what_cannot_be_put_together_is_refused(both: af.MultiSnapshot) -> None:
    for wrong, message in (({}, "at least one"), ({"a": both}, "one cluster"), ({"a": 1}, "one cluster")):
        with pytest.raises(af.ConfigError, match=message):
            af.combine(wrong)


@pytest.mark.parametrize("change", ["name", "nested", "facts", "failures"])
def test_a_file_that_was_tampered_with_is_a_clear_error(
    both: af.MultiSnapshot, tmp_path: Path, change: str
) -> None:
    import json
    import zipfile

    good_file = both.save(tmp_path / "fleet.allocframe")
    bad_file = tmp_path / "bad.allocframe"
    with zipfile.ZipFile(good_file) as old, zipfile.ZipFile(bad_file, "w") as new:
        for name in old.namelist():
            body = old.read(name)
            if name == "manifest.json":
                manifest = json.loads(body)
                if change == "name":
                    manifest["pages"][0]["path"] = "../../etc"
                elif change == "nested":
                    manifest["pages"][0]["kind"] = "list"
                elif change == "failures":
                    manifest["info"]["failed"] = ["gone"]
                else:
                    del manifest["info"]["failed"]
                body = json.dumps(manifest).encode()
            new.writestr(name, body)
    with pytest.raises(af.DecodeError, match=r"several clusters|mixes clusters|more than"):
        af.load(bad_file)


def test_one_cluster_is_not_asked_for_the_usage_of_several(both: af.MultiSnapshot, client: af.Client) -> None:
    with pytest.raises(af.ConfigError, match="must be of one cluster, got a snapshot of several"):
        client.usage(both)
    assert len(client.usage(both.clusters["us"]).samples)


def test_what_is_of_one_cluster_takes_no_snapshot_of_several(both: af.MultiSnapshot, tmp_path: Path) -> None:
    single = both.clusters["us"]
    for before, after in ((single, both), (both, single)):
        with pytest.raises(af.ConfigError, match="must compare snapshots of one cluster"):
            before.diff(after)
    with pytest.raises(ValueError, match="an archive holds one cluster"):
        af.Archive(tmp_path / "archive").append(both)


def test_each_cluster_goes_on_from_a_folder_of_its_own(fleet: af.Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "walk"
    clients = {**fleet.clients, "gone": af.Client("http://127.0.0.1:9")}
    with af.Fleet(clients) as more, more.snapshot(namespace="*", resume=folder) as snap:
        assert {"eu", "us"} <= {path.name for path in folder.iterdir()}
        assert len(snap) > 0
    assert not (folder / "eu").exists(), "what is done needs no folder"


# Python drops what is raised in its own finalizers, such as those of weak sets of threads
@pytest.mark.filterwarnings("ignore:Exception ignored in.*WeakSet:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(120)
def test_ctrl_c_at_any_instant_ends_a_fetch_of_several_clusters_and_leaves_the_clients_usable() -> None:
    moment = 1
    with (
        serving(any_json([dict(ROW)])) as server,
        serving(any_json([dict(ROW)])) as other,
        af.Fleet({"a": server.address, "b": other.address}) as fleet,
    ):
        fleet.snapshot().close()  # imports what it needs, which is no part of it later
        while True:
            with hung_after(5) as late, contextlib.suppress(KeyboardInterrupt), ctrl_c_at(moment) as seen:
                fleet.snapshot().close()
                if seen() >= moment:
                    time.sleep(0.2)  # in a finalizer: it is raised when that is over
            assert not late, moment
            if seen() < moment:
                break
            moment += 401
            fleet.snapshot().close()
    assert moment > 5 * 401


def test_a_report_is_of_one_cluster(both: af.MultiSnapshot, tmp_path: Path) -> None:
    for call in (
        lambda: af.report(both, "cluster", output=tmp_path / "x.html"),
        lambda: af.postmortem(both),
        lambda: af.cluster_summary(both),
        lambda: af.trends(both),
    ):
        with pytest.raises(af.ConfigError, match=r"covers one cluster, got a snapshot of 2 \(eu, us\)"):
            call()
    assert "failures" in str(af.cluster_summary(both.clusters["us"]))
    assert [part.cluster for part in af.data_quality(both).coverage] == ["eu", "us"], "it tells them apart"
