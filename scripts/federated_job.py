"""Train a bundle by federated averaging with NVFLARE, in its simulator; or export the job for a real deployment.

    python scripts/federated_job.py BUNDLE DATASETS --sites site-1 site-2 --rounds 10 --work runs/federated
    python scripts/federated_job.py BUNDLE DATASETS --sites site-1 site-2 --export --export-dir job

DATASETS has a folder of labelled scans for each site, of the site's name. Needs nvflare (the extra `fl`).
"""

import argparse
import json
import shutil
from pathlib import Path

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

CLIENT = Path(__file__).with_name("federated_client.py")


def main() -> None:
    """Copy the bundle for each site, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("datasets", type=Path)
    parser.add_argument("--sites", nargs="+", default=["site-1", "site-2"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=50, help="iterations of a round")
    parser.add_argument("--work", type=Path, default=Path("runs/federated"), help="folder for what the sites write")
    args, _ = parser.parse_known_args()  # the recipe reads --export and --export-dir itself

    work = args.work.absolute()
    for site in args.sites:
        left_out = shutil.ignore_patterns("runs", "eval", "model.pt", "model.json")
        shutil.copytree(args.bundle, work / site / "bundle", ignore=left_out, dirs_exist_ok=True)
    definition = json.loads((args.bundle / "configs" / "train.json").read_text(encoding="utf-8"))["network_def"]
    network = {"class_path": definition.pop("_target_"), "args": definition}
    places = {"--bundle": work / "{site}" / "bundle", "--dataset": args.datasets.absolute() / "{site}"}
    recipe = FedAvgRecipe(
        name="unet_bundle",
        model=network,
        min_clients=len(args.sites),
        num_rounds=args.rounds,
        train_script=str(CLIENT),
        train_args=" ".join(f"{name} {value}" for name, value in {**places, "--steps": args.steps}.items()),
        launch_external_process=True,  # each its own process: two trainings in one would share random numbers
        key_metric="val_mean_dice",
    )
    run = recipe.execute(SimEnv(clients=args.sites, workspace_root=str(work / "simulator")))
    print(f"The global model: {run.get_result()}")


if __name__ == "__main__":
    main()
