"""Keys: the file that `manta keys` writes, and a running gateway that follows it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from manta.cli import main
from manta.errors import InputError
from serving.door import keys
from tests.serving.fake_engine import CHAT, FakeEngine, bearer, hashed, is_openai_error, served, talk


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "keys.jsonl")


class TestFile:
    def test_it_holds_a_hash_for_its_owner_only_and_never_the_key(self, file):
        made, secret = keys.create(file, "alice", ["tiny"], 5, 1000, 30)
        other, another = keys.create(file, "bob")
        text = Path(file).read_text()
        assert [json.loads(line)["name"] for line in text.splitlines()] == ["alice", "bob"]
        assert secret not in text and another not in text and secret.removeprefix("sk-manta-") not in text
        assert len(secret) > 43 and secret != another
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
        assert keys.read(file) == (made, other)
        assert made.expires - made.created == timedelta(days=30)
        assert made.hash == hashed(secret)[0]

    def test_a_revoked_key_is_gone_and_the_others_stay(self, file):
        made, _ = keys.create(file, "alice")
        other, _ = keys.create(file, "bob")
        assert keys.revoke(file, made.id) == made
        assert keys.read(file) == (other,)
        with pytest.raises(InputError, match=rf"holds no key '{made.id}'.*{other.id} \(bob\)"):
            keys.revoke(file, made.id)

    def test_a_link_to_the_file_stays_one(self, file, tmp_path):
        keys.create(file, "alice")
        (tmp_path / "link").symlink_to(file)
        keys.create(str(tmp_path / "link"), "bob")
        assert (tmp_path / "link").is_symlink()
        assert [key.name for key in keys.read(file)] == ["alice", "bob"]

    def test_it_may_lie_in_a_store(self):
        place = "memory://keys/all.jsonl"
        made, _ = keys.create(place, "alice")
        assert keys.read(place) == (made,)
        keys.revoke(place, made.id)
        assert keys.read(place) == ()

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("sk-a-plain-secret-key-0123456789", "line 1 is not a JSON object: a plain key is not taken.*manta keys create"),
            ('{"key": "sk-a-plain-secret"}', "line 1"),
            ('{"broken', "line 1"),
            ("[1]", "line 1"),
        ],
    )  # fmt: skip
    def test_what_is_no_entry_is_refused_with_the_remedy_and_without_showing_it(self, file, line, said):
        Path(file).write_text(line + "\n")
        with pytest.raises(InputError, match=said) as caught:
            keys.read(file)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("hash", "abc"), ("id", "../x"), ("models", "tiny"), ("requests_per_minute", 0), ("expires", "tomorrow"), ("x", 1)],
    )  # fmt: skip
    def test_a_wrong_field_is_named(self, file, field, value):
        keys.create(file, "alice")
        Path(file).write_text(json.dumps({**json.loads(Path(file).read_text()), field: value}))
        with pytest.raises(InputError, match=f"line 1: {field}"):
            keys.read(file)

    def test_one_key_twice_is_refused(self, file):
        keys.create(file, "alice")
        Path(file).write_text(Path(file).read_text() * 2)
        with pytest.raises(InputError, match="line 2 repeats"):
            keys.read(file)

    def test_a_missing_file_is_refused_with_the_remedy(self, file):
        with pytest.raises(InputError, match="manta keys create --file"):
            keys.read(file)


class TestCommand:
    def test_create_list_revoke(self, file, capsys):
        words = ["--file", file, "--name", "alice", "--model", "a", "b", "--tokens-per-minute", "9", "--days", "2"]
        assert main(["keys", "create", *words]) == 0
        told = capsys.readouterr()
        secret = told.out.strip()
        [made] = keys.read(file)
        assert made.hash == keys.digest(secret) and made.models == ("a", "b") and made.tokens_per_minute == 9
        assert secret not in told.err
        assert main(["keys", "list", "--file", file]) == 0
        listed = capsys.readouterr().out
        assert made.id in listed and "alice" in listed and made.hash not in listed
        assert main(["keys", "list", "--file", file, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["models"] == ["a", "b"]
        assert main(["keys", "revoke", "--file", file, made.id, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["id"] == made.id
        assert keys.read(file) == ()

    @pytest.mark.parametrize(
        ("words", "said"), [(["--days", "0"], "--days 0"), (["--requests-per-minute", "0"], "--requests-per-minute 0")]
    )
    def test_a_wrong_limit_is_named_and_nothing_written(self, file, capsys, words, said):
        assert main(["keys", "create", "--file", file, "--name", "a", *words]) == 2
        assert said in capsys.readouterr().err
        assert not Path(file).exists()

    def test_expired_keys_are_marked(self, file):
        made, _ = keys.create(file, "alice", days=1)
        assert "(expired)" in keys.table([made], made.expires)
        assert "(expired)" not in keys.table([made], made.created)


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time of a gateway, which stands still until a test goes on; a busy machine may take its time to read a file."""
    monkeypatch.setattr(keys, "PATIENCE_SECONDS", 60.0)
    return [100.0]


class TestRing:
    def test_what_the_file_says_counts_without_a_restart(self, file, now):
        """Within two seconds: the clock goes on by 1.1, and one request has the file looked at."""
        first, secret = keys.create(file, "alice")

        async def story(client):
            seen = [(await client.post(CHAT, json={}, headers=bearer(secret))).status_code]
            keys.revoke(file, first.id)
            _, added = keys.create(file, "bob")
            seen.append((await client.post(CHAT, json={}, headers=bearer(secret))).status_code)  # not looked at yet
            now[0] += 1.1
            seen += [(await client.post(CHAT, json={}, headers=bearer(key))).status_code for key in (secret, added)]
            return seen

        assert talk(FakeEngine(), story, lambda: now[0], keys_file=file) == [200, 200, 401, 200]

    def test_a_file_in_a_store_is_followed_too(self, now):
        place = "memory://followed/keys.jsonl"
        first, secret = keys.create(place, "alice")

        async def story(client):
            before = (await client.post(CHAT, json={}, headers=bearer(secret))).status_code
            keys.revoke(place, first.id)
            now[0] += 1.1
            return before, (await client.post(CHAT, json={}, headers=bearer(secret))).status_code

        assert talk(FakeEngine(), story, lambda: now[0], keys_file=place) == (200, 401)

    def test_a_key_ends_when_it_expires(self, file):
        made, secret = keys.create(file, "alice", days=1)
        moment = [made.created]

        async def play():
            ring = keys.Ring(file, now=lambda: moment[0])
            before = await ring.identify(f"Bearer {secret}")
            moment[0] = made.expires
            return before, await ring.identify(f"Bearer {secret}")

        assert asyncio.run(play()) == (made, None)

    def test_a_damaged_file_leaves_what_was_known_for_a_minute_and_then_lets_nobody_in(self, file, caplog, now):
        _, secret = keys.create(file, "alice")
        good = Path(file).read_text()

        async def story(client):
            seen = []

            async def after(seconds):
                now[0] += seconds
                seen.append(await client.post(CHAT, json={}, headers=bearer(secret)))

            Path(file).write_text("sk-a-plain-secret-key-0123456789\n")
            await after(1.1)
            await after(58)
            await after(2)
            Path(file).write_text(good)
            await after(1.1)
            return seen

        seen = talk(FakeEngine(), story, lambda: now[0], keys_file=file)
        assert [answer.status_code for answer in seen] == [200, 200, 503, 200]
        assert is_openai_error(seen[2]) and seen[2].headers["retry-after"]
        assert "cannot be read again" in caplog.text and "secret-key" not in caplog.text

    def test_a_store_that_hangs_does_not_hold_up_requests(self, file, now, monkeypatch):
        _, secret = keys.create(file, "alice")
        started = []

        async def hang(call):
            started.append(call)
            await asyncio.Event().wait()

        async def story(client):
            now[0] += 2
            return [(await client.post(CHAT, json={}, headers=bearer(secret))).status_code for _ in range(3)]

        monkeypatch.setattr(keys, "PATIENCE_SECONDS", 0.01)
        monkeypatch.setattr(asyncio, "to_thread", hang)
        assert talk(FakeEngine(), story, lambda: now[0], keys_file=file) == [200, 200, 200]
        assert len(started) == 1

    def test_a_gateway_without_its_file_does_not_start(self, file):
        with pytest.raises(InputError, match="cannot be read"):
            keys.Ring(file)

    def test_own_keys_and_the_files_are_both_good(self, file):
        made, secret = keys.create(file, "alice")

        async def play():
            ring = keys.Ring(file, hashed("own" * 9))
            return [await ring.identify(f"Bearer {key}") for key in ("own" * 9, secret, "else" * 9)]

        own, of_file, nobody = asyncio.run(play())
        assert (own.id, of_file, nobody) == (hashed("own" * 9)[0][:12], made, None)

    def test_without_keys_anybody_is_anonymous(self):
        assert asyncio.run(keys.Ring(None).identify(None)) == keys.ANONYMOUS


class TestScope:
    @pytest.fixture
    def scoped(self, file) -> dict[str, str]:
        return bearer(keys.create(file, "alice", ["other"])[1])

    def test_a_key_asks_only_its_models_and_does_not_learn_of_others(self, file, scoped):
        engine = FakeEngine()

        async def story(client):
            bodies = [{"model": "tiny"}, {}, {"model": None}, {"model": "nobody's"}]
            return [await client.post(CHAT, json=body, headers=scoped) for body in bodies]

        for answer in talk(engine, story, keys_file=file):
            assert answer.status_code == 404
            assert is_openai_error(answer) and answer.json()["error"]["code"] == "model_not_found"
        assert engine.seen == []

    def test_it_asks_those_and_sees_no_others_listed(self, file):
        good = bearer(keys.create(file, "bob", ["tiny"])[1])

        async def story(client):
            listed = await client.get("/v1/models", headers=good)
            asked = await client.post(CHAT, json={"model": "tiny"}, headers=good)
            return [model["id"] for model in listed.json()["data"]], asked.status_code

        two = (served(), served(name="other"))
        assert talk(FakeEngine(), story, keys_file=file, served=two) == (["tiny"], 200)

    def test_it_does_not_read_what_metrics_tell_of_others(self, file, scoped):
        answer = talk(FakeEngine(), lambda client: client.get("/metrics", headers=scoped), keys_file=file)
        assert answer.status_code == 403
        assert is_openai_error(answer)

    def test_the_last_of_two_models_counts_for_gateway_and_engine_alike(self, file, scoped):
        body = b'{"model": "other", "model": "tiny"}'
        answer = talk(FakeEngine(), lambda client: client.post(CHAT, content=body, headers=scoped), keys_file=file)
        assert answer.status_code == 404


def test_now_is_in_utc(file):
    made, _ = keys.create(file, "alice")
    assert abs((datetime.now(UTC) - made.created).total_seconds()) < 60
