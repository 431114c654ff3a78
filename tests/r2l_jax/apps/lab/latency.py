"""Measures the time from a slider's move to the new picture in Chromium, as a program.

python tests/r2l_jax/apps/lab/latency.py [flags of lab.py]

Serves a mosaic of 512x512 with the pipeline that the page begins with, moves sliders one after another, and prints the
distribution of the times: while a slider is held (drafts at half size), and when it is released (whole pictures).
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from playwright.sync_api import sync_playwright

LAB = pathlib.Path(__file__).parents[4] / "scripts" / "lab.py"
MOVES = 100

MOVE = """async ([name, position, kind]) => {
  const picture = document.querySelector(".lab-now"), slider = document.getElementById("knob-" + name);
  const before = picture.src, start = performance.now();
  slider.value = position;
  slider.dispatchEvent(new Event(kind));
  while (picture.src === before) await new Promise(requestAnimationFrame);
  await picture.decode();
  return performance.now() - start;
}"""


def scene(side=512):
    """Smooth color with edges and noise, between the black level and white."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:side, :side] / side
    light = 0.3 + 0.2 * np.sin(9 * rows) * np.cos(7 * cols) + 0.1 * ((rows * 8).astype(int) % 2)
    return np.clip(light + 0.02 * rng.normal(size=light.shape), 0, 1).astype(np.float32)


def measure(page, kind):
    """Times of moves in milliseconds."""
    names = ["white_balance.red", "gamma_correct", "white_balance", "sharpening_filter"]
    times = []
    for number in range(MOVES):
        times.append(page.evaluate(MOVE, [names[number % 4], 0.6 * np.sin(number + 1), kind]))
        page.wait_for_timeout(60)
    return times


def main():
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "frame.npy"
        np.save(file, scene())
        command = [sys.executable, str(LAB), f"--input={file}", "--camera=drone", "--port=0", *sys.argv[1:]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as driver:
            address = None
            while address is None:
                address = re.match(r"(http://\S+)", server.stdout.readline())
            path = shutil.which("chromium")
            page = driver.chromium.launch(executable_path=path, args=["--no-sandbox"]).new_page()
            page.goto(address[1])
            page.wait_for_selector(".lab-now", timeout=300_000)
            page.wait_for_selector(".lab-busy:not(.working)", timeout=300_000)
            page.wait_for_timeout(1000)
            for kind, words in (("input", "held"), ("change", "released")):
                times = measure(page, kind)
                marks = "  ".join(f"{p}% {np.percentile(times, p):.0f}" for p in (0, 25, 50, 75, 90, 95, 99, 100))
                print(f"{words:>8}, ms of {MOVES} moves: {marks}")
            load = os.getloadavg()[0]
            print(f"load average {load:.1f} on {os.cpu_count()} cores")
            server.terminate()


if __name__ == "__main__":
    main()
