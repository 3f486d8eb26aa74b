"""Train a masked binary U-Net: python -m experiments.train --dataset nuclei --data-dir DIR."""

import os

# XLA's and TensorStore's start-up notices are of no use to the person who trains.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax

from experiments import command
from mbu_jax.errors import InputError
from mbu_jax.train.config import PRESETS, ClusterOptions, TrainConfig


def main() -> None:
    """Parse the command line, train, pack the result, and say where everything is."""
    config = command.parse(TrainConfig, PRESETS)
    _join(config.cluster)
    # Late: importing the loop starts JAX's devices, which must come after joining the cluster.
    from experiments.packed import pack_run
    from mbu_jax.train.loop import Trainer

    trainer = Trainer(config)
    scores = trainer.fit()
    packed = pack_run(
        trainer.run, trainer.validation_images, config.eval_batch_size, config.data.image_size
    )
    if trainer.leads:
        for name, definition in scores["definitions"].items():
            print(f"{name}: {definition}")
        print(
            f"best checkpoint: Dice {scores['dice']:.4f}  IoU {scores['iou']:.4f}  "
            f"F1 {scores['f1']:.4f}  pooled IoU {scores['pooled_iou']:.4f}  "
            f"on {scores['images']} validation images"
        )
        print(packed)
        print(f"run directory: {trainer.run.path}")


def _join(cluster: ClusterOptions) -> None:
    if cluster.coordinator is None:
        return
    if cluster.process_index == 0:
        # JAX would end the program without a word that helps.
        command.check_port(int(cluster.coordinator.rpartition(":")[2]), option="--coordinator")
    try:
        jax.distributed.initialize(
            cluster.coordinator, cluster.process_count, cluster.process_index
        )
    except RuntimeError as error:
        raise InputError(
            f"--coordinator {cluster.coordinator} cannot be met ({error}); give HOST:PORT of "
            "process 0, which every process reaches"
        ) from error


if __name__ == "__main__":
    command.run(main)
