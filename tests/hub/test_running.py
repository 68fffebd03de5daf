"""Commands against a real server on a seeded hub."""

import pytest
from sqlmodel import col, select

from hub.__main__ import main
from hub.tables import Exemption, Rollout
from tests.hub.making import toml_in
from tests.hub.web import rolling
from tests.hub.web.seed import seed, serve


@pytest.fixture
def made(tmp_path):
    one = seed(tmp_path / "hub", images=12)
    yield one
    one.store.close()


@pytest.fixture
def ask(made, tmp_path):
    """Run a command of the running hub; its exit status."""
    server = serve(made)
    config = toml_in(tmp_path, web=int(server.url.rpartition(":")[2]))
    yield lambda *arguments: main([*arguments, "--config", str(config)])
    server.stop()


def state(made):
    with made.store.read() as session:
        last = session.exec(select(Rollout).order_by(col(Rollout.id).desc())).first()
        return last.stage, last.state, last.reason


def test_status_says_where_it_is_and_what_is_proven(made, ask, capsys):
    rolling.canary(made)
    assert ask("rollout") == 0
    said = capsys.readouterr().out
    assert "Draft > Shadow > [Canary] > (10 %) > (50 %) > (Everyone) > (Rolled out)" in said
    assert "212 frames judged by both; release 5 right on 1, release 4 on 1, neither on 0; 3 wait for a label" in said
    assert "next: Then 10 % of the cameras get it." in said


def test_an_operators_words_reach_the_rules(made, ask, capsys):
    rolling.shadow(made)
    assert ask("rollout", "pause") == 0
    assert state(made) == ("shadow", "held", "paused by an operator")
    assert ask("rollout", "pause") == 1
    assert "has no rollout that is under way" in capsys.readouterr().err
    assert ask("rollout", "resume") == 0
    assert ask("rollout", "promote") == 0
    assert state(made)[:2] == ("canary", "running")
    assert ask("rollout", "abort") == 1
    assert "--why TEXT" in capsys.readouterr().err
    assert state(made)[:2] == ("canary", "running")
    assert ask("rollout", "abort", "--why", "the line stands") == 0
    with made.store.read() as session:
        gone = session.exec(select(Rollout).where(Rollout.release == 5)).one()
    assert (gone.state, gone.reason) == ("reverted", "aborted by an operator: the line stands")
    assert state(made)[0] == "everyone"
    capsys.readouterr()
    assert ask("rollout", "status") == 0
    assert "Release 5 was taken back: aborted by an operator: the line stands." in capsys.readouterr().out


def test_an_exemption_is_made_and_ended(made, ask, capsys):
    assert ask("exempt", "line-1/top", "4", "--reason", "its lens is new", "--by", "Mira") == 0
    with made.store.read() as session:
        row = session.get(Exemption, "line-1/top")
    assert (row.release, row.reason, row.operator) == (4, "its lens is new", "Mira")
    assert ask("rollout") == 0
    assert "exempt: line-1/top runs release 4: its lens is new" in capsys.readouterr().out
    assert ask("exempt", "line-1/top", "--end") == 0
    with made.store.read() as session:
        assert session.get(Exemption, "line-1/top").release == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["line-1/top", "4"], "--reason TEXT"),
        (["line-1/top"], "needs a release, or --end"),
        (["line-1/top", "4", "--end"], "needs a release, or --end"),
        (["line-1/top", "9", "--reason", "x"], "release 9: does not exist"),
        (["line-9/top", "4", "--reason", "x"], "line-9/top: is not a camera of this project"),
        (["line-1/top", "--end"], "has no exemption"),
        (["line-1", "4", "--reason", "x"], "'line-1' is not a camera"),
    ],
)
def test_an_exemption_that_cannot_be_is_refused_in_words(made, ask, capsys, arguments, says):
    assert ask("exempt", *arguments) == 1
    assert says in capsys.readouterr().err
    with made.store.read() as session:
        assert session.exec(select(Exemption)).all() == []


def test_a_draft_says_how_it_is_started(made, ask, capsys):
    assert ask("release", "4", "--draft") == 0
    assert "release 5 is a draft: hone-hub rollout resume" in capsys.readouterr().out
    assert made.actions.released == [(4, "by hand", False)]
