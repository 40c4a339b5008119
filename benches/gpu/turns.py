"""Cases near their bounds once more, ccl and PyTorch in turns: how fast a GPU is depends on what it has just done, and two blocks of measuring
minutes apart differ by more than what is asked about."""
import json
import math
import pathlib
import statistics
import subprocess
import tempfile
import time

import report
from measuring import measure

ROUNDS = 3
# How far from its bound a ratio may be, relative to it, and still be near.
NEAR = 0.2
# Seconds that a round takes for each case, both sides: with it a round is not started that would not be done in time.
EACH = 1.5


def near(bounds, most=NEAR):
    """The id and the form of PyTorch of what is near its bound, the nearest first, but for what is no kernel."""
    cases = [(abs(c["ratio"] / b["most"] - 1), c["id"], c["form"]) for b in bounds for c in b["cases"]]
    return [(name, form) for off, name, form in sorted(cases) if off <= most and name.startswith(("video.", "audio."))]


def ours(a, ids):
    """Seconds of cases in ccl."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "kernels.json"
        only = [word for i in ids for word in ("--only", i)]
        run = [str(a.turns), "bench", "kernels", *a.turns_options.split(), "--time", str(round(a.time)), *only, "-o", str(out)]
        done = subprocess.run(run, capture_output=True, text=True)
        if done.returncode:
            # What ran before is in the file.
            print(f"  {(done.stderr.strip().splitlines() or ['ccl failed'])[-1]}", flush=True)
        if not out.exists():
            return {}
        return {k["id"]: k["seconds"] for k in json.loads(out.read_text())["kernels"]}


def measured(a, device, cases, bounds, until):
    """Medians of the rounds: `{id: {form, ours_s, theirs_s, rounds}}`. `cases` has PyTorch's by their ids."""
    # A dry run is to go through all of this, whatever its times are.
    wanted = [(name, form) for name, form in near(bounds, math.inf if a.dry_run else NEAR) if name in cases]
    room = max(int((until - time.monotonic()) / EACH / ROUNDS), 0)
    if wanted[room:]:
        print(f"  not in turns, there is no time for it: {' '.join(name for name, _ in wanted[room:])}", flush=True)
    times = {name: {"form": form, "ours": [], "theirs": []} for name, form in wanted[:room]}
    for turn in range(ROUNDS if times else 0):
        if time.monotonic() + EACH * len(times) > until:
            print(f"  the time was up after {turn} of {ROUNDS} turns", flush=True)
            break
        found = ours(a, list(times))
        for name, t in times.items():
            seconds = measure(cases[name], device, a.time, t["form"])["forms"].get(t["form"])
            # Both, or neither.
            if name in found and seconds is not None:
                t["ours"].append(found[name])
                t["theirs"].append(seconds)
    for name, t in times.items():
        pairs = ", ".join(f"{report.human(x)} and {report.human(y)}" for x, y in zip(t["ours"], t["theirs"]))
        print(f"  {name:<32} ccl and {t['form']}: {pairs}", flush=True)
    return {name: {"form": t["form"], "ours_s": statistics.median(t["ours"]), "theirs_s": statistics.median(t["theirs"]), "rounds": t}
            for name, t in times.items() if t["ours"] and t["theirs"]}
