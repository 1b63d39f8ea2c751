"""Run every benchmark once, as small as possible, to check that the commands work; the figures are discarded.

SURGERY_DATA=FOLDER python -m benchmarks
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
import time

STUDIES = (
    "ap",
    "erase",
    "activations",
    "vit",
    "vit_ap",
    "reproducibility",
    "learnability",
    "rectifiers",
    "xor",
    "pruners",
    "found",
)
SMALL = {
    **{f"studies.{name}": "--protocol smoke --at-once 2" for name in STUDIES},
    "studies.found": "--protocol smoke --arms relu 'mul(x, sigmoid(x))'",
    "erase_pretrained": "--images 256 --test-images 100 --epochs 1 --shares 0 1",
    "activations_pretrained": "--part same --images 256 --test-images 100",
    "imagenet_pretrained": "--images 16 --ranked-images 2",
    "prediction_difference": "--test-images 100",
    "finetune_speed": "--images 128 --batch-size 64 --rounds 1",
    "surgery_speed": "--processes 1 --pairs 2 --pixels 64",
    "activations_speed": "--shape 2 4 8 8 --rounds 1 --slow-rounds 1",
    "inference_speed": "--functions pwlu --pixels 32 --rounds 2 --repeats 1",
    "training_step": "--networks cifar/resnet20 --functions prelu --batch-size 4 --rounds 1",
    "deploy_speed": "--network resnet18 --functions prelu --pixels 32 --turns 1",
    "simplify_table": "--tolerances 0.2 --steps 1 --batch-size 8 --calibration-images 16 --test-images 100 --turns 1",
    "deploy_int8": "--functions relu6 pwlu --images 8 --calibrating 2 --turns 1",
    "deploy_cost": "--functions silu --images 64 --epochs 1 --calibrating 2 --test-images 100 --turns 1",
    "budget": "--study rankings --seeds 2 --calibration 50 --reported 100",
    "activation_search": "--functions 3 --epochs 1 --long-epochs 1 --best 1 --seeds 1",
    "recipes_measured": "--protocol smoke --work FOLDER/networks --arms convnext-swap-swish",
    "mask_overhead": "--device cpu --rounds 1 --steps 1 --side 64",
    "meter_overhead": "--rounds 1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SMALL), default=list(SMALL), metavar="NAME")
    for name in parser.parse_args().only:
        with tempfile.TemporaryDirectory() as folder:
            words = shlex.split(SMALL[name].replace("FOLDER", folder))
            command = [sys.executable, "-m", f"benchmarks.{name}", *words, "--results", folder]
            started = time.monotonic()
            ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            sys.exit(f"{shlex.join(command[1:])}\n{ended.stdout}{ended.stderr}")
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
