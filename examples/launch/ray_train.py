"""Train in the workers of a Ray cluster: `zerosearch train`, once a worker.

    pip install "ray[train]" "zs-env[train]"
    python examples/launch/ray_train.py --num-workers 2 -- --engine world --out /shared/run
    python examples/launch/ray_train.py --num-workers 8 --gpu -- --device cuda --out /shared/run

Options behind `--` are those of `zerosearch train`. The folders of `--out`, of `--policy` and of
corpora have to be seen by all workers. Without a cluster (`ray start`, RAY_ADDRESS) Ray makes one
of this machine.
"""

import argparse
from typing import Any

from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer


def train(config: dict[str, Any]) -> None:
    """Train in one worker, whose rank and peers Ray has put into the environment.

    Raises:
        RuntimeError: If training failed; its own message is in the worker's output.
    """
    from agents.cli.main import main

    code = main(["train", *config["options"]])
    if code:
        raise RuntimeError(f"`zerosearch train` ended with exit code {code}")


def main() -> None:
    """Start the workers and wait for them."""
    parser = argparse.ArgumentParser(description="Train in the workers of a Ray cluster.")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--gpu", action="store_true", help="give every worker a GPU")
    parser.add_argument("options", nargs="*", help="of `zerosearch train`, behind --")
    given = parser.parse_args()
    TorchTrainer(
        train,
        train_loop_config={"options": given.options},
        scaling_config=ScalingConfig(num_workers=given.num_workers, use_gpu=given.gpu),
    ).fit()


if __name__ == "__main__":
    main()
