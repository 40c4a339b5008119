#!/usr/bin/env python3
"""Measures the cases of `ccl bench kernels --set paper` in PyTorch, and sets both side by side.

    ccl bench kernels --backend cuda -o ours.json
    python3 benches/gpu/compare.py --ccl ours.json -o theirs.json --svg ratios.svg

Needs PyTorch with CUDA. Times are medians by CUDA events, warm, with inputs rotated through copies that are together larger than the
second-level cache; where it can be done runs are replayed as a CUDA graph, so that launching costs PyTorch nothing. Several ways to compute a
case are tried and the fastest counts. `--theirs F.json` takes times measured before: that needs no PyTorch. `--dry-run` takes tiny
sizes on the processor, to try this program.

`--step` also times a denoising step (joint, two-pass, 14B with 2 layers) of a PyTorch program of the model, `--peer FILE`, whose `main` takes --preset,
--task, --guidance, --steps, --repeat, --device, --dtype and --compile and prints a JSON line with `step_s`. It is run with torch.compile, and without where
that fails. `--cases DIR` runs its forward pass in bf16 on reference cases and says how far it is off. `--ccl-step F.json` is what `ccl bench step --json`
printed for the same step, `--ccl-errors F.json` has the errors of the same cases in ccl, by their names.

What fails loses nothing else: files are written with what there is, and the exit code is 1.
"""
import argparse
import json
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import report  # noqa: E402


def fail(text, code=1):
    print(f"error: {text}", file=sys.stderr)
    sys.exit(code)


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ccl", type=pathlib.Path, metavar="F.json", help="what `ccl bench kernels -o F.json` wrote, to compare with")
    p.add_argument("--theirs", type=pathlib.Path, metavar="F.json", help="take PyTorch's times from this file instead of measuring")
    p.add_argument("-o", "--output", type=pathlib.Path, metavar="F.json", help="file for PyTorch's times and the comparison")
    p.add_argument("--svg", type=pathlib.Path, metavar="F.svg", help="file for a picture of the ratios")
    p.add_argument("--filter", default="", metavar="X", help="only cases with this in their id")
    p.add_argument("--dtype", choices=("bf16", "f16"), default="bf16")
    p.add_argument("--time", type=float, default=200, metavar="MS", help="milliseconds to measure each form for [200]")
    p.add_argument("--budget", type=float, default=1e9, metavar="S", help="start no case after this many seconds")
    p.add_argument("--limit", type=float, default=1e5, metavar="S", help="be done after this many seconds, the peer's step included")
    p.add_argument("--step", action="store_true", help="time a denoising step of the peer too")
    p.add_argument("--peer", type=pathlib.Path, metavar="FILE", help="PyTorch program of the model, for --step and --cases")
    p.add_argument("--ccl-step", type=pathlib.Path, metavar="F.json", help="what `ccl bench step --json` printed, to compare with")
    p.add_argument("--cases", type=pathlib.Path, metavar="DIR", help="reference cases to run the peer's forward pass on in bf16")
    p.add_argument("--ccl-errors", type=pathlib.Path, metavar="F.json", help="ccl's errors in bf16 on the same cases, to compare with")
    p.add_argument("--dry-run", action="store_true", help="tiny sizes, on the processor, nothing compiled")
    a = p.parse_args()
    if (a.step or a.cases) and not a.peer:
        p.error("--step and --cases need --peer FILE, a PyTorch program of the model")
    return a


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as e:
        fail(f"{path}: is no JSON file that can be read: {str(e).splitlines()[0]}")


def first_line(e):
    return next((line for line in str(e).splitlines() if line.strip()), type(e).__name__)


class Device:
    """Where PyTorch runs, and its clock."""

    def __init__(self, torch, dry):
        self.torch, self.cuda = torch, not dry
        self.name = torch.cuda.get_device_name() if self.cuda else "the processor"
        cache = torch.cuda.get_device_properties(0).L2_cache_size if self.cuda else 0
        self.rotate = 2 * cache if self.cuda else 1 << 14

    def copies(self, read):
        most = 256
        if self.cuda:
            most = min(most, int(self.torch.cuda.mem_get_info()[0] * 0.4) // max(read, 1))
        return max(1, min(-(-self.rotate // max(read, 1)), most))

    def runs(self, run, milliseconds):
        """Seconds of each of several runs."""
        if not self.cuda:
            times = []
            for _ in range(3):
                begin = time.perf_counter()
                run()
                times.append(time.perf_counter() - begin)
            return times
        event = lambda: self.torch.cuda.Event(enable_timing=True)

        def timed():
            begin, end = event(), event()
            begin.record()
            run()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1e3
        first = timed()
        count = int(min(max(milliseconds / 1e3 / max(first, 1e-7), 5), 1000))
        return [timed() for _ in range(count)]

    def captured(self, run):
        """The runs as a CUDA graph, or as they are where they cannot be captured."""
        if not self.cuda:
            return run
        try:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                run()
            graph.replay()
            self.torch.cuda.synchronize()
            return graph.replay
        except RuntimeError:
            self.torch.cuda.synchronize()
            return run


def agree(first, got, name):
    """Takes the first form's result, and refuses others that are not the same but for rounding."""
    got = got[0] if isinstance(got, tuple) else got
    if got is None or first is None:
        return got
    off = ((got.double() - first.double()).norm() / first.double().norm()).item()
    if not off < 3e-2:
        raise ValueError(f"{name} computes something else: relative L2 {off:.1e}")
    return first


def measure(case, device, milliseconds):
    """Seconds of each form of a case; what does not run here is left out, with the reason."""
    torch = device.torch
    sets = [case.make() for _ in range(device.copies(case.read))]
    times, ranges, refused, first = {}, {}, {}, None
    for name, form in case.forms.items():
        def run():
            for inputs in sets:
                form(*inputs)
        try:
            first = agree(first, form(*sets[0]), name)
            for _ in range(2):
                run()
            measured = device.captured(run) if case.graph else run
            seconds = [s / len(sets) for s in device.runs(measured, milliseconds)]
            times[name], ranges[name] = statistics.median(seconds), [min(seconds), max(seconds)]
        except Exception as e:  # noqa: BLE001: a form that this PyTorch lacks is no failure of the comparison
            refused[name] = first_line(e)
    del sets
    if device.cuda:
        torch.cuda.empty_cache()
    best = min(times, key=times.get) if times else None
    return {"id": case.id, "best": best, "best_s": times.get(best), "forms": times, "range_s": ranges, "refused": refused}


def kernels(a, torch, theirs, failures):
    """Measures every case into `theirs`."""
    import torch_cases
    device = Device(torch, a.dry_run)
    sizes = torch_cases.TINY if a.dry_run else torch_cases.PAPER
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[a.dtype]
    begin, lines, skipped = time.monotonic(), [], []
    theirs |= {"torch": torch.__version__, "device": device.name, "dtype": a.dtype, "dry_run": a.dry_run, "rotate_bytes": device.rotate,
               "time_ms": a.time, "kernels": lines}
    with torch.no_grad():
        makers = [torch_cases.Maker(sizes, s, dtype, "cuda" if device.cuda else "cpu", device.cuda) for s in ("video", "audio")]
        for make in [m for pair in zip(*(maker.cases() for maker in makers)) for m in pair]:
            name = f"{make.__self__.stream}.{make.__name__}"
            if time.monotonic() - begin > a.budget:
                skipped.append(name)
                continue
            try:
                case = make()
                if a.filter not in case.id:
                    continue
                with torch.enable_grad() if case.id.endswith("gradient") else torch.no_grad():
                    line = measure(case, device, a.time)
            except Exception as e:  # noqa: BLE001: the other cases may run all the same
                failures.append(name)
                print(f"  {name:<32} failed: {first_line(e)}", flush=True)
                continue
            lines.append(line | {"flops": torch_cases.flops(case.id, sizes)})
            forms = ", ".join(f"{k} {report.human(v)}" for k, v in line["forms"].items()) or "nothing runs"
            print(f"  {case.id:<32} {forms}", flush=True)
            for name, why in line["refused"].items():
                print(f"  {'':<32} {name} does not run: {why[:100]}", flush=True)
    if skipped:
        print(f"  not measured, the time was up: {' '.join(skipped)}")


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


def peer_step(a, until):
    """A step of the peer, by torch.compile if it can be: what it printed, or why there is nothing, with `compiled` and what went wrong before."""
    device = "cpu" if a.dry_run else "cuda"
    size = ["--preset", "bench", "--steps", "1", "--repeat", "1"] if a.dry_run else [
        "--preset", "wan14b-2layers", "--dtype", "bfloat16", "--steps", "2", "--repeat", "3"]
    launcher = pathlib.Path(__file__).resolve().parent / "peer.py"
    command = [sys.executable, "-B", str(launcher), str(a.peer), "--device", device, "--task", "joint", "--guidance", "two-pass", *size]
    failed = {}
    for compiled in [False] if a.dry_run else [True, False]:
        form = "torch.compile" if compiled else "eager"
        # Compiling must leave time for the other form.
        left = max(until - time.monotonic() - (40 if compiled else 0), 1)
        try:
            done = subprocess.run(command + ["--compile"] * compiled, capture_output=True, text=True, timeout=left)
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            if done.returncode == 0 and lines:
                step = json.loads(lines[-1]) | {"compiled": compiled, "failed": failed}
                print(f"  {'the step of the peer':<32} {form} {report.human(step['step_s'])}", flush=True)
                return step
            why, tail = problem(done.stderr)
        except subprocess.TimeoutExpired as e:
            why, tail = f"its {left:.0f} seconds were up", problem(text_of(e.stderr))[1]
        failed[form] = why
        print(f"  the peer's step failed ({form}): {why}", flush=True)
        for line in tail:
            print(f"    | {line[:200]}", flush=True)
    return {"step_s": None, "compiled": None, "failed": failed}


def peer_errors(a, torch, errors, failures):
    """How far PyTorch's forward pass in bf16 is from the float64 results of the reference cases, relative L2, into `errors`."""
    import peer as program
    from safetensors.torch import load_file
    peer, device = program.load(a.peer), "cpu" if a.dry_run else "cuda"
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
            errors[folder.name] = case_error(torch, peer, cfg, w, x, want, device)
            print(f"  {folder.name:<32} {errors[folder.name]:.2e}", flush=True)
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


def measured(a, theirs, failures):
    """Measures all parts into `theirs`; what does not work goes to `failures`."""
    until = time.monotonic() + a.limit
    try:
        import torch
    except ImportError:
        fail("PyTorch is not installed for this Python, so that there is nothing to compare with", 3)
    if not a.dry_run and not torch.cuda.is_available():
        fail(f"PyTorch {torch.__version__} finds no CUDA device; --dry-run tries this program without one", 3)
    if a.dry_run:
        torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, {Device(torch, a.dry_run).name}, {a.dtype}", flush=True)

    def part(name, run):
        try:
            run()
        except Exception as e:  # noqa: BLE001: the other parts may work all the same
            failures.append(name)
            print(f"  {name} failed: {type(e).__name__}: {first_line(e)}", flush=True)
    part("the kernels", lambda: kernels(a, torch, theirs, failures))
    if a.cases:
        print("the peer's forward pass in bf16, relative L2 from the float64 results:", flush=True)
        errors = theirs["errors"] = {}
        part("the peer's forward pass", lambda: peer_errors(a, torch, errors, failures))
    if a.step:
        # Last, since compiling takes long.
        part("the peer's step", lambda: theirs.update(step=peer_step(a, until)))
        failures += [f"the peer's step ({form})" for form in (theirs.get("step") or {}).get("failed", {})]


class TimeIsUp(BaseException):
    """Someone wants this program to end."""


def main():
    a = options()
    ours, our_step, our_errors = (read_json(path) if path else None for path in (a.ccl, a.ccl_step, a.ccl_errors))
    theirs, failures = {}, []
    if a.theirs:
        theirs = read_json(a.theirs)
    else:
        def up(*_):
            raise TimeIsUp
        signal.signal(signal.SIGTERM, up)
        try:
            measured(a, theirs, failures)
        except TimeIsUp:
            failures.append("the rest, the time being up")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    result = report.compare(ours, theirs, our_step, our_errors)
    if a.output:
        a.output.write_text(json.dumps(theirs | {"failed": failures or theirs.get("failed", []), "comparison": result}, indent=2) + "\n")
    if a.svg:
        a.svg.write_text(report.svg(result))
    print(report.text(result), flush=True)
    if failures:
        fail(f"not everything was compared; failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
