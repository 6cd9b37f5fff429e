"""What a run tells while it goes on, and what of that its report holds."""

import dataclasses
import math

from coordinator.protocol.messages import Assignment
from coordinator.protocol.operations import PrivacyReport, TaskState
from coordinator.protocol.plans import Plan
from coordinator.protocol.vocabulary import Kind
from device_sim import report
from device_sim.operator import Measured
from device_sim.progress import Present, Progress
from device_sim.simulated import SimulatedSwarm


class Account:
    """The rows of a run so far, and the line that says what happens now."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._present = Present(seconds=0.0)
        self.rows: list[report.RoundRow] = []
        self.delta: float | None = None  #: at which rows have an epsilon

    def show(
        self, *, seconds: float, updates: int, bytes_up: int, bytes_down: int
    ) -> None:
        """Show the present, this far on."""
        self._present = dataclasses.replace(
            self._present,
            seconds=seconds,
            updates=updates,
            bytes_up=bytes_up,
            bytes_down=bytes_down,
        )
        self.show_again()

    def show_again(self) -> None:
        """Show the present as it is: what the table keeps."""
        self._progress.present(self._present)

    def note_simulated(self, swarm: SimulatedSwarm, state: TaskState) -> None:
        """Write into the rows how long rounds took by the simulated clock."""
        swarm.tell(state)
        self.rows = [
            dataclasses.replace(row, simulated_s=swarm.seconds_of(row.round))
            for row in self.rows
        ]
        self._progress.note(
            f"on the trace's devices this takes {self.simulated_s():.1f} simulated "
            "seconds"
        )

    def note_privacy(self, privacy: PrivacyReport) -> None:
        """Say what the task gives away, and write it into the rows."""
        if privacy.epsilon is None or privacy.delta is None:
            return
        self.rows = list(report.with_epsilon(self.rows, privacy))
        self.delta = privacy.delta
        self._progress.note(
            f"epsilon {privacy.epsilon:.4g} at delta {privacy.delta:.3g} after "
            f"{len(privacy.releases)} releases, by {privacy.mechanism} noise; what "
            f"that means: python -m coordinator tasks privacy {privacy.task}"
        )

    def simulated_s(self) -> float:
        """Return how long the rounds took by the simulated clock."""
        return math.fsum(row.simulated_s or 0.0 for row in self.rows)

    def bytes_up_a_device(self) -> float | None:
        """Return the mean size of an update; none if there was none."""
        accepted = sum(row.accepted for row in self.rows)
        return sum(row.bytes_up for row in self.rows) / accepted if accepted else None

    def note_assignment(self, assignment: Assignment) -> None:
        """Show the newest round that a device was assigned to."""
        self._present = dataclasses.replace(
            self._present,
            round_number=assignment.round,
            attempt=assignment.attempt,
            phase="training",
        )

    def note_state(self, state: TaskState) -> None:
        """Show where the task is."""
        training = [r for r in state.open_rounds if r.kind is Kind.TRAIN]
        scoring = [r for r in state.open_rounds if r.kind is Kind.EVALUATE]
        present = dataclasses.replace(self._present, rounds=state.plan.rounds)
        if not state.open_rounds:
            present = dataclasses.replace(
                present, phase=state.status, assigned=0, reported=0, accepted=0, goal=0
            )
        for round_ in training[:1] or scoring[:1]:
            present = dataclasses.replace(
                present,
                round_number=round_.number,
                attempt=round_.attempt,
                phase=round_.phase if training else "federated evaluation",
                assigned=round_.assigned,
                reported=round_.reported,
                accepted=round_.accepted,
                goal=round_.goal,
            )
        self._present = present

    def note_measured(self, measured: Measured, plan: Plan) -> None:
        """Add the row of a committed round, and show it."""
        round_ = measured.round
        closed_at = round_.closed_at or round_.opened_at
        row = report.RoundRow(
            round=round_.number,
            attempt=round_.attempt,
            seconds=(closed_at - round_.opened_at).total_seconds(),
            accepted=round_.accepted,
            train_loss=round_.train_loss,
            train_accuracy=round_.train_accuracy,
            held_out_accuracy=measured.held_out.accuracy,
            bytes_up=round_.bytes_up,
            bytes_down=measured.bytes_down,
        )
        self.rows.append(row)
        self._progress.row(row, rounds=plan.rounds, goal=round_.goal)
