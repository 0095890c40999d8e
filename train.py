"""`accelerate launch train.py --config recipes/demo.yaml`: the script is `serl_trl/train.py`."""

from serl_trl.train import run


if __name__ == "__main__":
    run()
