"""World: what the launchers' variables say, and which worlds there are."""

import dataclasses

import pytest

from gmeta_tf.distributed.world import World


def test_one_process_alone():
    world = World()
    assert world == World(0, 1, 0, 1)
    assert (world.rank, world.size, world.local_rank, world.local_size) == (0, 1, 0, 1)
    assert world.is_chief
    assert not world.is_distributed


@pytest.mark.parametrize("rank", [0, 1, 21])
def test_only_rank_0_is_the_chief(rank):
    world = World(rank=rank, size=22)
    assert world.is_chief == (rank == 0)
    assert world.is_distributed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 2, "size": 2}, r"0 <= rank < its size, got rank=2 of 2"),
        ({"rank": -1, "size": 2}, r"0 <= rank < its size, got rank=-1 of 2"),
        ({"size": 0}, r"0 <= rank < its size, got rank=0 of 0"),
        ({"size": 4, "local_rank": 1}, r"0 <= local_rank < its size, got local_rank=1 of 1"),
    ],
)
def test_a_rank_outside_its_size(values, message):
    with pytest.raises(ValueError, match=message):
        World(**values)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, World()),
        ({"PATH": "/bin", "RANK": "3", "WORLD_SIZE": "4"}, World()),
        ({"HOROVOD_RANK": "3"}, World()),
        (
            {
                "HOROVOD_RANK": "5",
                "HOROVOD_SIZE": "8",
                "HOROVOD_LOCAL_RANK": "1",
                "HOROVOD_LOCAL_SIZE": "4",
            },
            World(5, 8, 1, 4),
        ),
        (
            {
                "OMPI_COMM_WORLD_RANK": "5",
                "OMPI_COMM_WORLD_SIZE": "8",
                "OMPI_COMM_WORLD_LOCAL_RANK": "2",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "3",
            },
            World(5, 8, 2, 3),
        ),
        (
            {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
            World(5, 8, 1, 2),
        ),
        # Slurm's PMI tells no local rank; with a local rank alone, the size must still fit it.
        ({"PMI_RANK": "5", "PMI_SIZE": "8"}, World(5, 8, 0, 1)),
        ({"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "3"}, World(5, 8, 3, 4)),
        # horovodrun over mpirun sets both; Horovod's own count.
        (
            {
                "HOROVOD_RANK": "1",
                "HOROVOD_SIZE": "2",
                "OMPI_COMM_WORLD_RANK": "0",
                "OMPI_COMM_WORLD_SIZE": "1",
            },
            World(1, 2, 0, 1),
        ),
    ],
)
def test_detect_reads_each_launcher(environment, expected):
    assert World.detect(environment) == expected


def test_detect_reads_the_process_environment(monkeypatch):
    monkeypatch.setenv("HOROVOD_RANK", "1")
    monkeypatch.setenv("HOROVOD_SIZE", "3")
    monkeypatch.delenv("HOROVOD_LOCAL_RANK", raising=False)
    monkeypatch.delenv("HOROVOD_LOCAL_SIZE", raising=False)
    assert World.detect() == World(rank=1, size=3)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HOROVOD_RANK": "1_0", "HOROVOD_SIZE": "20"}, r"HOROVOD_RANK .* got '1_0'"),
        ({"HOROVOD_RANK": "one", "HOROVOD_SIZE": "2"}, r"HOROVOD_RANK .* got 'one'"),
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": ""}, r"HOROVOD_SIZE .* got ''"),
        (
            {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "?"},
            r"MPI_LOCALRANKID .* got '\?'",
        ),
    ],
)
def test_detect_names_the_variable_that_is_no_number(environment, message):
    with pytest.raises(ValueError, match=message):
        World.detect(environment)


def test_a_world_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError, match="rank"):
        World().rank = 1
