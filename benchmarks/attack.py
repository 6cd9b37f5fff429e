"""What an update gives away of a training image: ``python -m benchmarks.attack``.

A device trains ``cnn`` on one handwritten digit; an attacker who holds what the
coordinator holds reads the digit out of it (``inversion``). Printed as PSNR in dB
beside the mean of all images, which anybody could guess: above it, the attack knows
something of this very image. The pictures go side by side into a PNG.
"""

import pathlib
import secrets
import statistics
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import numpy as np
import typer
from matplotlib.figure import Figure

import tflite_models
from benchmarks import inversion
from benchmarks.inversion import Image
from coordinator.compute.private import PrivateFolder
from coordinator.domain.initialization import draw_weights
from coordinator.domain.privacy import PrivateFold, RoundKeys
from coordinator.protocol import deltas, digests, encodings
from coordinator.protocol.he import bfv
from coordinator.protocol.he import parameters as parameters_he
from coordinator.protocol.keystream import KEY_BYTES
from coordinator.protocol.manifest import Manifest, Vector
from coordinator.protocol.plan_training import TrainingPlan
from coordinator.protocol.secagg import cohort, parameters, stages, summands
from coordinator.protocol.secagg import device as secagg
from coordinator.protocol.secagg.messages import Session
from coordinator.protocol.secagg.scrutiny import Policy
from coordinator.protocol.secagg.summands import Encoding
from device_sim.data import sample
from device_sim.trainer import Model, Trainer

_MODEL: Final = pathlib.Path(tflite_models.__file__).parent / "artefacts" / "cnn"
_COHORT: Final = 50  # whose updates are summed
_MASKED_WITH: Final = 5  # devices of a cohort, the fewest
_BITS: Final = 23  # as cohorts of 200 have
_SESSION: Final = Session(
    id="0" * 32,
    task="attack",
    round=1,
    attempt=1,
    model_sha256="0" * 64,
    plan_sha256="0" * 64,
)
_PLAN: Final = TrainingPlan(learning_rate=0.1, batch_size=1, epochs=1)


def main(
    *,
    victims: Annotated[int, typer.Option(min=1, help="Devices attacked.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Chooses their digits.")] = 0,
    out: Annotated[
        pathlib.Path, typer.Option(help="Where the pictures go.")
    ] = pathlib.Path("attack.png"),
) -> None:
    """Attack single devices through everything that a coordinator may hold."""
    devices = Victims(seed)
    others = range(victims, victims + _COHORT - 1)
    whole = devices.sum_of(others)
    pictures: list[dict[str, Image]] = []
    for device in range(victims):
        views = {
            "one update, f32": devices.seen_as(device, "f32"),
            "one update, q8": devices.seen_as(device, "q8"),
            "one update, topk 10 %": devices.seen_as(device, "topk"),
            "one update, masked": devices.seen_masked(device),
            "one update, encrypted": devices.seen_encrypted(device),
            f"sum of {_COHORT}": whole + devices.update(device).delta,
            f"noisy sum of {_COHORT}": devices.noisy_sum_of([device, *others]),
        }
        pictures.append(
            {"the digit": devices.image(device), "mean of all": devices.mean_image()}
            | {
                name: inversion.reconstruct(devices.manifest, devices.weights, view)
                for name, view in views.items()
            }
        )
    width = max(map(len, pictures[0]))
    for name in pictures[0]:
        if name == "the digit":
            continue
        scores = [inversion.psnr(each[name], each["the digit"]) for each in pictures]
        print(f"{name:{width}}  {' '.join(f'{score:6.1f}' for score in scores)} dB")
    _draw(pictures, out)
    print(f"pictures in {out}")


class Victims:
    """Devices that each hold one digit."""

    def __init__(self, seed: int) -> None:
        graph = (_MODEL / "train.tflite").read_bytes()
        self.manifest = Manifest.model_validate_json(
            (_MODEL / "manifest.json").read_bytes()
        )
        self.weights = draw_weights(self.manifest, 0)
        model = Model(
            manifest=self.manifest, graph=graph, sha256=digests.sha256_hex(graph)
        )
        self._trainer = Trainer(model)
        images, self._labels = sample.read(sample.find())
        self._images = images.reshape(-1, 28, 28) / 255.0
        self._order = np.random.default_rng(seed).permutation(len(images))

    def image(self, device: int) -> Image:
        """Return the digit that a device holds."""
        image: Image = self._images[self._order[device]]
        return image

    def mean_image(self) -> Image:
        """Return what anybody could guess."""
        image: Image = self._images.mean(axis=0)
        return image

    def update(self, device: int) -> encodings.Update:
        """Let a device train on its digit."""
        index = self._order[device]
        return self._trainer.fit(
            self._images[index][None, ..., None].astype(np.float32),
            self._labels[index][None].astype(np.int32),
            weights=self.weights,
            plan=_PLAN,
            rng=np.random.default_rng(device),
        )

    def seen_as(self, device: int, encoding: deltas.EncodingName) -> Vector:
        """Return a device's delta as it comes out of an update's body."""
        body = encodings.encode_update(
            self.manifest,
            self.update(device),
            encoding=encoding,
            topk_share=0.1,
            rng=np.random.default_rng(device),
        )
        return encodings.read_delta(self.manifest, body)

    def seen_masked(self, device: int) -> Vector:
        """Return what comes in of a device in a cohort of secure aggregation.

        Read as if it was not masked: as whole numbers of the clip norm's unit.
        """
        update = self.update(device)
        encoding = _encoding(update)
        states = [
            secagg.join(_SESSION, secrets.token_hex(16), None)
            for _ in range(_MASKED_WITH)
        ]
        formed = cohort.form(
            secrets.token_hex(16),
            _SESSION,
            [
                cohort.admit(_SESSION, state.device, None, state.announcement)
                for state in states
            ],
            parameters=parameters.choose(_MASKED_WITH, dropout=0.0, collusion=0.05),
            encoding=encoding,
            minimum=_MASKED_WITH,
        )
        dealings = {}
        for place, state in enumerate(states):
            index = formed.indices[state.device]
            states[place], dealing = secagg.deal(state, formed.roster(index), Policy())
            dealings[index] = dealing.packed()
        victim = formed.indices[states[0].device]
        inbox = stages.inbox(formed, dealings.keys(), dealings, victim)
        vector = summands.encode(
            update.delta, update, encoding, key=secrets.token_bytes(KEY_BYTES)
        )
        _, body = secagg.mask(states[0], inbox, vector)
        masked = np.frombuffer(body, "<i4")[: encoding.size]
        return (masked * (encoding.clip_norm / (1 << _BITS))).astype(np.float32)

    def seen_encrypted(self, device: int) -> Vector:
        """Return what comes in of a device that encrypts, read as if it did not."""
        update = self.update(device)
        encoding = _encoding(update)
        vector = summands.encode(
            update.delta, update, encoding, key=secrets.token_bytes(KEY_BYTES)
        )
        _, public_key = bfv.generate()
        body = bfv.encrypt(public_key, parameters_he.to_residues(vector))
        read = np.frombuffer(body, "<i4", count=encoding.size)
        return (read * (encoding.clip_norm / (1 << _BITS))).astype(np.float32)

    def sum_of(self, devices: Iterable[int]) -> Vector:
        """Return the sum of the deltas of many."""
        total: Vector = sum(
            (self.update(device).delta for device in devices),
            start=np.zeros(self.manifest.trainable_size, np.float32),
        )
        return total

    def noisy_sum_of(self, devices: Iterable[int]) -> Vector:
        """Return what differential privacy with noise multiplier 1 makes of it."""
        updates = [(1.0, self.update(device).delta) for device in devices]
        lengths = [float(np.linalg.norm(delta)) for _, delta in updates]
        settings = PrivateFold(
            clip_norm=statistics.median(lengths),
            noise_multiplier=1.0,
            denominator=1,
            keys=RoundKeys(secrets.token_bytes(KEY_BYTES), 1),
        )
        folded = PrivateFolder().fold(
            updates,
            settings,
            size=self.manifest.trainable_size,
            clip_norm=None,
            on_progress=lambda _: None,
        )
        return folded.mean.astype(np.float32)


def _encoding(update: encodings.Update) -> Encoding:
    """Return how a device lays out an update that goes into a sum."""
    return Encoding(
        size=update.delta.size,
        clip_norm=float(np.linalg.norm(update.delta)),
        bits=_BITS,
        max_devices=_MASKED_WITH,
        weighting="uniform",
        max_examples=1,
    )


def _draw(pictures: Sequence[dict[str, Image]], out: pathlib.Path) -> None:
    names = list(pictures[0])
    figure = Figure(
        figsize=(1.6 * len(names), 1.8 * len(pictures)), layout="constrained"
    )
    axes = figure.subplots(len(pictures), len(names), squeeze=False)
    for row, views in zip(axes, pictures, strict=True):
        for axis, name in zip(row, names, strict=True):
            axis.imshow(views[name], cmap="gray_r", vmin=0, vmax=1)
            axis.set_axis_off()
            score = inversion.psnr(views[name], views["the digit"])
            axis.set_title(f"{name}\n{score:.1f} dB", fontsize=8)
    figure.savefig(out, dpi=130)


if __name__ == "__main__":
    typer.run(main)
