"""The private broker's pieces: its files are private, and what is missing or taken is said by name."""

import pytest

from hub import broker
from shared.errors import BrokerError, PortInUseError
from tests.hub.making import occupied


def test_a_port_in_use_is_named():
    with occupied() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"127.0.0.1:{port}.*Choose another port"):
            broker.check_port_free("127.0.0.1", port)
    broker.check_port_free("127.0.0.1", port)


def test_a_free_port_is_free():
    broker.check_port_free("127.0.0.1", broker.free_port())


def test_a_missing_program_names_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(broker.shutil, "which", lambda *_a, **_k: None)
    for ask in (
        lambda: broker.command(tmp_path / "mosquitto.conf"),
        lambda: broker.write_configuration(tmp_path, port=1, passwords={"hub": "x"}),
    ):
        with pytest.raises(BrokerError, match="apt-get install mosquitto"):
            ask()


def test_the_program_is_found_where_sbin_is_not_on_the_path(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert broker.find_program("mosquitto").endswith("/mosquitto")


def test_a_broker_that_does_not_come_is_an_error():
    with pytest.raises(BrokerError, match="did not start"):
        broker.wait_ready(broker.free_port(), seconds=0.1)


def test_the_configuration_keeps_its_secrets(tmp_path):
    passwords = broker.new_passwords(["hub", "site/cam-1"])
    path = broker.write_configuration(tmp_path, port=4711, passwords=passwords, host="127.0.0.1")
    assert len(set(passwords.values())) == 2
    text = path.read_text()
    assert "4711" in text
    assert not [line for line in text.splitlines() if "$" in line and not line.startswith("#")]
    assert (tmp_path / "clear" / "site__cam-1").read_text().strip() == passwords["site/cam-1"]
    hashed = (tmp_path / "passwords").read_text()
    assert "site/cam-1:$" in hashed
    assert not any(one in hashed + text for one in passwords.values())
    for one in ("passwords", "acl", "clear/hub", "clear/site__cam-1"):
        assert (tmp_path / one).stat().st_mode & 0o077 == 0, one
    assert (tmp_path / "clear").stat().st_mode & 0o077 == 0


def test_writing_again_makes_the_new_passwords_hold(tmp_path):
    first = broker.new_passwords(["hub"])
    broker.write_configuration(tmp_path, port=1, passwords=first)
    before = (tmp_path / "passwords").read_text()
    broker.write_configuration(tmp_path, port=1, passwords=broker.new_passwords(["hub"]))
    assert (tmp_path / "passwords").read_text() != before
    assert (tmp_path / "clear" / "hub").read_text().strip() != first["hub"]
