"""A PyTorch program of the model beside ccl: its denoising step, and how far its results in bf16 are off. `peer.py` runs it."""
import contextlib
import json
import pathlib
import re
import subprocess
import sys
import time

import report
from measuring import first_line

# Seconds that the step takes without being compiled, its weights made included.
EAGER = 40


def problem(stderr):
    """What a failed Python program says: its error, and its last lines, hints and paths left out."""
    lines = [re.sub(r"(?:/[\w.+-]+)+/", "", line.rstrip()) for line in stderr.splitlines()]
    lines = [line for line in lines if line.strip() and not line.startswith("Set TORCH")]
    found = [i for i, line in enumerate(lines) if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Unsupported|Interrupt)\b", line)]
    why = (lines or ["no result"])[found[-1] if found else -1]
    # torch.compile says below what it means.
    why += next((f" ({line.strip()})" for line in lines[found[-1]:] if line.strip().startswith("Explanation")), "") if found else ""
    return why[:500], lines[-15:]


def text_of(output):
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def command(a, compiled, steps, repeat):
    """The program's denoising step as a command."""
    size = ["--device", "cpu", "--preset", "bench"] if a.dry_run else [
        "--device", "cuda", "--preset", "wan14b-2layers", "--dtype", "bfloat16"]
    launcher = pathlib.Path(__file__).resolve().parent / "peer.py"
    return [sys.executable, "-B", str(launcher), str(a.peer), "--task", "joint", "--guidance", "two-pass", *size,
            "--steps", str(steps), "--repeat", str(repeat), *["--compile"] * compiled]


def step(a, until):
    """A step, by torch.compile if it can be: what the program printed, or why there is nothing, with `compiled` and what went wrong before."""
    failed = {}
    for compiled in [False] if a.dry_run else [True, False]:
        form = "torch.compile" if compiled else "eager"
        # Compiling must leave time for the other form.
        left = max(until - time.monotonic() - (EAGER if compiled else 0), 1)
        try:
            run = command(a, compiled, *([1, 1] if a.dry_run else [2, 3]))
            done = subprocess.run(run, capture_output=True, text=True, timeout=left)
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            if done.returncode == 0 and lines:
                found = json.loads(lines[-1]) | {"compiled": compiled, "failed": failed}
                print(f"  {'the step of the peer':<32} {form} {report.human(found['step_s'])}", flush=True)
                return found
            why, tail = problem(done.stderr)
        except subprocess.TimeoutExpired as e:
            why, tail = f"its {left:.0f} seconds were up", problem(text_of(e.stderr))[1]
        failed[form] = why
        print(f"  the peer's step failed ({form}): {why}", flush=True)
        for line in tail:
            print(f"    | {line[:200]}", flush=True)
    return {"step_s": None, "compiled": None, "failed": failed}


@contextlib.contextmanager
def compiling_step(a, until):
    """A step that runs meanwhile, only to fill PyTorch's cache of what it compiled. What is given waits for it, and returns why it failed."""
    run = command(a, not a.dry_run, 1, 1)
    started = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def wait():
        try:
            _, stderr = started.communicate(timeout=max(until - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            return "its time was up"
        return problem(stderr)[0] if started.returncode else None
    try:
        yield wait
    finally:
        # Nothing of it may run beside what is measured.
        started.kill()
        started.wait()


def errors(a, torch, found, failures):
    """How far the forward pass in bf16 is from the float64 results of the reference cases, relative L2, into `found`."""
    import peer as launcher
    from safetensors.torch import load_file
    peer, device = launcher.load(a.peer), "cpu" if a.dry_run else "cuda"
    # Times stay in f32, as in ccl: in bf16 a time of .35 is off by more than all that follows. Their features are rounded.
    placed = peer.ref.time_features
    peer.ref.time_features = lambda width, t: placed(width, t).to(torch.bfloat16)
    for folder in sorted(p for p in a.cases.iterdir() if (p / "config.json").exists()):
        try:
            cfg = peer.CclConfig.from_json(folder / "config.json")
            w, x, want = (load_file(folder / f"{n}.safetensors") for n in ("weights", "inputs", "expected"))
        except (TypeError, OSError):
            continue  # A form of the model that the peer does not have, or no whole case.
        if cfg.image_dim or "velocity.joint.video" not in want:
            continue
        try:
            found[folder.name] = case_error(torch, peer, cfg, w, x, want, device)
            print(f"  {folder.name:<32} {found[folder.name]:.2e}", flush=True)
        except Exception as e:  # noqa: BLE001: the other cases may run all the same
            failures.append(f"the peer's forward pass on {folder.name}")
            print(f"  {folder.name:<32} failed: {first_line(e)}", flush=True)


def case_error(torch, peer, cfg, w, x, want, device):
    """The largest error of the velocities of one case."""
    place = lambda t, name="": t.to(device, torch.bfloat16 if t.is_floating_point() and name != "t" else t.dtype)
    grid, worst = tuple(n // p for n, p in zip(x["video"].shape[2:], cfg.video.patch)), 0.0
    # What the peer makes without a device lies beside the rest.
    with torch.no_grad(), torch.device(device):
        model = peer.TorchCcl(cfg, {k: place(v) for k, v in w.items()}, grid, x["audio"].shape[2])
        x = {k: place(v, k) for k, v in x.items()}
        zero = torch.zeros_like(x["t"])
        for task, route in peer.ROUTES.items():
            got = model.forward(task, x["t"] if route.video else zero, x["t"] if route.audio else zero, x["video"], x["audio"], x["text"])
            for stream, value in zip(("video", "audio"), got):
                expected = want.get(f"velocity.{task}.{stream}")
                if value is not None and expected is not None:
                    worst = max(worst, peer.relative(value, expected))
    return worst
