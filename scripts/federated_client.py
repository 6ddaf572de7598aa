"""What an NVFLARE client runs: MONAI's federated client over a bundle; `scripts/federated_job.py` sends it there.

Each site needs the bundle and its own labelled scans; ``{site}`` in a path is replaced by the site's name. The folds of
the bundle hold back a part of the site's cases, on which the weights of each round are scored before they are trained.
"""

import argparse

import nvflare.client as flare
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject


def main() -> None:
    """Train and score in every round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True, help="folder of the site's own copy of the bundle")
    parser.add_argument("--dataset", required=True, help="folder of the site's labelled scans")
    parser.add_argument("--steps", type=int, default=50, help="iterations of a round")
    args = parser.parse_args()

    flare.init()
    site = flare.get_site_name()
    dataset = args.dataset.replace("{site}", site)
    own = {"schedule": "constant", "iterations_per_epoch": args.steps, "num_workers": 0}
    client = MonaiAlgo(
        bundle_root=args.bundle.replace("{site}", site),
        send_weight_diff=False,
        train_kwargs={"dataset_dir": dataset, **own},
        eval_kwargs={"dataset_dir": dataset},
    )
    client.initialize(extra={ExtraItems.CLIENT_NAME: site})
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        weights = ExchangeObject(weights={name: torch.as_tensor(value) for name, value in received.params.items()})
        scores = client.evaluate(weights, extra={}).metrics
        client.train(weights, extra={})
        print(f"{site}, round {received.current_round}: Dice {scores['val_mean_dice']:.4f} before it")
        flare.send(
            flare.FLModel(
                params=dict(client.get_weights().weights),
                params_type=flare.ParamsType.FULL,
                metrics={"val_mean_dice": float(scores["val_mean_dice"])},
                meta={"NUM_STEPS_CURRENT_ROUND": args.steps},
            )
        )
    client.finalize()


if __name__ == "__main__":
    main()
