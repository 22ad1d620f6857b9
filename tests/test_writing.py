"""Writing a model replaces a file whole or not at all, whoever else writes or ends meanwhile."""

import errno
import io
import os
import stat
import threading

import pytest

import rnn_gpu
from damage import SAVES, killed
from model_files import NETWORKS, REFERENCE, bits, fail, scramble
from rnn_gpu import Dense, Network, load


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def saved(path):
    network = NETWORKS["Dense"](**REFERENCE)
    network.save(path)
    return path


def test_saving_replaces_an_older_file(saved):
    newer = scramble(NETWORKS["deep"](**REFERENCE))
    newer.save(saved)
    assert bits(load(saved, device="reference")) == bits(newer)
    assert os.listdir(saved.parent) == [saved.name]


def test_what_is_open_stays_whole_while_it_is_replaced(saved):
    with open(saved, "rb") as file:
        first = file.read(50)
        NETWORKS["deep"](**REFERENCE).save(saved)
        rest = file.read()
    saved.write_bytes(first + rest)
    assert bits(load(saved, device="reference")) == bits(NETWORKS["Dense"](**REFERENCE))


class Full(io.FileIO):
    """A file on a disk that is full after ten bytes."""

    def write(self, data):
        super().write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")


FAULTS = {
    "the disk is full": ("os.fdopen", lambda handle, mode: Full(handle, mode), OSError),
    "the bytes do not reach the disk": (
        "os.fsync",
        fail(OSError(errno.EIO, "Input/output error")),
        OSError,
    ),
    "renaming fails": ("os.replace", fail(PermissionError("no")), PermissionError),
    "Ctrl-C before renaming": ("os.replace", fail(KeyboardInterrupt()), KeyboardInterrupt),
    "Ctrl-C in the middle": ("os.fsync", fail(KeyboardInterrupt()), KeyboardInterrupt),
}


@pytest.mark.parametrize(("name", "fault", "error"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("older", [True, False], ids=["over a file", "a new file"])
def test_what_goes_wrong_in_writing_changes_nothing(older, name, fault, error, path, monkeypatch):
    if older:
        NETWORKS["Dense"](**REFERENCE).save(path)
    before = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)}
    with monkeypatch.context() as patch:
        patch.setattr(name, fault)
        with pytest.raises(error):
            NETWORKS["deep"](**REFERENCE).save(path)
    assert {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)} == before
    NETWORKS["deep"](**REFERENCE).save(path)
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_that_is_not_there_is_pythons_own_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="not-there"):
        NETWORKS["LSTM"](**REFERENCE).save(tmp_path / "not-there" / "model")
    assert os.listdir(tmp_path) == []


posix = pytest.mark.skipif(os.name != "posix", reason="permission bits, links and locks of POSIX")


LSTM_OF = NETWORKS["LSTM"]


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


@posix
@pytest.mark.parametrize("umask", [0o027, 0o077, 0o002], ids=oct)
def test_others_may_read_a_new_file_as_far_as_umask_lets_them(umask, path, monkeypatch):
    before = os.umask(umask)
    with monkeypatch.context() as patch:
        patch.setattr("os.umask", fail(AssertionError("umask is of the whole process")))
        LSTM_OF(**REFERENCE).save(path)
    os.umask(before)
    assert permissions(path) == 0o666 & ~umask


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o777, 0o444], ids=oct)
def test_a_file_that_was_there_keeps_its_permissions(mode, saved, monkeypatch):
    saved.chmod(mode)
    seen, sync = [], os.fsync
    monkeypatch.setattr(
        "os.fsync",
        lambda handle: (seen.append(stat.S_IMODE(os.fstat(handle).st_mode)), sync(handle)),
    )
    LSTM_OF(**REFERENCE).save(saved)
    assert permissions(saved) == seen[0] == mode  # at no time it was more open


@posix
def test_a_link_stays_and_its_file_is_replaced(saved, tmp_path):
    (tmp_path / "models").mkdir()
    target, link = tmp_path / "models" / "target", tmp_path / "link"
    other = tmp_path / "models" / "other"
    saved.rename(target)
    other.symlink_to("target")
    link.symlink_to("models/other")
    newer = scramble(LSTM_OF(**REFERENCE))
    newer.save(link)
    assert link.is_symlink() and other.is_symlink() and not target.is_symlink()
    assert (
        bits(load(target, device="reference"))
        == bits(load(link, device="reference"))
        == bits(newer)
    )
    assert sorted(os.listdir(tmp_path)) == ["link", "models"] and sorted(
        os.listdir(tmp_path / "models")
    ) == ["other", "target"]


@posix
def test_a_link_to_nothing_makes_its_file(tmp_path):
    (tmp_path / "link").symlink_to("target")
    LSTM_OF(**REFERENCE).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    load(tmp_path / "target", device="reference")


@posix
def test_a_circle_of_links_is_an_error(path):
    path.symlink_to(path.name)
    for call in (lambda: LSTM_OF(**REFERENCE).save(path), lambda: load(path, device="reference")):
        with pytest.raises(OSError, match=path.name):
            call()
    assert path.is_symlink()


def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path):
    path = tmp_path / ("m" * 255)
    for _ in range(2):
        LSTM_OF(**REFERENCE).save(path)
    load(path, device="reference")
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "path",
    ["", ".", "a\0b", "\ud800"],
    ids=["nothing", "this folder", "a null byte", "half a character"],
)
def test_a_path_that_cannot_be_written_is_named(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((OSError, rnn_gpu.ArgumentError)) as caught:
        LSTM_OF(**REFERENCE).save(path)
    assert repr(path) in str(caught.value)
    assert os.listdir() == []


@posix
def test_what_is_no_file_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, error in (("folder", IsADirectoryError), ("pipe", FileExistsError)):
        with pytest.raises(error, match=name):
            LSTM_OF(**REFERENCE).save(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"] and stat.S_ISFIFO(
        (tmp_path / "pipe").stat().st_mode
    )


def test_the_error_of_a_full_disk_names_the_path(path, monkeypatch):
    monkeypatch.setattr("os.fdopen", lambda handle, mode: Full(handle, mode))
    with pytest.raises(OSError, match=path.name) as caught:
        LSTM_OF(**REFERENCE).save(path)
    assert caught.value.errno == errno.ENOSPC


@posix
def test_the_folder_is_synced_once_the_file_has_its_name(path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        "os.fsync",
        lambda handle: (done.append(stat.S_IFMT(os.fstat(handle).st_mode)), sync(handle)),
    )
    monkeypatch.setattr("os.replace", lambda *paths: (done.append("replaced"), replace(*paths)))
    LSTM_OF(**REFERENCE).save(path)
    assert done == [stat.S_IFREG, "replaced", stat.S_IFDIR]


def test_a_folder_that_cannot_be_opened_does_not_matter(path, monkeypatch):
    real = os.open

    def no_folders(name, *rest):
        if os.path.isdir(name):
            raise PermissionError(errno.EACCES, "Permission denied", name)
        return real(name, *rest)

    monkeypatch.setattr("os.open", no_folders)
    LSTM_OF(**REFERENCE).save(path)
    load(path, device="reference")


class NoLocks:
    """fcntl, on a file system that knows no locks."""

    LOCK_EX, LOCK_NB = 2, 4
    flock = fail(OSError(errno.ENOLCK, "No locks available"))


@posix
def test_what_killed_writers_left_is_removed_and_what_living_ones_write_stays(path):
    from rnn_gpu.bridges.io import replacing

    path.parent.joinpath(".rnn_gpu-0").write_bytes(b"of a writer that was killed")
    path.parent.joinpath(".rnn_gpu-2").write_bytes(b"of another")
    with replacing(path.parent / "one") as one:
        one.write(b"one")
        with replacing(path.parent / "two") as two, replacing(path.parent / "three") as three:
            two.write(b"two"), three.write(b"three")
            assert sorted(os.listdir(path.parent)) == [".rnn_gpu-0", ".rnn_gpu-1", ".rnn_gpu-2"]
            LSTM_OF(**REFERENCE).save(path)
    assert sorted(os.listdir(path.parent)) == sorted([path.name, "one", "two", "three"])
    assert [path.parent.joinpath(name).read_text() for name in ("one", "two", "three")] == [
        "one",
        "two",
        "three",
    ]


@posix
@pytest.mark.parametrize("locks", [None, NoLocks()], ids=["Windows", "a file system"])
def test_without_locks_nothing_is_taken_for_abandoned(locks, path, monkeypatch):
    monkeypatch.setattr("rnn_gpu.bridges.io.fcntl", locks)
    path.parent.joinpath(".rnn_gpu-0").write_bytes(b"")
    for _ in range(2):
        LSTM_OF(**REFERENCE).save(path)
    monkeypatch.setattr("os.fdopen", lambda handle, mode: Full(handle, mode))
    with pytest.raises(OSError, match="No space left"):
        LSTM_OF(**REFERENCE).save(path)
    load(path, device="reference")
    assert sorted(os.listdir(path.parent)) == [".rnn_gpu-0", path.name]


def test_many_threads_save_in_one_folder(tmp_path):
    networks = [scramble(Network([Dense(3, 2, seed=k, **REFERENCE)])) for k in range(4)]
    for k, network in enumerate(networks):
        network.parameters["0.V"][...] = k
    errors = []

    def saves(k):
        try:
            for i in range(25):
                networks[k].save(tmp_path / (f"own {k}" if i % 2 else "of all"))
                load(tmp_path / "of all", device="reference")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=saves, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(os.listdir(tmp_path)) == ["of all", *(f"own {k}" for k in range(4))]
    for k in range(4):
        assert (load(tmp_path / f"own {k}", device="reference").parameters["0.V"] == k).all()


@posix
def test_a_process_that_is_killed_while_it_saves_leaves_a_whole_file_and_one_other_at_most(
    tmp_path,
):
    for at in killed(SAVES, tmp_path, times=3):
        load(at, device="reference")
