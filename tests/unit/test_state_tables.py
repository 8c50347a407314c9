import pytest

from ftfw.replication.state_tables import (
    BACKUP_TRANSITIONS,
    BackupEvent,
    BackupState,
    LocalProtocolError,
    next_state,
)


def test_a_transition_is_looked_up() -> None:
    found = next_state("backup", BACKUP_TRANSITIONS, BackupState.ASKING, BackupEvent.COMPARE)
    assert found is BackupState.COMPARING


def test_a_transition_that_there_is_not_names_role_state_and_event() -> None:
    with pytest.raises(LocalProtocolError, match="backup: 'equal' is not possible while 'filling'") as caught:
        next_state("backup", BACKUP_TRANSITIONS, BackupState.FILLING, BackupEvent.EQUAL)
    error = caught.value
    assert (error.role, error.state, error.event) == ("backup", BackupState.FILLING, BackupEvent.EQUAL)


@pytest.mark.parametrize("state", BackupState)
def test_a_backup_may_be_introduced_to_an_active_lose_frames_and_be_left_at_any_time(state: BackupState) -> None:
    for event in (BackupEvent.INTRODUCED, BackupEvent.LOSS, BackupEvent.GONE):
        assert (state, event) in BACKUP_TRANSITIONS
