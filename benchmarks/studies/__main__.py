"""Run the smoke protocol of every study: that its commands work; the figures mean nothing.

SURGERY_DATA=FOLDER python -m benchmarks.studies
"""

import subprocess
import sys
import tempfile

STUDIES = ("ap", "erase", "activations", "vit")

with tempfile.TemporaryDirectory() as folder:
    for name in STUDIES:
        command = [sys.executable, "-m", f"benchmarks.studies.{name}", "--protocol", "smoke", "--folder", folder]
        subprocess.run(command, check=True)
